use std::{fmt, io, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::pool::Stream;

/// How a [`RemoteRegistry`](crate::RemoteRegistry) or [`RemoteKv`](crate::RemoteKv) asks.
///
/// ```
/// # use std::time::Duration;
/// use gusset_registry::RemotePolicy;
///
/// let policy = RemotePolicy::default().token("s3cret").ttl(Duration::from_secs(10));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RemotePolicy {
    pub(super) token: Option<Arc<str>>,
    pub(super) ttl: Duration,
    pub(super) evict_after: Duration,
    pub(super) call_within: Duration,
    pub(super) connect_within: Duration,
    pub(super) wait: Duration,
    pub(super) connections: usize,
    pub(super) watches: usize,
    pub(super) capacity: usize,
    #[cfg(feature = "remote-tls")]
    pub(super) tls: Option<super::RemoteTls>,
}

impl RemotePolicy {
    /// What is shown in `X-Consul-Token`. Default nothing.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Speaks TLS, as an address that begins with `https://` asks for. Default none. Feature `remote-tls`.
    #[cfg(feature = "remote-tls")]
    #[must_use]
    pub fn tls(mut self, tls: super::RemoteTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The TTL of the check of each instance that is registered here: for how long it counts as healthy after it was last heard
    /// of. At least 30 ms. Default 30 s, of which a [`Registration`](crate::Registration) uses a third from one heartbeat to the next.
    #[must_use]
    pub const fn ttl(mut self, span: Duration) -> Self {
        self.ttl = span;
        self
    }

    /// For how long an instance that fell silent stays listed before the registry forgets it. Default 60 s, which is also the least that
    /// Consul knows: less means 60 s there.
    #[must_use]
    pub const fn evict_after(mut self, span: Duration) -> Self {
        self.evict_after = span;
        self
    }

    /// How long a call may take, and before that wait for one of the [`RemotePolicy::connections`]. Default 2 s: an answer takes a millisecond, and an
    /// election of Consul's servers a second. At least 1 ms.
    #[must_use]
    pub const fn call_within(mut self, span: Duration) -> Self {
        self.call_within = span;
        self
    }

    /// How long connecting may take. Default 1 s. At least 1 ms.
    #[must_use]
    pub const fn connect_within(mut self, span: Duration) -> Self {
        self.connect_within = span;
        self
    }

    /// How long a watch's question stays open without a change before it is asked anew, or up to a fifth less. Default 10 s. A server that is gone
    /// without closing its connections is noticed after this and [`RemotePolicy::call_within`]. At least 10 ms, at most 10 min.
    #[must_use]
    pub const fn wait(mut self, span: Duration) -> Self {
        self.wait = span;
        self
    }

    /// How many connections calls use at a time. Default 16: they carry more than 20,000 heartbeats a second. Further calls wait for
    /// their turn, as long as [`RemotePolicy::call_within`].
    #[must_use]
    pub const fn connections(mut self, most: NonZeroUsize) -> Self {
        self.connections = most.get();
        self
    }

    /// How many connections watches use at a time, for each holds one while it waits. Default 256. More watches than these take turns
    /// of half a second, so that a change is seen later: 1,000 watches over 256 connections see it after 2 s at the latest.
    #[must_use]
    pub const fn watches(mut self, most: NonZeroUsize) -> Self {
        self.watches = most.get();
        self
    }

    /// How many instances are held of one service. Default 10,000. Of a service with more, those with the greatest ids are
    /// left out, which [`RemoteStats::left_out`](crate::RemoteStats::left_out) counts.
    #[must_use]
    pub const fn capacity(mut self, instances: NonZeroUsize) -> Self {
        self.capacity = instances.get();
        self
    }

    pub(super) const fn has_tls(&self) -> bool {
        #[cfg(feature = "remote-tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "remote-tls"))]
        false
    }

    /// The connection as HTTP goes over it.
    pub(super) async fn secured(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        #[cfg(feature = "remote-tls")]
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.connect(host, stream).await?));
        }
        let _ = host;
        Ok(Box::new(stream))
    }

    /// No span of this policy makes a loop a busy one.
    pub(super) fn checked(mut self) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        self.ttl = self.ttl.clamp(Duration::from_millis(30), DAY);
        self.evict_after = self.evict_after.clamp(Duration::from_secs(1), 365 * DAY);
        self.call_within = self.call_within.clamp(Duration::from_millis(1), DAY);
        self.connect_within = self.connect_within.clamp(Duration::from_millis(1), DAY);
        self.wait = self.wait.clamp(Duration::from_millis(10), Duration::from_secs(600));
        self
    }
}

impl Default for RemotePolicy {
    fn default() -> Self {
        Self {
            token: None,
            ttl: Duration::from_secs(30),
            evict_after: Duration::from_secs(60),
            call_within: Duration::from_secs(2),
            connect_within: Duration::from_secs(1),
            wait: Duration::from_secs(10),
            connections: 16,
            watches: 256,
            capacity: 10_000,
            #[cfg(feature = "remote-tls")]
            tls: None,
        }
    }
}

/// Without the token.
impl fmt::Debug for RemotePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePolicy")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("ttl", &self.ttl)
            .field("call_within", &self.call_within)
            .field("wait", &self.wait)
            .field("connections", &self.connections)
            .field("watches", &self.watches)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_names_no_token() {
        let text = format!("{:?}", RemotePolicy::default().token("s3cret"));
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn no_span_is_too_short_or_too_long() {
        for span in [Duration::ZERO, Duration::MAX] {
            let policy = RemotePolicy::default()
                .ttl(span)
                .evict_after(span)
                .call_within(span)
                .connect_within(span)
                .wait(span)
                .checked();
            for span in [policy.ttl, policy.call_within, policy.connect_within, policy.wait] {
                assert!(span >= Duration::from_millis(1) && span <= Duration::from_secs(86_400));
            }
        }
    }
}
