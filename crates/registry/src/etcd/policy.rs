use std::{fmt, num::NonZeroUsize, time::Duration};

use tonic::transport::Endpoint;

/// How an [`EtcdRegistry`](crate::EtcdRegistry) uses its etcd.
///
/// ```
/// # use std::time::Duration;
/// use gusset_registry::EtcdPolicy;
///
/// let policy = EtcdPolicy::default().prefix("/shop").ttl(Duration::from_secs(10)).credentials("cart", "secret");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdPolicy {
    pub(crate) prefix: String,
    pub(crate) ttl: Duration,
    pub(crate) call_within: Duration,
    pub(crate) connect_within: Duration,
    pub(crate) ask_every: Duration,
    pub(crate) list_every: Duration,
    pub(crate) capacity: NonZeroUsize,
    pub(crate) credentials: Option<(String, String)>,
    #[cfg(feature = "etcd-tls")]
    pub(crate) tls: Option<super::EtcdTls>,
}

/// etcd grants no lease below its election timeout, with its defaults 2 s.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

impl EtcdPolicy {
    /// What all keys begin with. Default `/gusset`. Registries with different ones do not see each other.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The TTL of the lease: for how long the instances of a process that is gone stay listed. In whole seconds, rounded
    /// up, at least 2 s, and no less than etcd grants. Default 30 s, of which a third lies between two signs of life.
    #[must_use]
    pub const fn ttl(mut self, span: Duration) -> Self {
        self.ttl = span;
        self
    }

    /// How long a single call may take. Default 2 s: a commit takes a millisecond, and a slow disk or an election a second. Two
    /// calls in a row that take longer end the connection, and another endpoint is tried. At least 1 ms.
    #[must_use]
    pub const fn call_within(mut self, span: Duration) -> Self {
        self.call_within = span;
        self
    }

    /// How long connecting to one endpoint may take, with the first answer: a frozen server still accepts connections. Default
    /// 1 s. At least 1 ms.
    #[must_use]
    pub const fn connect_within(mut self, span: Duration) -> Self {
        self.connect_within = span;
        self
    }

    /// How often a watch is asked whether it is alive. One that does not answer within [`EtcdPolicy::call_within`]
    /// is dead, whatever the connection says. Default 5 s. At least 1 ms.
    #[must_use]
    pub const fn ask_every(mut self, span: Duration) -> Self {
        self.ask_every = span;
        self
    }

    /// How often a service that is watched is listed anew, so that a change which a watch should have told of and did not
    /// is not missed for ever. Default 5 min, or up to a fifth less. At least 1 ms.
    #[must_use]
    pub const fn list_every(mut self, span: Duration) -> Self {
        self.list_every = span;
        self
    }

    /// How many instances are held of one service, and how many this process may register. Default 10,000. Of a service with
    /// more, those with the greatest ids are left out, which [`EtcdStats::left_out`](crate::EtcdStats::left_out) counts.
    #[must_use]
    pub const fn capacity(mut self, instances: NonZeroUsize) -> Self {
        self.capacity = instances;
        self
    }

    /// User and password, where etcd asks for them. Default none. The role needs to read and write all keys that begin with `/gusset/1/`, or with another [`EtcdPolicy::prefix`] and `/1/`.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// TLS to every endpoint, feature `etcd-tls`. Default none: user and password then go over the network as they are.
    #[cfg(feature = "etcd-tls")]
    #[must_use]
    pub fn tls(mut self, tls: super::EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn ttl_used(&self) -> Duration {
        let seconds = self.ttl.as_secs().saturating_add(u64::from(self.ttl.subsec_nanos() > 0));
        Duration::from_secs(seconds.min(i32::MAX as u64)).max(SHORTEST_TTL)
    }

    #[cfg(feature = "etcd-tls")]
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "etcd-tls"))]
    #[allow(clippy::unused_self, reason = "it looks with the feature")]
    pub(crate) const fn has_tls(&self) -> bool {
        false
    }

    /// The endpoint, over TLS if that is asked for. `None` if that cannot be.
    pub(crate) fn over_tls(&self, endpoint: Endpoint) -> Option<Endpoint> {
        #[cfg(feature = "etcd-tls")]
        if let Some(tls) = &self.tls {
            return tls.over(endpoint);
        }
        Some(endpoint)
    }

    /// No span of this policy makes a loop a busy one.
    pub(crate) fn checked(mut self) -> Self {
        let spans = [
            &mut self.call_within,
            &mut self.connect_within,
            &mut self.ask_every,
            &mut self.list_every,
        ];
        for span in spans {
            *span = (*span).clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        }
        self
    }
}

impl Default for EtcdPolicy {
    fn default() -> Self {
        const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
        Self {
            prefix: "/gusset".into(),
            ttl: Duration::from_secs(30),
            call_within: Duration::from_secs(2),
            connect_within: Duration::from_secs(1),
            ask_every: Duration::from_secs(5),
            list_every: Duration::from_secs(300),
            capacity: CAPACITY,
            credentials: None,
            #[cfg(feature = "etcd-tls")]
            tls: None,
        }
    }
}

/// Without the password.
impl fmt::Debug for EtcdPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdPolicy")
            .field("prefix", &self.prefix)
            .field("ttl", &self.ttl)
            .field("call_within", &self.call_within)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_whole_seconds_and_at_least_two() {
        let used = |millis| EtcdPolicy::default().ttl(Duration::from_millis(millis)).ttl_used();
        assert_eq!([0, 2_000, 2_001, 30_000].map(|ms| used(ms).as_secs()), [2, 2, 3, 30]);
        assert!(EtcdPolicy::default().ttl(Duration::MAX).ttl_used() < Duration::from_secs(1 << 31));
    }

    #[test]
    fn debug_output_names_no_password() {
        let policy = EtcdPolicy::default().credentials("cart", "secret");
        let text = format!("{policy:?}");
        assert!(text.contains("cart") && !text.contains("secret"), "{text}");
    }
}
