//! Who the client is, by its address and by what trusted proxies say.

use std::net::IpAddr;

use gusset_ratelimit::{ClientIp, Network, PeerAddr};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue,
    header::{self, InvalidHeaderValue},
};

use crate::{PeerCertificate, spare};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The proxies that are believed.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    networks: Vec<Network>,
    walk: ClientIp,
}

impl Proxies {
    pub(crate) fn new(networks: Vec<Network>) -> Self {
        Self { walk: ClientIp::trusting(networks.iter().copied()), networks }
    }

    /// Whether one of them sent a request with these extensions.
    pub(crate) fn sent(&self, extensions: &Extensions) -> bool {
        !self.networks.is_empty() && peer_of(extensions).is_some_and(|peer| self.contain(peer))
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|range| range.contains(address))
    }
}

fn peer_of(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<PeerAddr>().map(|peer| peer.0.ip().to_canonical())
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) peer: Option<IpAddr>,
    /// The client's address: the peer's own, or what a trusted peer says of it.
    pub(crate) client: Option<IpAddr>,
    pub(crate) trusted: bool,
    /// Whether the peer's connection was encrypted up to here.
    pub(crate) secure: bool,
}

/// In the extensions of a request that came over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverTls;

impl Origin {
    pub(crate) fn of(headers: &HeaderMap, extensions: &Extensions, proxies: &Proxies) -> Self {
        let peer = peer_of(extensions);
        let trusted = peer.is_some_and(|peer| proxies.contain(peer));
        let client = if trusted { proxies.walk.address(headers, extensions) } else { peer };
        let secure = extensions.get::<OverTls>().is_some();
        Self { peer, client, trusted, secure }
    }

    /// Removes what was read of a request's connection: nobody behind the gateway has anything to do with that, and every attempt would copy it.
    pub(crate) fn forget(extensions: &mut Extensions) {
        extensions.remove::<PeerAddr>();
        if !extensions.is_empty() {
            extensions.remove::<OverTls>();
            extensions.remove::<PeerCertificate>();
        }
        if extensions.is_empty() {
            spare::give_extensions(extensions);
        }
    }

    /// Makes the forwarding fields tell what the gateway knows, and what a trusted peer said before; those of another must be
    /// gone.
    pub(crate) fn describe(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        if let Some(peer) = self.peer {
            let before = if self.trusted { joined(headers, &X_FORWARDED_FOR) } else { None };
            let line = match before {
                Some(before) => HeaderValue::try_from(format!("{before}, {peer}")),
                None => Written::of(peer).value(),
            };
            if let Ok(line) = line {
                headers.insert(X_FORWARDED_FOR, line);
            }
        }
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        let proto = if self.secure { "https" } else { "http" };
        headers.entry(X_FORWARDED_PROTO).or_insert_with(|| HeaderValue::from_static(proto));
        // It is seldom there.
        if headers.keys().any(|name| *name == header::FORWARDED) {
            headers.remove(header::FORWARDED);
        }
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> =
        headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// An address as text, without a way through `fmt` for the usual ones.
struct Written {
    text: [u8; 39],
    length: usize,
}

impl Written {
    fn of(address: IpAddr) -> Self {
        let mut written = Self { text: [0; 39], length: 0 };
        match address {
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        written.put(b'.');
                    }
                    if octet >= 100 {
                        written.put(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        written.put(b'0' + octet / 10 % 10);
                    }
                    written.put(b'0' + octet % 10);
                }
            }
            // No address is longer than eight groups of four digits.
            IpAddr::V6(address) => address.to_string().bytes().for_each(|byte| written.put(byte)),
        }
        written
    }

    fn put(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn value(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_bytes(&self.text[..self.length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a request with these fields came from, sent by `peer`, if `trusted` are the proxies.
    fn origin(peer: &str, headers: &HeaderMap, trusted: &[&str]) -> Origin {
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddr((peer.parse::<IpAddr>().unwrap(), 1234).into()));
        let networks = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Origin::of(headers, &extensions, &Proxies::new(networks))
    }

    fn ip(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    fn forwarded(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        headers
    }

    proptest::proptest! {
        #[test]
        fn addresses_are_written_as_all_write_them(four: [u8; 4], six: [u16; 8]) {
            for address in [IpAddr::from(four), IpAddr::from(six)] {
                let written = Written::of(address).value().unwrap();
                proptest::prop_assert_eq!(written.to_str().unwrap(), address.to_string());
            }
        }
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let from = origin("203.0.113.9", &forwarded(&["10.0.0.1"]), &[]);
        assert_eq!(from.client, ip("203.0.113.9"));

        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=10.0.0.1".parse().unwrap());
        from.describe(&mut headers, &HeaderValue::from_static("shop"));
        let lines: Vec<_> =
            headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers.len(), 3, "{lines:?}");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop");
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        for (lines, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
            (&["1.1.1.1", "203.0.113.9:5555, fd00::1"], "203.0.113.9"),
            (&["1.1.1.1, nonsense, 10.9.9.9"], "10.9.9.9"),
            (&["10.1.1.1, 10.9.9.9"], "10.1.1.1"),
            (&["[2001:db8::5]"], "2001:db8::5"),
            (&["::ffff:203.0.113.9"], "203.0.113.9"),
            (&[], "10.0.0.7"),
        ] {
            let from = origin("10.0.0.7", &forwarded(lines), &["10.0.0.0/8", "fd00::1"]);
            assert_eq!(from.client, ip(client), "{lines:?}");
        }
    }

    #[test]
    fn a_trusted_peer_is_added_to_what_it_says() {
        let mut headers = forwarded(&["1.1.1.1", "2.2.2.2"]);
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        let from = origin("::ffff:10.0.0.7", &headers, &["10.0.0.0/8"]);
        from.describe(&mut headers, &HeaderValue::from_static("shop"));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }
}
