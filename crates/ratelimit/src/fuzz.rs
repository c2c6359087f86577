//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use crate::{ClientIp, Extract, Network, PeerAddr, forwarded::Field, network};

/// A network in the first line, and lines of a field that proxies write: what stands on the left changes nothing of how the right is read.
pub fn client(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').take(50);
    let first = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let inside = match first.parse::<Network>() {
        Ok(network) => {
            assert_eq!(network.to_string().parse(), Ok(network), "{first:?}");
            network
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            IpAddr::V4(Ipv4Addr::LOCALHOST).into()
        }
    };
    let lines: Vec<_> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    for (name, field) in [
        (HeaderName::from_static("x-forwarded-for"), Field::XForwardedFor),
        (header::FORWARDED, Field::Forwarded),
    ] {
        let mut headers = HeaderMap::new();
        headers.extend(lines.iter().map(|line| (name.clone(), line.clone())));
        let hops: Vec<_> = field.hops(&headers).collect();
        let mut forged = HeaderMap::new();
        for left in ["\"", "for=6.6.6.6", "10.0.0.1, \"\\"] {
            forged.append(&name, HeaderValue::from_static(left));
        }
        forged.extend(lines.iter().map(|line| (name.clone(), line.clone())));
        let after: Vec<_> = field.hops(&forged).take(hops.len()).collect();
        assert_eq!(after, hops, "{lines:?}");
        found(inside, field, headers);
    }
}

/// The client is the peer where that is not trusted, and an address of the list where it is.
fn found(inside: Network, field: Field, headers: HeaderMap) {
    let hops: Vec<_> = field.hops(&headers).collect();
    let by_networks = match field {
        Field::XForwardedFor => ClientIp::trusting([inside]),
        Field::Forwarded => ClientIp::trusting([inside]).forwarded(),
    };
    for peer in ["203.0.113.9:1", "127.0.0.1:1", "[fd00::1]:1"] {
        let Ok(peer) = peer.parse() else { continue };
        let mut request = Request::new(());
        *request.headers_mut() = headers.clone();
        request.extensions_mut().insert(PeerAddr(peer));
        let client = by_networks.extract(&request);
        let among = hops.iter().flatten().any(|hop| Some(network(*hop)) == client);
        let is_peer = client == Some(network(peer.ip()));
        assert!(is_peer || (among && inside.contains(peer.ip())), "{client:?} of {headers:?}");
    }
}

#[cfg(test)]
#[test]
fn what_stands_on_the_left_changes_nothing_on_the_right() {
    gusset_engines::holds("client", client);
}
