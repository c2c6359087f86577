//! What the thread that writes and the one that syncs tell each other.

use std::{
    fs::File,
    io,
    sync::{Arc, PoisonError},
};

use super::{Log, Queue};

/// How the present file is synced.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    wanted: Option<Unsynced>,
    under_way: bool,
    /// So many bytes are on the disk.
    pub(super) done: u64,
    pub(super) failed: Option<io::Error>,
    /// A sync of this file failed: another could succeed without having written what that one should have.
    broken: bool,
    pub(super) over: bool,
}

/// What is to be synced.
#[derive(Debug)]
pub(in crate::file) struct Unsynced {
    pub(in crate::file) file: Arc<File>,
    /// Of the file.
    pub(in crate::file) length: u64,
    /// Events so far.
    pub(in crate::file) upto: u64,
    /// Bytes of messages and letters that are not done then.
    pub(in crate::file) live: u64,
}

impl Syncs {
    pub(super) const fn is_idle(&self) -> bool {
        self.wanted.is_none() && !self.under_way
    }
}

impl Log {
    /// A file of which so much is synced is written from now on. Nothing is being synced.
    pub(in crate::file) fn begin_file(&self, synced: u64) {
        let mut queue = self.queue();
        queue.sync = Syncs { done: synced, over: queue.sync.over, ..Syncs::default() };
    }

    /// To be synced when what is being synced is.
    pub(in crate::file) fn sync(&self, unsynced: Unsynced) {
        let sync = &mut self.queue().sync;
        if !sync.broken {
            sync.wanted = Some(unsynced);
            self.to_sync.notify_one();
        }
    }

    /// How much of the file is on the disk, and what went wrong with the rest, when no more than `most` bytes of it are not or nothing is under way.
    pub(in crate::file) fn wait_for_sync(
        &self,
        length: u64,
        most: u64,
    ) -> (u64, Option<io::Error>) {
        let waits = |queue: &mut Queue| {
            let (sync, over) = (&queue.sync, queue.sync.over);
            !sync.is_idle()
                && length.saturating_sub(sync.done) > most
                && sync.failed.is_none()
                && !over
        };
        let queue = self.called.wait_while(self.queue(), waits);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        (queue.sync.done, queue.sync.failed.take())
    }

    /// What is to be synced next; none at the end.
    pub(in crate::file) fn next_sync(&self) -> Option<Unsynced> {
        let idle = |queue: &mut Queue| queue.sync.wanted.is_none() && !queue.sync.over;
        let queue = self.to_sync.wait_while(self.queue(), idle);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        let unsynced = queue.sync.wanted.take()?;
        queue.sync.under_way = true;
        Some(unsynced)
    }

    pub(in crate::file) fn tell_sync(&self, unsynced: &Unsynced, result: io::Result<()>) {
        if result.is_ok() {
            self.tell_synced(unsynced.upto, unsynced.live);
        }
        let mut queue = self.queue();
        queue.sync.under_way = false;
        match result {
            Ok(()) => queue.sync.done = unsynced.length,
            Err(error) => {
                (queue.sync.failed, queue.sync.broken) = (Some(error), true);
                queue.sync.wanted = None;
            }
        }
        drop(queue);
        self.called.notify_all();
    }

    /// Nothing is synced any more.
    pub(in crate::file) fn end_syncs(&self) {
        self.queue().sync.over = true;
        self.to_sync.notify_all();
        self.called.notify_all();
    }
}
