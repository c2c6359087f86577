//! What the catalog holds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::active::Active;
use crate::LastSeen;

/// State of a check. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// A service as it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServiceDef {
    pub(super) id: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) tags: Vec<String>,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) tagged_addresses: Value,
    /// While passing, and while warning.
    pub(super) weights: (u32, u32),
    pub(super) enable_tag_override: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ServiceRecord {
    pub(super) def: ServiceDef,
    pub(super) created: u64,
    pub(super) modified: u64,
}

/// A check as it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckDef {
    pub(super) id: Arc<str>,
    pub(super) name: String,
    pub(super) notes: String,
    /// None: its state changes only by being set.
    pub(super) ttl: Option<Duration>,
    /// How it begins; `Critical` if not said.
    pub(super) status: Status,
    pub(super) output: String,
    /// Id of the service that it is of; None for one of the node.
    pub(super) service: Option<Arc<str>>,
    pub(super) deregister_after: Option<Duration>,
    /// The server makes it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<Arc<Active>>,
}

/// A check as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CheckRecord {
    #[serde(skip)]
    pub(super) node: Arc<str>,
    pub(super) def: CheckDef,
    pub(super) status: Status,
    pub(super) output: String,
    #[serde(skip)]
    pub(super) service: Option<Arc<ServiceRecord>>,
    pub(super) created: u64,
    pub(super) modified: u64,
    /// When it was last told how it is. All copies share it, so that a heartbeat changes no record.
    #[serde(skip)]
    pub(super) heard: LastSeen,
    /// Its status is what was last known rather than what was heard.
    #[serde(skip)]
    pub(super) suspect: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeDef {
    pub(super) name: Arc<str>,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) meta: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) def: NodeDef,
    pub(super) created: u64,
    pub(super) modified: u64,
}

/// One instance with all that tells of its health.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) node: Arc<NodeRecord>,
    pub(super) service: Arc<ServiceRecord>,
    pub(super) checks: Vec<Arc<CheckRecord>>,
}

impl Entry {
    /// The worst of its checks; passing without any.
    pub(super) fn status(&self) -> Status {
        self.checks.iter().map(|check| check.status).max().unwrap_or(Status::Passing)
    }
}
