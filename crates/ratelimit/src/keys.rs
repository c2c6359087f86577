//! Keys from HTTP requests.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::Extract;

/// The value of a header, for instance an API key that something outside has checked. The first one, if there are several.
///
/// A client that may choose the value gets a new bucket with each value it makes up. Use it inside of what checks the value.
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

impl Header {
    /// The header called `name`.
    #[must_use]
    pub const fn new(name: HeaderName) -> Self {
        Self(name)
    }
}

impl<B> Extract<Request<B>> for Header {
    type Key = HeaderValue;

    fn extract(&self, request: &Request<B>) -> Option<HeaderValue> {
        request.headers().get(&self.0).cloned()
    }
}

/// A value that something outside has put into the request's extensions, for instance the authenticated subject.
pub struct Extension<T>(std::marker::PhantomData<fn() -> T>);

impl<T> Extension<T> {
    /// The extension of type `T`.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T> Default for Extension<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Extension<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Extension<{}>", std::any::type_name::<T>())
    }
}

impl<T, B> Extract<Request<B>> for Extension<T>
where
    T: Hash + Clone + Send + Sync + 'static,
{
    type Key = T;

    fn extract(&self, request: &Request<B>) -> Option<T> {
        request.extensions().get().cloned()
    }
}

/// Who is at the other end of the connection: what a server puts into the extensions of its requests, so that [`PeerIp`] and
/// [`ClientIp`] find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// The address at the other end of the connection, from [`PeerAddr`], as [`network`] has it.
///
/// Behind a proxy that is the proxy; use [`ClientIp`] there. In axum, which has an extension of its own, a closure does it:
/// `|request: &Request| request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| network(peer.0.ip()))`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerIp;

impl<B> Extract<Request<B>> for PeerIp {
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        request.extensions().get::<PeerAddr>().map(|peer| network(peer.0.ip()))
    }
}

/// The client's address as the outermost of so many trusted proxies saw it, from `X-Forwarded-For`, as [`network`] has it.
///
/// Each proxy appends the address that called it, so with *n* proxies of one's own the *n*-th entry from the right is the one that the
/// outermost wrote. What stands to the left of it came from the client, and is not looked at: who forges entries changes nothing.
///
/// There is no key if there are fewer entries, or if that one is no address: such a request did not come through all
/// the proxies, and nothing in it can be believed.
#[derive(Clone, Copy, Debug)]
pub struct ClientIp {
    proxies: NonZeroUsize,
}

impl ClientIp {
    /// Behind so many proxies that append to `X-Forwarded-For`, all of them one's own, and no way around them. Without any, use [`PeerIp`].
    #[must_use]
    pub const fn behind(proxies: NonZeroUsize) -> Self {
        Self { proxies }
    }
}

impl<B> Extract<Request<B>> for ClientIp {
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        forwarded_for(request.headers(), self.proxies).map(network)
    }
}

/// The `nth` entry from the right; several fields count as one list in their order (RFC 9110, section 5.3).
fn forwarded_for(headers: &HeaderMap, nth: NonZeroUsize) -> Option<IpAddr> {
    let fields = headers.get_all("x-forwarded-for").iter().rev();
    let mut entries = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    let entry = std::str::from_utf8(entries.nth(nth.get() - 1)?).ok()?.trim();
    // Some proxies append the port, and IPv6 addresses then are in brackets.
    let address = || entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address().or_else(with_port).or_else(in_brackets)
}

/// The part of an address that stands for one customer: all of an IPv4 address, the first 64 bits of an IPv6 address, because
/// even the smallest customer has a whole /64 to choose addresses from. An IPv4 address mapped to IPv6 is an IPv4 address.
#[must_use]
pub const fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(behind: usize, fields: &[&str]) -> Option<String> {
        let mut request = Request::builder();
        for field in fields {
            request = request.header("x-forwarded-for", *field);
        }
        let client = ClientIp::behind(NonZeroUsize::new(behind).unwrap());
        client.extract(&request.body(()).unwrap()).map(|ip| ip.to_string())
    }

    #[test]
    fn a_forged_leftmost_entry_changes_nothing() {
        let honest = client(1, &["198.51.100.7"]);
        assert_eq!(honest.as_deref(), Some("198.51.100.7"));
        assert_eq!(client(1, &["203.0.113.9, 198.51.100.7"]), honest);
        assert_eq!(client(1, &["203.0.113.9", "10.0.0.1,198.51.100.7"]), honest);
        assert_eq!(client(1, &["garbage,,,", " 198.51.100.7 "]), honest);
    }

    #[test]
    fn behind_two_proxies_the_second_from_the_right_is_the_client() {
        let client = |fields| client(2, fields);
        assert_eq!(client(&["6.6.6.6, 198.51.100.7, 10.0.0.1"]).as_deref(), Some("198.51.100.7"));
        assert_eq!(client(&["6.6.6.6, 198.51.100.7", "10.0.0.1"]).as_deref(), Some("198.51.100.7"));
        assert_eq!(client(&["10.0.0.1"]), None, "it came around a proxy");
        assert_eq!(client(&["6.6.6.6, unknown, 10.0.0.1"]), None);
        assert_eq!(client(&[]), None);
    }

    #[test]
    fn entries_with_ports_and_brackets_are_addresses() {
        for (entry, address) in [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::"),
            ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
        ] {
            assert_eq!(client(1, &[entry]).as_deref(), Some(address), "{entry}");
        }
    }

    #[test]
    fn peers_of_one_64_are_one_key_and_need_the_extension() {
        let key = |address: &str| {
            let mut request = Request::new(());
            request.extensions_mut().insert(PeerAddr(address.parse().unwrap()));
            PeerIp.extract(&request)
        };
        assert_eq!(key("[2001:db8::1]:1"), key("[2001:db8::ffff]:2"));
        assert_ne!(key("[2001:db8::1]:1"), key("[2001:db8:0:1::1]:1"));
        assert_ne!(key("192.0.2.1:1"), key("192.0.2.2:1"));
        assert_eq!(PeerIp.extract(&Request::new(())), None);
    }

    #[test]
    fn headers_and_extensions_are_keys() {
        let mut request = Request::builder().header("x-api-key", "k1").body(()).unwrap();
        request.extensions_mut().insert(7_u64);
        let header = Header::new(HeaderName::from_static("x-api-key"));
        assert_eq!(header.extract(&request).unwrap(), "k1");
        assert_eq!(Extension::<u64>::new().extract(&request), Some(7));
        assert_eq!(Extension::<u32>::new().extract(&request), None);
    }
}
