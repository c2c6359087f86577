//! A program that was built without Redis.

use gusset_ratelimit::Quota;

use crate::{
    Idempotency,
    config::file::{Away, RedisSection},
    limit::{KeyOf, Limit},
};

/// There is none.
pub(in crate::config) struct Redis(Never);

enum Never {}

impl Clone for Redis {
    fn clone(&self) -> Self {
        match self.0 {}
    }
}

impl Redis {
    pub(super) fn new(section: &RedisSection) -> Result<Self, String> {
        let RedisSection { url, name, away, gateways, wait, .. } = section;
        let (Away::Local | Away::Open | Away::Closed) = away;
        let _ = (url.value.0.expose(), name, gateways, wait);
        Err("this program was built without Redis; build it with the feature redis".into())
    }

    pub(super) fn limit(&self, _: &str, _: Quota, _: KeyOf) -> Limit {
        match self.0 {}
    }

    pub(in crate::config) fn shown(&self) -> serde_json::Value {
        match self.0 {}
    }

    pub(super) fn once(&self) -> Idempotency {
        match self.0 {}
    }
}
