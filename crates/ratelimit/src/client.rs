//! Who sent a request, by address.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
};

use http::{Extensions, HeaderMap, Request};

use crate::{Extract, Network, forwarded::Field, network};

/// Who is at the other end of the connection: what a server puts into the extensions of its requests, so that [`PeerIp`] and
/// [`ClientIp`] find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// Finds the peer's address in a request's extensions. It captures nothing, so that what uses it needs no type parameter.
type FindPeer = fn(&Extensions) -> Option<SocketAddr>;

fn by_peer_addr(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<PeerAddr>().map(|peer| peer.0)
}

/// The address at the other end of the connection, as [`network`] has it.
///
/// Behind a proxy that is the proxy; use [`ClientIp`] there.
///
/// It is taken from [`PeerAddr`], or from wherever a server puts it:
///
/// ```text
/// PeerIp::by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0))    axum, served with connect info
/// PeerIp::by(|x| x.get::<TcpConnectInfo>()?.remote_addr())       tonic
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PeerIp(FindPeer);

impl PeerIp {
    /// From [`PeerAddr`].
    #[must_use]
    pub const fn new() -> Self {
        Self(by_peer_addr)
    }

    /// From what `find` finds in the extensions of the request.
    #[must_use]
    pub const fn by(find: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        Self(find)
    }
}

impl Default for PeerIp {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Extract<Request<B>> for PeerIp {
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        (self.0)(request.extensions()).map(|peer| network(peer.ip()))
    }
}

/// The client's address as trusted proxies saw it, as [`network`] has it.
///
/// Each proxy writes the address that called it behind those it received. What stands on the left therefore comes from the client, and
/// whoever forges it changes nothing: entries are read from the right, and only as far as trusted proxies wrote them.
///
/// ```
/// use gusset_ratelimit::{ClientIp, Extract, PeerAddr};
/// use http::Request;
///
/// let client = ClientIp::trusting(["10.0.0.0/8".parse()?]);
/// let mut request = Request::builder()
///     .header("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2") // forged, seen by 10.0.0.2, seen by 10.0.0.1
///     .body(())?;
/// request.extensions_mut().insert(PeerAddr("10.0.0.1:4711".parse()?));
/// assert_eq!(client.extract(&request), Some("203.0.113.9".parse()?));
///
/// // Whoever comes around the proxies is not believed.
/// request.extensions_mut().insert(PeerAddr("198.51.100.7:4711".parse()?));
/// assert_eq!(client.extract(&request), Some("198.51.100.7".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Which field
///
/// `X-Forwarded-For`, or [`Forwarded`](Self::forwarded) (RFC 7239) if told so; the other one is never looked at. A proxy
/// writes one of them and passes on the other as the client sent it, so to believe whichever is there would be to believe the client.
#[derive(Clone, Debug)]
pub struct ClientIp {
    trust: Trust,
    field: Field,
    peer: FindPeer,
}

#[derive(Clone, Debug)]
enum Trust {
    Count(NonZeroUsize),
    Networks(Arc<[Network]>),
}

impl ClientIp {
    /// Behind proxies in these networks. Without any, the client is the peer.
    ///
    /// The walk begins at the peer and goes to the left, over each address that is trusted, to the first that is not: that is the client.
    ///
    /// - If the peer itself is not trusted, it is the client, whatever the fields say.
    /// - If all are trusted, the leftmost is the client.
    /// - An entry that is no address (`unknown`, a hidden name, garbage) ends the walk. The client is the last address before
    ///   it: all whom that proxy hides share its bucket.
    /// - There is no key if nobody says who the peer is; see [`peer_by`](Self::peer_by).
    #[must_use]
    pub fn trusting(networks: impl IntoIterator<Item = Network>) -> Self {
        Self::new(Trust::Networks(networks.into_iter().collect()))
    }

    /// Behind so many proxies, all of them one's own, and no way around them; for where their addresses are not known, and the
    /// peer does not matter. Without any proxy, use [`PeerIp`].
    ///
    /// With *n* proxies the *n*-th entry from the right is the one that the outermost wrote. There is no key if there are fewer
    /// entries, or if that one is no address: such a request did not come through all the proxies, and nothing in it can be
    /// believed.
    #[must_use]
    pub const fn behind(proxies: NonZeroUsize) -> Self {
        Self::new(Trust::Count(proxies))
    }

    const fn new(trust: Trust) -> Self {
        Self { trust, field: Field::XForwardedFor, peer: by_peer_addr }
    }

    /// Reads `Forwarded` (RFC 7239) instead of `X-Forwarded-For`; for proxies that write that.
    #[must_use]
    pub const fn forwarded(mut self) -> Self {
        self.field = Field::Forwarded;
        self
    }

    /// Takes the peer from what `find` finds in the extensions of the request, as [`PeerIp::by`] does. Default: [`PeerAddr`].
    #[must_use]
    pub const fn peer_by(mut self, find: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        self.peer = find;
        self
    }

    /// The client's whole address, where the key has no more than its [`network`]: for logs, and for what is told to others. An IPv4 one is never
    /// written as IPv6. `None` where there is no key.
    #[must_use]
    pub fn address(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let mut hops = self.field.hops(headers);
        let networks = match &self.trust {
            Trust::Count(proxies) => return hops.nth(proxies.get() - 1)?,
            Trust::Networks(networks) => networks,
        };
        let mut client = (self.peer)(extensions)?.ip();
        while networks.iter().any(|network| network.contains(client)) {
            match hops.next() {
                Some(Some(hop)) => client = hop,
                // What stands left of garbage was not written by a proxy that one trusts.
                Some(None) | None => break,
            }
        }
        Some(client.to_canonical())
    }
}

impl<B> Extract<Request<B>> for ClientIp {
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        self.address(request.headers(), request.extensions()).map(network)
    }
}

#[cfg(test)]
mod tests;
