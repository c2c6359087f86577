use std::{
    fs,
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// Where ports begin that no system uses.
const FIRST: u16 = 10_000;

/// A TCP port of 127.0.0.1 that nobody else gets for as long as this lives.
///
/// It stays so while no one listens there: it is none of those that the system hands out for connections and to whoever asks for port 0, and
/// whoever takes such a port by this type holds the UDP port of the same number, which ends with its process however that ends.
#[derive(Debug)]
pub struct Port(UdpSocket);

impl Port {
    /// Takes one that is free.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let end = first_of_the_system().max(FIRST + 1_000);
        let span = end - FIRST;
        // Processes that run at the same time begin at places of their own.
        let begin = (std::process::id().wrapping_mul(97) % u32::from(span)) as u16;
        for _ in 0..span {
            let offset =
                (u32::from(begin) + u32::from(NEXT.fetch_add(1, Relaxed))) % u32::from(span);
            let port = FIRST + offset as u16;
            let Ok(held) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Self(held);
            }
        }
        panic!("no port from {FIRST} to {end} is free");
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number())
    }
}

/// The first of those that the system hands out.
fn first_of_the_system() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}
