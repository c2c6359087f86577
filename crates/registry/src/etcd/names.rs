//! Which services there are.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use tonic::Status;

use super::{
    calls,
    engine::{Engine, unavailable},
    link::Link,
};
use crate::{Error, split_name};

/// The last answers, by namespace and of all.
pub(super) type Names = HashMap<Option<Box<str>>, Vec<Arc<str>>>;

/// Of so many namespaces the last known names are kept.
const NAMESPACES: usize = 64;

impl Engine {
    /// Full names of all services that have instances, of one namespace or all, or those of the last time if etcd does not answer.
    pub(super) async fn service_names(
        &self,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<str>>, Error> {
        let known = self.known_names(namespace);
        let link = match (self.line.present(), &known) {
            (Some(link), _) => Ok(link),
            (None, Some(names)) => return Ok(names.clone()),
            (None, None) => self.link().await,
        };
        let asked = match link {
            Ok(link) => self.ask_names(&link, namespace).await.map_err(unavailable),
            Err(error) => Err(error),
        };
        if let Ok(names) = &asked {
            let mut all = self.names();
            // Who asks for one namespace after the other must not fill the memory.
            if all.len() >= NAMESPACES {
                all.clear();
            }
            all.insert(namespace.map(Into::into), names.clone());
        }
        asked.or_else(|error| known.ok_or(error))
    }

    fn known_names(&self, namespace: Option<&str>) -> Option<Vec<Arc<str>>> {
        let all = self.names();
        let known = all.get(&namespace.map(Into::into)).cloned();
        known.or_else(|| {
            let here = |name: &&Arc<str>| Some(split_name(name).0) == namespace;
            all.get(&None).map(|names| names.iter().filter(here).cloned().collect())
        })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From each page on to the service after its last, so that a service with many instances costs no more than one page.
    async fn ask_names(
        &self,
        link: &Link,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<str>>, Status> {
        let mut names: Vec<Arc<str>> = Vec::new();
        let span = namespace.map_or_else(|| self.keys.all(), |name| self.keys.namespace(name));
        let mut from = span.begin;
        loop {
            let page = calls::keys(link, from, span.end.clone()).await?;
            for pair in &page.pairs {
                if let Some((service, _)) = self.keys.parse(&pair.key)
                    && names.last().is_none_or(|last| **last != *service)
                {
                    names.push(service.into());
                }
            }
            let Some(last) = page.pairs.last().filter(|_| page.more) else { break };
            // Keys that are none of ours must not be asked for again and again.
            from = match self.keys.parse(&last.key) {
                Some((service, _)) => self.keys.service(&service).end,
                None => calls::after(&last.key),
            };
        }
        // The order of keys is not that of names where something is escaped.
        names.sort();
        names.dedup();
        Ok(names)
    }
}
