//! Who the client is, by its address and by what trusted proxies say.

use std::net::{IpAddr, SocketAddr};

use gusset_ratelimit::Network;
use http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) peer: Option<IpAddr>,
    /// The client's address: the peer's own, or what a trusted peer says of it.
    pub(crate) client: Option<IpAddr>,
    pub(crate) trusted: bool,
}

impl Origin {
    /// Walks `X-Forwarded-For` from the right, over the proxies that are trusted, to the first address that is not.
    pub(crate) fn of(peer: Option<SocketAddr>, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
        let peer = peer.map(|peer| peer.ip().to_canonical());
        let Some(address) = peer.filter(|peer| is_trusted(*peer)) else {
            return Self { peer, client: peer, trusted: false };
        };
        let mut client = address;
        for hop in forwarded_for(headers) {
            // What stands left of nonsense was not written by a proxy that one trusts.
            let Some(hop) = hop else { break };
            client = hop;
            if !is_trusted(hop) {
                break;
            }
        }
        Self { peer, client: Some(client), trusted: true }
    }

    /// Makes the forwarding fields tell what the gateway knows, and what a trusted peer said before; those of another must be
    /// gone.
    pub(crate) fn describe(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        if let Some(peer) = self.peer {
            let line = match joined(headers, &X_FORWARDED_FOR) {
                Some(before) => format!("{before}, {peer}"),
                None => peer.to_string(),
            };
            if let Ok(line) = HeaderValue::try_from(line) {
                headers.insert(X_FORWARDED_FOR, line);
            }
        }
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        headers.entry(X_FORWARDED_PROTO).or_insert_with(|| HeaderValue::from_static("http"));
        headers.remove(header::FORWARDED);
    }
}

/// The addresses of `X-Forwarded-For`, from the right; `None` for what is none.
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    headers.get_all(X_FORWARDED_FOR).iter().rev().flat_map(|line| {
        let line = line.to_str().unwrap_or("?");
        line.rsplit(',').map(|hop| address_of(hop.trim()))
    })
}

/// Some proxies write a port behind the address.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> =
        headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(address.parse().unwrap(), 1234))
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

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let origin = Origin::of(peer("203.0.113.9"), &forwarded(&["10.0.0.1"]), &[]);
        assert_eq!(origin.client, ip("203.0.113.9"));

        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=10.0.0.1".parse().unwrap());
        origin.describe(&mut headers, &HeaderValue::from_static("shop"));
        let lines: Vec<_> =
            headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers.len(), 3, "{lines:?}");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop");
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()];
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
            let origin = Origin::of(peer("10.0.0.7"), &forwarded(lines), &trusted);
            assert_eq!(origin.client, ip(client), "{lines:?}");
        }
    }

    #[test]
    fn a_trusted_peer_is_added_to_what_it_says() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = forwarded(&["1.1.1.1", "2.2.2.2"]);
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        let origin = Origin::of(peer("::ffff:10.0.0.7"), &headers, &trusted);
        origin.describe(&mut headers, &HeaderValue::from_static("shop"));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }
}
