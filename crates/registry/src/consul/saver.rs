//! What a server keeps over a restart.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    catalog::Catalog,
    kv_log::{self, Log},
    kv_writer::{KvWriter, Queue},
    record::{CheckRecord, NodeRecord, ServiceRecord},
    server::{ConsulServer, State},
};
use crate::file::{Lock, Saver, SnapshotError, Source, load};

/// Version of the catalog's file that is written. This and none other is read so far.
const FORMAT: u32 = 1;
/// The index goes on this far above the one in the file: more than there can be changes between two saves.
const MARGIN: u64 = 1 << 24;
/// Instances that are copied under one lock.
const AT_ONCE: usize = 512;

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    index: u64,
    nodes: Vec<SavedNode>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedNode {
    /// That of the server itself, which may have another name after a restart.
    pub(super) own: bool,
    pub(super) node: Arc<NodeRecord>,
    /// Those of the node, not of its services.
    pub(super) checks: Vec<Arc<CheckRecord>>,
    pub(super) services: Vec<SavedService>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedService {
    pub(super) service: Arc<ServiceRecord>,
    pub(super) checks: Vec<Arc<CheckRecord>>,
}

impl ConsulServer {
    /// Takes in what `folder` holds, and keeps in it what changes: the key-value store in `kv.log`, the catalog in `catalog.json`. To be called before the
    /// server serves. The folder is made if there is none, and locked: it is for one server at a time. Its files are for their owner alone.
    ///
    /// **Keys**: a write that was answered is on the disk (`fdatasync`), and nobody sees one before it is. Those that come together share one write to the
    /// disk. One that fails is answered with 500 and may or may not be there after a crash; the log is then written anew before any other.
    ///
    /// **Catalog**: saved at most every `interval` (a second is reasonable), and for no more than a tenth of the time. What registered within it before a
    /// crash is not there, and its heartbeats get 404, as those of anybody who is not registered. Heartbeats are not saved. Checks come back with the status
    /// that they had; those with a TTL have one TTL to be heard of, and are [suspect](crate::Instance::suspect) until then.
    ///
    /// Indexes go on above those from before.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]. Then nothing was taken in, and nothing is kept.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_saver(
        &self,
        folder: impl AsRef<Path>,
        interval: Duration,
    ) -> Result<ConsulSaver, SnapshotError> {
        let folder = folder.as_ref();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let lock = Lock::of_folder(folder)?;
        let (catalog, keys) = (folder.join("catalog.json"), folder.join("kv.log"));
        // The log first: a broken catalog is moved aside, and would be gone when a broken log is mended.
        let replayed = kv_log::load(&keys)?;
        let saved: Option<Saved> = load(&catalog, FORMAT)?;
        if replayed.torn {
            tracing::warn!(path = %keys.display(), "the end of the log was torn off, none of it was acknowledged");
        }
        let last = saved.as_ref().map_or(0, |saved| saved.index).max(replayed.index);
        self.change(|State { kv, catalog, indexes, .. }, _| {
            indexes.raise(last.saturating_add(MARGIN));
            kv.restore(indexes, replayed.pairs.into_values());
            catalog.renew_indexes(indexes);
        });
        for node in saved.into_iter().flat_map(|saved| saved.nodes) {
            let left_out = self
                .change(|State { catalog, indexes, .. }, now| catalog.restore(indexes, node, now));
            if left_out > 0 {
                tracing::warn!(left_out, "more instances were saved than there is room for");
                self.0.refused.fetch_add(left_out, Relaxed);
            }
        }
        // Anew in any case: that ends a torn one.
        let pairs: Vec<_> = self.read(|state, _| state.kv.under("").cloned().collect());
        let log = Log::create(keys.clone(), pairs.into_iter()).map_err(io(&keys))?;
        let writer = KvWriter::spawn(self.clone(), log);
        let _ = self.0.kv_queue.set(writer.queue());
        let catalog = Saver::spawn(Kept(self.clone()), catalog, interval);
        Ok(ConsulSaver { catalog, writer, _lock: lock })
    }

    pub(super) fn kv_queue(&self) -> Option<&Queue> {
        self.0.kv_queue.get()
    }

    pub(super) fn count_unsaved(&self) {
        self.0.unsaved.fetch_add(1, Relaxed);
    }

    /// The catalog, a part at a time: each instance is as it was at one moment, and heartbeats do not wait for all.
    fn collect(&self) -> Saved {
        let (names, index) = self.read(|State { catalog, indexes, .. }, _| {
            let names: Vec<_> = catalog.nodes().map(|node| node.def.name.clone()).collect();
            (names, indexes.last())
        });
        let mut nodes = Vec::new();
        for name in names {
            let Some(mut node) = self.read(|state, _| state.catalog.save_node(&name)) else {
                continue;
            };
            loop {
                let last = node.services.last().map(|saved| saved.service.def.id.clone());
                let part = self.read(|state, _| state.catalog.save_services(&name, last, AT_ONCE));
                let more = part.len() == AT_ONCE;
                node.services.extend(part);
                if !more {
                    break;
                }
            }
            nodes.push(node);
        }
        Saved { format: FORMAT, index, nodes }
    }
}

struct Kept(ConsulServer);

impl Source for Kept {
    fn changes(&self) -> u64 {
        self.0.read(|state, _| state.catalog.last_change())
    }

    fn render(&self) -> impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static {
        let server = self.0.clone();
        move || Ok(serde_json::to_vec(&server.collect())?)
    }

    fn failed(&self) {
        self.0.count_unsaved();
    }
}

impl Catalog {
    fn last_change(&self) -> u64 {
        let topics = [&self.services_topic, &self.nodes_topic, &self.checks_topic];
        topics.map(|topic| topic.index).into_iter().max().unwrap_or(0)
    }
}

/// Guard of the tasks of [`ConsulServer::spawn_saver`]: dropping it ends them, without another save. Keys cannot be written any more then.
#[derive(Debug)]
#[must_use = "dropping it ends the saving"]
pub struct ConsulSaver {
    catalog: Saver,
    writer: KvWriter,
    // The last to go.
    _lock: Lock,
}

impl ConsulSaver {
    /// Does the writes of keys that are under way, saves the catalog, and ends the tasks. To be called when nobody is served any more.
    ///
    /// # Errors
    ///
    /// What the system says to the last save of the catalog.
    ///
    /// # Cancellation
    ///
    /// Ends the tasks; a write that had begun is finished.
    pub async fn close(self) -> io::Result<()> {
        self.writer.close().await;
        self.catalog.close().await
    }
}

/// Whatever the catalog says, no more is taken in of it than there is room for.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(catalog: &[u8]) {
    let Ok(saved) = serde_json::from_slice::<Saved>(catalog) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let _inside = runtime.enter();
    let few = std::num::NonZeroUsize::MIN;
    let server = ConsulServer::new(super::ConsulPolicy::default().instances(few));
    for node in saved.nodes {
        let _: u64 = server
            .change(|State { catalog, indexes, .. }, now| catalog.restore(indexes, node, now));
    }
    assert!(server.stats().instances <= 1);
}
