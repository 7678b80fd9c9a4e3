//! From a name to a TCP connection: resolve, check, race (RFC 8305).

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, select, sync::Semaphore, time::sleep};
use tokio_util::task::TaskTracker;

use super::{
    address::{AddressRules, RefusedAddress},
    connector::ConnectError,
};

/// How long an attempt goes unanswered before the next one begins beside it (RFC 8305 5).
const STAGGER: Duration = Duration::from_millis(250);
/// No more addresses of one host are tried.
const MOST_ADDRESSES: usize = 16;
/// How many names are asked for at once. A question without an answer holds a thread, of which the
/// spool needs some, too.
const MOST_LOOKUPS: usize = 64;
/// A connection that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Where names come from.
#[derive(Debug)]
pub(super) struct Resolver {
    source: Source,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    /// The same addresses for every name.
    #[cfg(test)]
    Fixed(Vec<SocketAddr>),
    #[cfg(test)]
    Silent,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Source::System)
    }
}

impl Resolver {
    fn new(source: Source) -> Self {
        Self {
            source,
            places: Arc::new(Semaphore::new(MOST_LOOKUPS)),
            tasks: TaskTracker::new(),
        }
    }

    /// Asks, in a task that keeps its place until the system has answered, whoever still waits for
    /// that: a question cannot be taken back.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let place = self.places.clone().acquire_owned().await;
        let (source, host) = (self.source.clone(), host.to_owned());
        let asked = self.tasks.spawn(async move {
            let _place = place;
            source.addresses(&host, port).await
        });
        asked.await.map_err(io::Error::other)?
    }

    /// The addresses of a host that the rules permit, in the order in which they are to be tried.
    /// Without rules, all of them.
    pub(super) async fn resolve(
        &self,
        rules: Option<&AddressRules>,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        let unresolved = |why| ConnectError::Unresolved {
            host: host.to_owned(),
            why,
        };
        let mut all = self.lookup(host, port).await.map_err(unresolved)?;
        let mut refused: Option<RefusedAddress> = None;
        all.retain(|address| {
            let checked = rules.map_or(Ok(()), |rules| rules.check(host, address.ip()));
            let permitted = checked.is_ok();
            if refused.is_none() {
                refused = checked.err();
            }
            permitted
        });
        match refused {
            Some(refused) if all.is_empty() => Err(ConnectError::Refused(refused)),
            None if all.is_empty() => Err(unresolved(io::Error::other("the name has no address"))),
            _ => Ok(interleave(&all)),
        }
    }
}

impl Source {
    #[expect(clippy::disallowed_methods, reason = "the one place that resolves")]
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
            #[cfg(test)]
            Self::Fixed(addresses) => Ok(addresses.clone()),
            #[cfg(test)]
            Self::Silent => std::future::pending().await,
        }
    }
}

/// The families take turns, beginning with that of the first address (RFC 8305 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return Vec::new();
    };
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut other = other.into_iter();
    let mut turns: Vec<_> = same
        .into_iter()
        .flat_map(|address| [Some(address), other.next()])
        .flatten()
        .collect();
    turns.extend(other);
    turns.truncate(MOST_ADDRESSES);
    turns
}

/// Why no address answered.
#[derive(Debug)]
pub struct Unanswered(Vec<(SocketAddr, io::Error)>);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (address, error)) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            write!(f, "{comma}{address}: {error}")?;
        }
        Ok(())
    }
}

/// A connection to whichever address answers first.
pub(super) async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, Unanswered> {
    let mut waiting = addresses.into_iter();
    let mut attempts: FuturesUnordered<_> = waiting.next().map(attempt).into_iter().collect();
    let mut failed = Vec::new();
    loop {
        select! {
            biased;
            ended = attempts.next() => match ended {
                Some((_, Ok(stream))) => return Ok(stream),
                Some((address, Err(error))) => {
                    failed.push((address, error));
                    attempts.extend(waiting.next().map(attempt));
                }
                None => return Err(Unanswered(failed)),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(attempt));
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that connects")]
async fn attempt(address: SocketAddr) -> (SocketAddr, io::Result<TcpStream>) {
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        Ok(stream)
    };
    (address, connected.await)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn fixed(texts: &[&str]) -> Resolver {
        Resolver::new(Source::Fixed(addresses(texts)))
    }

    #[tokio::test]
    async fn who_gives_up_makes_no_room_for_another_question() {
        let resolver = Resolver::new(Source::Silent);
        for _ in 0..MOST_LOOKUPS {
            let mut asking = std::pin::pin!(resolver.lookup("silent.test", 443));
            assert!(futures_util::poll!(&mut asking).is_pending());
        }
        assert_eq!(resolver.places.available_permits(), 0);
        assert_eq!(resolver.tasks.len(), MOST_LOOKUPS);
        let mut asking = std::pin::pin!(resolver.lookup("silent.test", 443));
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!(resolver.tasks.len(), MOST_LOOKUPS);
    }

    #[test]
    fn the_families_take_turns() {
        let given = addresses(&["[2::1]:1", "[2::2]:1", "[2::3]:1", "1.0.0.1:1"]);
        let turns = addresses(&["[2::1]:1", "1.0.0.1:1", "[2::2]:1", "[2::3]:1"]);
        assert_eq!(interleave(&given), turns);
        let given = addresses(&["1.0.0.1:1", "[2::1]:1", "[2::2]:1"]);
        assert_eq!(interleave(&given), given);
        let many = addresses(&["1.0.0.1:1"]).repeat(100);
        assert_eq!(interleave(&many).len(), MOST_ADDRESSES);
    }

    #[tokio::test]
    async fn every_resolved_address_is_checked() {
        let resolver = fixed(&["10.0.0.1:443", "1.1.1.1:443", "[::1]:443"]);
        let rules = AddressRules::default();
        let permitted = resolver.resolve(Some(&rules), "mixed.test", 443).await;
        assert_eq!(permitted.unwrap(), addresses(&["1.1.1.1:443"]));

        let resolver = fixed(&["[::ffff:169.254.169.254]:80"]);
        let refused = resolver.resolve(Some(&rules), "metadata.test", 80).await;
        assert!(matches!(refused, Err(ConnectError::Refused(_))));
        let of_a_proxy = resolver.resolve(None, "proxy.test", 80).await;
        assert_eq!(of_a_proxy.unwrap().len(), 1);
        let nobody = fixed(&[]);
        let nothing = nobody.resolve(None, "empty.test", 80);
        assert!(matches!(
            nothing.await,
            Err(ConnectError::Unresolved { .. })
        ));
    }

    /// An address that swallows what is sent to it: its backlog is full, and nobody accepts.
    async fn black_hole() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut filling = Vec::new();
        while let Ok((_, stream)) =
            tokio::time::timeout(Duration::from_millis(300), attempt(address)).await
        {
            filling.push(stream.unwrap());
        }
        (address, (listener, filling))
    }

    #[tokio::test]
    async fn a_black_hole_is_passed_by() {
        let (hole, _kept) = black_hole().await;
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().unwrap();
        let racing = tokio::time::timeout(Duration::from_secs(30), race(vec![hole, good]));
        let stream = racing.await.expect("the second is tried").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn each_address_that_fails_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let failed = race(vec![closed, closed]).await.unwrap_err().to_string();
        assert_eq!(failed.matches(&closed.to_string()).count(), 2, "{failed}");
        assert!(failed.contains("refused"), "{failed}");
    }
}
