//! Reads all of the catalog a part at a time: heartbeats do not wait for who asks for everything.
//!
//! Each instance is as it was at one moment, not all at the same. So the index of the answer has to be read before: who waits with it is
//! told of what changed meanwhile.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tokio::task::yield_now;

use super::{
    catalog::{Catalog, Node},
    record::{CheckRecord, Entry, ServiceRecord},
    server::{ConsulServer, State},
};

/// What is read under one lock: some hundred microseconds at most.
const AT_ONCE: usize = 512;

/// Node and id of the last one that was read.
type Place = (Arc<str>, Arc<str>);

impl ConsulServer {
    /// In the order of node and id.
    pub(super) async fn all_entries(&self) -> Vec<Entry> {
        self.walk(|node| &node.services, |node, id, _| node.entry(id)).await
    }

    /// In the order of node and id.
    pub(super) async fn all_services(&self) -> Vec<Arc<ServiceRecord>> {
        self.walk(|node| &node.services, |_, _, record| Some(record.clone())).await
    }

    /// In the order of node and id.
    pub(super) async fn all_checks(&self) -> Vec<Arc<CheckRecord>> {
        self.walk(|node| &node.checks, |_, _, check| Some(check.record.clone())).await
    }

    async fn walk<V, T>(
        &self,
        of: impl Fn(&Node) -> &BTreeMap<Arc<str>, V>,
        read: impl Fn(&Node, &str, &V) -> Option<T>,
    ) -> Vec<T> {
        let (mut all, mut last) = (Vec::new(), None);
        loop {
            let end = self.read(|State { catalog, .. }, _| {
                let mut end = None;
                for (name, node, id, value) in catalog.behind(last.as_ref(), &of).take(AT_ONCE) {
                    all.extend(read(node, id, value));
                    end = Some((name, id));
                }
                end.map(|(name, id)| (name.clone(), id.clone()))
            });
            if end.is_none() {
                return all;
            }
            last = end;
            yield_now().await;
        }
    }
}

impl Catalog {
    fn behind<'a, V: 'a>(
        &'a self,
        last: Option<&Place>,
        of: &'a impl Fn(&Node) -> &BTreeMap<Arc<str>, V>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Node, &'a Arc<str>, &'a V)> {
        let last = last.cloned();
        let from =
            last.as_ref().map_or(Bound::Unbounded, |(node, _)| Bound::Included(node.clone()));
        self.nodes.range((from, Bound::Unbounded)).flat_map(move |(name, node)| {
            let seen = last.as_ref().filter(|(here, _)| here == name);
            let begin = seen.map_or(Bound::Unbounded, |(_, id)| Bound::Excluded(id.clone()));
            let values = of(node).range((begin, Bound::Unbounded));
            values.map(move |(id, value)| (name, node, id, value))
        })
    }
}
