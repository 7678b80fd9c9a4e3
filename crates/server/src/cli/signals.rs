//! What the system asks of a process. SIGTERM and SIGINT ask for an orderly end: what is under way
//! is saved. So does SIGHUP, which a terminal sends that is closed; to a server without a terminal
//! it says that its files are to be read anew. A second one ends at once.

use std::{io, process};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The code of a process that a signal has ended.
pub(super) const INTERRUPTED: u8 = 130;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Stop,
    HangUp,
}

/// Signals from now on: none is lost between two looks.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    streams: [(tokio::signal::unix::Signal, Asked); 3],
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            streams: [
                (signal(SignalKind::terminate())?, Asked::Stop),
                (signal(SignalKind::interrupt())?, Asked::Stop),
                (signal(SignalKind::hangup())?, Asked::HangUp),
            ],
        })
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) -> Asked {
        let [terminate, interrupt, hang_up] = &mut self.streams;
        tokio::select! {
            _ = terminate.0.recv() => terminate.1,
            _ = interrupt.0.recv() => interrupt.1,
            _ = hang_up.0.recv() => hang_up.1,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> Asked {
        let _ = tokio::signal::ctrl_c().await;
        Asked::Stop
    }

    /// The next signal, whatever it is: for a command.
    pub(super) async fn any(&mut self) {
        self.next().await;
    }
}

/// A server's signals.
#[derive(Debug)]
pub(crate) struct ServerSignals {
    /// Cancelled at the first that asks for the end; the second ends the process.
    pub(crate) stop: CancellationToken,
    /// Something for each that asks for a reload.
    pub(crate) reload: mpsc::Receiver<()>,
}

/// Listens for a server.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process, so there is nothing to drain"
)]
pub(super) fn for_server() -> io::Result<ServerSignals> {
    let mut signals = Signals::listen()?;
    // From a terminal: that it is closed is the end. Else nobody could have closed anything.
    let at_terminal = io::IsTerminal::is_terminal(&io::stdin());
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    // One that waits is enough: what is read is what is there then.
    let (ask, reload) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            match signals.next().await {
                Asked::HangUp if !at_terminal => {
                    let _ = ask.try_send(());
                }
                _ if stopping.is_cancelled() => {
                    eprintln!("stopped at once");
                    process::exit(INTERRUPTED.into());
                }
                _ => {
                    tracing::info!(
                        "stopping: requests and refreshes under way may finish; a second signal ends at once"
                    );
                    stopping.cancel();
                }
            }
        }
    });
    Ok(ServerSignals { stop, reload })
}
