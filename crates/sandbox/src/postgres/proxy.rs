//! A wire to the database that can be cut.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// A TCP address that leads to a database's socket, as long as nobody cuts it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
    _ends: DropGuard,
}

#[derive(Debug)]
struct Wire {
    socket: PathBuf,
    /// Ends the connections of now.
    cut: Mutex<CancellationToken>,
    state: watch::Sender<State>,
}

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Connections are refused.
    Closed,
    /// They go nowhere, and nobody is told.
    Hole,
}

impl Proxy {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn start(socket: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire {
            socket: socket.to_owned(),
            cut: Mutex::default(),
            state: watch::Sender::new(State::Open),
        });
        let ends = CancellationToken::new();
        let tasks = TaskTracker::new();
        let serve = serve(listener, wire.clone(), ends.clone(), tasks.clone());
        tasks.spawn(ends.clone().run_until_cancelled_owned(serve));
        Ok(Self {
            address,
            wire,
            _ends: ends.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection of now; new ones are served.
    pub fn cut(&self) {
        let mut cut = self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    /// Resets every connection, and new ones too, until [`mend`](Self::mend).
    pub fn close(&self) {
        self.wire.state.send_replace(State::Closed);
        self.cut();
    }

    /// Swallows everything in both directions, and tells nobody, until [`mend`](Self::mend).
    pub fn swallow(&self) {
        self.wire.state.send_replace(State::Hole);
    }

    /// All is well again.
    pub fn mend(&self) {
        self.wire.state.send_replace(State::Open);
    }
}

async fn serve(
    listener: TcpListener,
    wire: Arc<Wire>,
    ends: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let cut = wire
            .cut
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let pass = pass(client, wire.clone());
        let ends = ends.clone();
        tasks.spawn(async move {
            tokio::select! {
                _ = pass => {}
                () = cut.cancelled() => {}
                () = ends.cancelled() => {}
            }
        });
    }
}

async fn pass(mut client: TcpStream, wire: Arc<Wire>) -> io::Result<()> {
    // A reset, and not an orderly end.
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    let mut state = wire.state.subscribe();
    if *state.borrow() == State::Closed {
        return Ok(());
    }
    let closed = |_| io::Error::from(io::ErrorKind::ConnectionReset);
    state
        .wait_for(|state| *state != State::Hole)
        .await
        .map_err(closed)?;
    let mut server = UnixStream::connect(&wire.socket).await?;
    loop {
        tokio::select! {
            done = copy_bidirectional(&mut client, &mut server) => return done.map(|_| ()),
            hole = state.wait_for(|state| *state == State::Hole) => hole.map(|_| ()).map_err(closed)?,
        }
        // What was under way stays where it is until the wire is mended: TCP loses nothing, it is
        // late.
        state
            .wait_for(|state| *state != State::Hole)
            .await
            .map_err(closed)?;
    }
}
