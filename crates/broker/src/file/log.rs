mod syncs;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::sync::watch;

use self::syncs::Syncs;
pub(super) use self::syncs::Unsynced;
use super::{FileError, waiters::Waiters};
use crate::{
    Error,
    memory::scribe::{Event, Scribe},
};

/// What lies between those who make things happen, the thread that writes them down, and the one that syncs what is written. These are two, so that
/// whoever only needs something to be written does not wait for the disk.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    queue: Mutex<Queue>,
    /// The thread that writes has something to do.
    called: Condvar,
    /// The one that syncs has.
    to_sync: Condvar,
    serial: AtomicU64,
    /// Bytes of messages and letters that are on the disk and not done.
    live: AtomicU64,
    pub(super) written: Waiters,
    synced: watch::Sender<Synced>,
    #[cfg(test)]
    full: std::sync::atomic::AtomicBool,
    /// Syncs wait as long as somebody has it, and fail if it is true then.
    #[cfg(test)]
    pub(super) gate: Mutex<bool>,
}

#[derive(Debug, Default)]
struct Queue {
    events: Vec<Event>,
    /// Events so far.
    noted: u64,
    /// Somebody waits until one of them is written.
    hurried: bool,
    ends: bool,
    sync: Syncs,
}

/// How far the disk is.
#[derive(Clone, Debug, Default)]
struct Synced {
    events: u64,
    /// Why it gets no further.
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug)]
enum Trouble {
    Io(io::ErrorKind, Arc<str>),
    Ended,
}

/// What the writer writes next; perhaps nothing.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// How many there were before these.
    pub(super) before: u64,
}

impl Log {
    pub(super) fn new(path: &Path, last_serial: u64, live: u64) -> Self {
        Self {
            path: path.to_owned(),
            queue: Mutex::default(),
            called: Condvar::new(),
            to_sync: Condvar::new(),
            serial: AtomicU64::new(last_serial),
            live: AtomicU64::new(live),
            written: Waiters::default(),
            synced: watch::Sender::default(),
            #[cfg(test)]
            full: false.into(),
            #[cfg(test)]
            gate: Mutex::default(),
        }
    }

    /// The file of the writer is full from now on.
    #[cfg(test)]
    pub(super) fn fill(&self) {
        self.full.store(true, Release);
    }

    #[cfg(test)]
    pub(super) fn is_filled(&self) -> bool {
        self.full.swap(false, Acquire)
    }

    #[cfg(test)]
    pub(super) fn is_kept_from_syncing(&self) -> bool {
        std::mem::take(&mut *self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many events there were so far.
    pub(super) fn noted(&self) -> u64 {
        self.queue().noted
    }

    /// The same; they are written without waiting for a sync.
    pub(super) fn hurry(&self) -> u64 {
        let mut queue = self.queue();
        let wakes = !queue.events.is_empty() && !std::mem::replace(&mut queue.hurried, true);
        let noted = queue.noted;
        drop(queue);
        if wakes {
            self.called.notify_one();
        }
        noted
    }

    pub(super) fn live(&self) -> u64 {
        self.live.load(Acquire)
    }

    /// Whether something may be written: not after the end, nor while the disk is in trouble.
    pub(super) fn open(&self) -> Result<(), Error> {
        self.goes_on()?;
        self.synced.borrow().trouble.as_ref().map_or(Ok(()), |trouble| Err(self.error(trouble)))
    }

    /// Not after the end.
    pub(super) fn goes_on(&self) -> Result<(), Error> {
        if self.queue().ends { Err(Error::Closed) } else { Ok(()) }
    }

    /// Waits until so many events would survive the machine, or cannot be written now.
    pub(super) fn synced(
        self: &Arc<Self>,
        events: u64,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (log, mut synced) = (self.clone(), self.synced.subscribe());
        async move {
            let done = |s: &Synced| s.events >= events || s.trouble.is_some();
            match synced.wait_for(done).await {
                Ok(state) if state.events >= events => Ok(()),
                Ok(state) => Err(state.trouble.as_ref().map_or(Error::Closed, |t| log.error(t))),
                Err(_) => Err(Error::Closed),
            }
        }
    }

    /// No events come after those that are there. What happens later is not written, and whoever waits for that is refused.
    pub(super) fn end(&self) {
        self.queue().ends = true;
        self.called.notify_all();
    }

    /// Waits until nothing is written any more and the directory is free.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut synced = self.synced.subscribe();
        async move {
            let _ = synced.wait_for(|s| matches!(s.trouble, Some(Trouble::Ended))).await;
        }
    }

    /// What is to be written next, when it is worth while; none at the end. What nobody waits for but with a sync gathers as long as one is under way. Comes
    /// back without events when more than `on_disk` is synced or a sync has failed, and with `chores` when none is under way.
    pub(super) fn next(&self, empty: Vec<Event>, on_disk: u64, chores: bool) -> Option<Batch> {
        let mut queue = self.queue();
        let writes = loop {
            let idle = queue.sync.is_idle();
            if queue.sync.over {
                return None;
            }
            if !queue.events.is_empty() && (queue.hurried || queue.ends || idle) {
                break true;
            }
            if queue.sync.failed.is_some() || queue.sync.done > on_disk {
                break false;
            }
            if queue.ends && queue.events.is_empty() {
                return None;
            }
            if chores && idle {
                break false;
            }
            queue = self.called.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        if !writes {
            return Some(Batch { events: empty, before: queue.noted - queue.events.len() as u64 });
        }
        queue.hurried = false;
        let events = std::mem::replace(&mut queue.events, empty);
        Some(Batch { before: queue.noted - events.len() as u64, events })
    }

    /// Waits a while before the next attempt to write. Whether it is worth while: not at the end.
    pub(super) fn pause(&self, span: Duration) -> bool {
        let queue = self.queue();
        let (queue, _) = self
            .called
            .wait_timeout_while(queue, span, |queue| !queue.ends)
            .unwrap_or_else(PoisonError::into_inner);
        !queue.ends
    }

    fn tell_synced(&self, upto: u64, live: u64) {
        self.live.store(live, Release);
        self.synced.send_replace(Synced { events: upto, trouble: None });
    }

    pub(super) fn tell_trouble(&self, error: &io::Error) {
        let trouble = Some(Trouble::Io(error.kind(), error.to_string().into()));
        self.synced.send_modify(|synced| synced.trouble = trouble);
    }

    pub(super) fn tell_ended(&self) {
        self.synced.send_modify(|synced| synced.trouble = Some(Trouble::Ended));
    }

    fn error(&self, trouble: &Trouble) -> Error {
        let path = self.path.clone();
        Error::Engine(Box::new(match trouble {
            Trouble::Io(kind, text) => {
                FileError::Io { path, source: io::Error::new(*kind, text.to_string()) }
            }
            Trouble::Ended => FileError::Ended { path },
        }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scribe for Log {
    fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Relaxed) + 1
    }

    fn note(&self, event: Event) {
        let mut queue = self.queue();
        if queue.ends {
            return;
        }
        queue.noted += 1;
        queue.events.push(event);
        let wakes = queue.events.len() == 1 && queue.sync.is_idle();
        drop(queue);
        if wakes {
            self.called.notify_one();
        }
    }
}
