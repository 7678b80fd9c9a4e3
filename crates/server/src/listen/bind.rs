//! Where to listen.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted. The system allows `net.core.somaxconn` at most (4,096).
const BACKLOG: u32 = 4096;

/// Reads an address to listen on; `:8700` is port 8700 of all interfaces.
///
/// # Errors
///
/// In words for a person.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse().map_err(|_| {
        "not an address with a port, such as 127.0.0.1:8700, [::1]:8700 or :8700 (all interfaces)"
            .to_owned()
    })
}

/// Listens, with room for a herd: the standard library's would turn away all but 128 of those who come
/// at once, to try again a second later.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match listen(address) {
        // Where there is no IPv6, all interfaces are those of IPv4.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => listen(SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            address.port(),
        )),
        done => done,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As the standard library does: a restart need not wait for the connections of before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_that_of_all_interfaces() {
        assert_eq!(address(":8700").unwrap().to_string(), "[::]:8700");
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        for wrong in ["8700", "localhost:8700", ":", ":x", "127.0.0.1"] {
            assert!(address(wrong).unwrap_err().contains(":8700"), "{wrong}");
        }
    }
}
