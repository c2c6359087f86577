use std::{num::NonZeroUsize, sync::Arc};

use super::active::ActiveChecks;
use crate::Policy;

/// Who a [`ConsulServer`](crate::ConsulServer) is, whom it lets in, and how much it holds.
///
/// ```
/// use gusset_registry::ConsulPolicy;
///
/// let policy = ConsulPolicy::default().node("registry-1", "10.0.0.2").token("s3cret");
/// ```
#[derive(Clone)]
pub struct ConsulPolicy {
    pub(super) node: String,
    pub(super) address: String,
    pub(super) datacenter: String,
    pub(super) token: Option<Arc<str>>,
    pub(super) instances: usize,
    pub(super) watchers: usize,
    pub(super) keys: usize,
    pub(super) kv_bytes: usize,
    pub(super) health: Policy,
    pub(super) checks: ActiveChecks,
}

impl ConsulPolicy {
    /// Name and address of the node on which all services stand that are registered through `/v1/agent`. The address is where
    /// those are that state none of their own. Default `gusset` at `127.0.0.1`.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.node = name.into();
        self.address = address.into();
        self
    }

    /// Name of the datacenter. Default `dc1`, as in Consul.
    #[must_use]
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenter = name.into();
        self
    }

    /// What clients have to show, in `X-Consul-Token`, `Authorization: Bearer` or `?token=`. Default: nothing. `/v1/status` is open to all.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How silence is judged. Of a TTL check that fell silent: how many heartbeats it needs when it does so again and again
    /// ([`Policy::rise`]), and what happens when most of a service falls silent at once ([`Policy::protect`]). Who registers in this process, through
    /// [`Registry`](crate::Registry), has no TTL of its own: [`Policy::ttl`] and [`Policy::evict_after`], of which less than a minute means one, are for those. The rest
    /// is not used here. Default [`Policy::default`].
    #[must_use]
    pub const fn health(mut self, policy: Policy) -> Self {
        self.health = policy;
        self
    }

    /// Which active checks clients may have this server make. They are made by [`ConsulServer::spawn_ticker`](crate::ConsulServer::spawn_ticker), up to 64 at a
    /// time. Default [`ActiveChecks::Refused`].
    #[cfg(feature = "checks")]
    #[must_use]
    pub const fn active_checks(mut self, checks: ActiveChecks) -> Self {
        self.checks = checks;
        self
    }

    /// How many instances there may be. Default 100,000, with at most 4 checks each on average and 16 of one. At the bound new
    /// ones get 507.
    #[must_use]
    pub const fn instances(mut self, most: NonZeroUsize) -> Self {
        self.instances = most.get();
        self
    }

    /// How many requests may be blocked at a time. Default 10,000. At the bound further ones get 429.
    #[must_use]
    pub const fn watchers(mut self, most: NonZeroUsize) -> Self {
        self.watchers = most.get();
        self
    }

    /// How many keys the key-value store holds. Default 100,000. At the bound new ones get 507.
    #[must_use]
    pub const fn keys(mut self, most: NonZeroUsize) -> Self {
        self.keys = most.get();
        self
    }

    /// How many bytes its keys and values are together. Default 64 MiB. At the bound what would be larger gets 507.
    #[must_use]
    pub const fn kv_bytes(mut self, most: NonZeroUsize) -> Self {
        self.kv_bytes = most.get();
        self
    }
}

impl Default for ConsulPolicy {
    fn default() -> Self {
        Self {
            node: "gusset".into(),
            address: "127.0.0.1".into(),
            datacenter: "dc1".into(),
            token: None,
            instances: 100_000,
            watchers: 10_000,
            keys: 100_000,
            kv_bytes: 64 << 20,
            health: Policy::default(),
            checks: ActiveChecks::Refused,
        }
    }
}

impl std::fmt::Debug for ConsulPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulPolicy")
            .field("node", &self.node)
            .field("datacenter", &self.datacenter)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}
