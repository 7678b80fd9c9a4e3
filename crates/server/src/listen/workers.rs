//! Threads that serve connections, and the loop that accepts for them.
//!
//! Each worker is a thread with a runtime of its own, and a connection stays with the worker that
//! it was given to: its requests never cross between cores.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Connection, Serve,
    timers::{ConnectionLimits, ConnectionTimer, Sweeper, Watched},
    tls::Tls,
};
use crate::observe::load::{Load, Loads};

/// What an open connection holds: it counts until this is dropped.
type Permit = OwnedSemaphorePermit;

/// Threads that serve connections. They run until this is dropped, also after the last connection
/// has ended: what requests began (a refresh) may still be under way on them.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    /// Room for connections.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Worker {
    /// Ends the serving when it is dropped.
    connections: Option<mpsc::UnboundedSender<(std::net::TcpStream, Permit)>>,
    load: Arc<Load>,
    /// Tells whether all connections have ended in order.
    ended: Option<oneshot::Receiver<bool>>,
    /// Ends the thread when it is dropped.
    release: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers. `make` is called on each of them, in its runtime, and makes what serves its
    /// connections. After the listening has ended, requests that are under way may finish within
    /// `patience`.
    ///
    /// # Errors
    ///
    /// When a thread or its runtime cannot start.
    pub(crate) fn start<F: Serve>(
        count: usize,
        patience: Duration,
        limits: ConnectionLimits,
        tls: Option<&Tls>,
        loads: &Loads,
        make: impl Fn() -> Arc<F> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let count = count.max(1);
        let room = Arc::new(Semaphore::new(limits.most));
        let worker = |number| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (connections, given) = mpsc::unbounded_channel();
            let (say_ended, ended) = oneshot::channel();
            let (release, released) = oneshot::channel::<()>();
            let load = loads.add(limits.requests_of(number, count));
            let serving = Serving {
                tls: tls.map(Tls::acceptor),
                load: load.clone(),
                sweeper: Sweeper::new(limits, room.clone()),
                write_timeout: Duration::from_secs(limits.write.into()),
                patience,
            };
            let make = make.clone();
            let body = move || {
                runtime.block_on(async move {
                    // Nobody may want to know any more.
                    let _ = say_ended.send(serving.run(given, make()).await);
                    let _ = released.await;
                });
            };
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(body)?;
            Ok(Worker {
                connections: Some(connections),
                load,
                ended: Some(ended),
                release: Some(release),
                thread: Some(thread),
            })
        };
        let workers = (0..count).map(worker).collect::<io::Result<_>>()?;
        Ok(Self { workers, room })
    }

    /// Accepts connections until `stop`, then lets requests that are under way finish.
    /// `false`: some did not.
    pub(crate) async fn listen(&mut self, listener: TcpListener, stop: CancellationToken) -> bool {
        loop {
            // Who finds no room waits in the system's queue.
            let next = async {
                let permit = self.room.clone().acquire_owned().await;
                let permit = permit.map_err(io::Error::other)?;
                let (stream, _) = listener.accept().await?;
                // Registered anew with the worker's runtime.
                Ok((stream.into_std()?, permit))
            };
            let accepted: io::Result<_> = tokio::select! {
                accepted = next => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, permit)) => self.give(stream, permit),
                Err(error) => {
                    // Out of descriptors, most likely: others must end before more can begin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        for worker in &mut self.workers {
            worker.connections = None;
        }
        let mut all = true;
        for worker in &mut self.workers {
            if let Some(ended) = worker.ended.take() {
                all &= ended.await.unwrap_or(false);
            }
        }
        all
    }

    /// To the one with the fewest.
    fn give(&self, stream: std::net::TcpStream, permit: Permit) {
        let least = self
            .workers
            .iter()
            .min_by_key(|worker| worker.load.connections());
        if let Some(worker) = least
            && let Some(connections) = &worker.connections
        {
            worker.load.connected();
            if connections.send((stream, permit)).is_err() {
                tracing::error!("a worker has ended; a connection is dropped");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.connections = None;
            worker.release = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker has panicked");
            }
        }
    }
}

/// What one worker serves its connections with.
struct Serving {
    tls: Option<TlsAcceptor>,
    load: Arc<Load>,
    sweeper: Sweeper,
    write_timeout: Duration,
    patience: Duration,
}

impl Serving {
    /// Serves the connections that are given; `false`: some were cut off in the end.
    async fn run<F: Serve>(
        self,
        mut given: mpsc::UnboundedReceiver<(std::net::TcpStream, Permit)>,
        server: Arc<F>,
    ) -> bool {
        let Self {
            tls,
            load,
            sweeper,
            write_timeout,
            patience,
        } = self;
        let closing = CancellationToken::new();
        let connections = TaskTracker::new();
        let timers = sweeper.timers();
        // Ends with the runtime.
        TaskTracker::new().spawn(sweeper.run());
        while let Some((stream, permit)) = given.recv().await {
            let leaving = Leaving(load.clone());
            let stream = match TcpStream::from_std(stream) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be served");
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let timer = Arc::new(ConnectionTimer::new(load.clone()));
            timers.add(&timer);
            let connection = Connection {
                timer: timer.clone(),
                write_timeout,
                closing: closing.clone(),
            };
            let (server, tls) = (server.clone(), tls.clone());
            connections.spawn(async move {
                let _held = (leaving, permit);
                let stream = Watched::new(stream, timer.clone());
                match tls {
                    None => server.serve(stream, connection).await,
                    Some(tls) => {
                        let accepted = tokio::select! {
                            accepted = tls.accept(stream) => accepted,
                            () = timer.expired() => return,
                        };
                        match accepted {
                            Ok(stream) => Box::pin(server.serve(stream, connection)).await,
                            Err(error) => tracing::debug!(%error, "no TLS handshake"),
                        }
                    }
                }
            });
        }
        closing.cancel();
        connections.close();
        tokio::time::timeout(patience, connections.wait())
            .await
            .is_ok()
    }
}

/// One connection less, however it ends.
struct Leaving(Arc<Load>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}
