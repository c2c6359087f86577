//! The engine in memory whose changes are written down.

mod options;
mod source;

mod log;
mod waiters;
mod writer;

mod homes;
mod state;

mod decode;
mod encode;
mod folder;
mod frame;
mod reading;

mod error;
mod lock;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use gusset_call::{Deadline, Overloaded};

pub use self::{error::FileError, options::FileOptions};
use self::{
    folder::Folder, lock::Lock, log::Log, source::FileMember, state::State, writer::Writer,
};
use crate::{
    Capabilities, DeadLetter, DeadLetterId, Error, Filter, Leftover, Message, Stats,
    engine::{BoxFuture, DeadLetterStore, Engine, GroupSpec, Member, Publishing},
    memory::{MemoryMember, shared::Shared},
};

/// Keeps messages in memory and in a directory, and finds them there when the process starts again.
///
/// **Guarantee.** A publish that returned `Ok` is on the disk, synced, for every named group that it entered; the next engine on the
/// directory has it, whether this process ended well, by a signal, or with the machine. So have
/// named groups, dead letters, redrives and purges. An attempt is written before the handler sees the message: one that kills the
/// process each time becomes a dead letter after [`Policy::max_attempts`](crate::Policy::max_attempts). An acknowledgement is not waited for, but is
/// written before the same worker is handed its next message. So a process that is killed repeats at most one message for each worker, and what was
/// [pulled](crate::Subscribe::pull) and not yet written as done. With the machine go, too, attempts and acknowledgements since the last sync, a few
/// milliseconds before: what is written is synced as soon as the sync before is through, and no more than 4 MiB of it may wait for that, or one write if it is
/// longer; deliveries pause there.
///
/// ```
/// use gusset_broker::{Broker, FileEngine, FileOptions, Policy};
///
/// # let dir = std::env::temp_dir().join(format!("gusset-broker-doc-{}", std::process::id()));
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// {
///     let broker = Broker::on(FileEngine::open(&dir, FileOptions::new())?);
///     broker.declare("mails", "order.*", Policy::new()).await?;
///     broker.publish("order.created", &7).await?;
/// }
/// let broker = Broker::on(FileEngine::open(&dir, FileOptions::new())?);
/// assert_eq!(broker.stats().groups[0].ready, 1);
/// # drop(broker);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Groups
///
/// A named group stays when its members leave, whether it was [declared](crate::Broker::declare) or not, and keeps what is published for it, until
/// [`Broker::remove`](crate::Broker::remove); so a service that restarts misses nothing. It comes back with its messages and waits for
/// its subscribers. Subscriptions without a group are of this process, and nothing of them is written.
///
/// # Disk
///
/// Segments, `log.0000000001` and so on, beside `log`, which says the format, and `lock`. One is written at a time and then sealed, after
/// [`FileOptions::segment_bytes`]. A sealed one goes when nothing in it is needed any more. The oldest is emptied, its survivors written again in the
/// present one, when no more than a quarter of it is needed, or when all together are longer than twice what must be in them and four segments. That is done
/// beside what is published, at most 256 KiB with each sync, or as much as is published if that is more; so a publish waits for two syncs and
/// the writing of so much, also at such times.
///
/// At [`FileOptions::max_bytes`] publishes are refused with [`Error::Full`], and everything else goes on. When the disk itself is full or fails, publishes return
/// [`Error::Engine`] with a [`FileError`], deliveries pause, since attempts could not be written, and what has happened is tried again ten times a
/// second until it is written. A publish that fails so may have happened.
///
/// **Format 3**: frames with checksums, each written as one, which say how much before them was synced. Frames that are torn, and were not synced by what those
/// behind say, were never acknowledged, and are left out with those. Anything else that is not as it was written is [`FileError::Damaged`] with its place, a file
/// that is not there [`FileError::Missing`]; nothing is changed then. (What was written during the last two syncs of all is the exception: bits that rot
/// in it look as if it were torn.) Formats 1, one file without segments, and 2 are read; a later one is [`FileError::Newer`].
///
/// # Clocks
///
/// In the process, delays follow the monotonic clock. Across a restart they follow the wall clock: set forward meanwhile, a message comes early by as
/// much; set back, it waits no longer than its whole delay anew.
///
/// # Threads
///
/// Two, one that writes and one that syncs. Dropping the engine, with the last [`Broker`](crate::Broker) and the last worker of its subscriptions, waits until they have written
/// what is left, and frees the directory.
#[derive(Debug)]
pub struct FileEngine {
    shared: Arc<Shared>,
    log: Arc<Log>,
    max_bytes: u64,
    threads: Vec<JoinHandle<()>>,
}

/// Far below what the length of a frame can tell.
const LARGEST: usize = 1 << 30;

impl FileEngine {
    /// Opens the directory, which is made if it is not there, and takes up what it holds. Reads all files, a frame at a time, before it returns, which
    /// takes about 1.2 s for a million messages of 1 KiB, by 64,000 measured: in a runtime, call it before there is work, or in `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`FileError`]. What is on the disk then is as it was.
    pub fn open(dir: impl AsRef<Path>, options: FileOptions) -> Result<Self, FileError> {
        let dir = dir.as_ref();
        let folder = Folder::new(dir);
        if options.existing {
            if !folder.has_broker() {
                return Err(FileError::NoBroker { path: dir.to_owned() });
            }
        } else {
            fs::create_dir_all(dir).map_err(FileError::io(dir))?;
        }
        let lock = Lock::take(dir)?;
        let mut state = State::new(options.limits);
        let found = folder.replay(&mut state)?;
        let log = Arc::new(Log::new(dir, state.last_serial(), state.bytes()));
        let (scribe, limits) = (Some(log.clone() as _), options.limits);
        let shared = Arc::new(Shared::new(limits, None, options.when_unheard, scribe));
        let (groups, renumbered) = state.renumber();
        shared.restore_groups(groups);
        shared.restore_letters(state.letters(), state.last_letter());
        shared.restore_known(state.known().into_iter());
        let writer = Writer::new(folder, state, found, renumbered, options.segment_bytes);
        let writer = writer.map_err(FileError::io(dir))?;
        let mut engine = Self { shared, log, max_bytes: options.max_bytes, threads: Vec::new() };
        // What is not begun is ended with the engine.
        let log = engine.log.clone();
        engine.begin("gusset-sync", move || writer::sync(&log)).map_err(FileError::io(dir))?;
        let log = engine.log.clone();
        let run = move || writer.run(&log, lock);
        engine.begin("gusset-write", run).map_err(FileError::io(dir))?;
        Ok(engine)
    }

    fn begin(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(run);
        // Where the second cannot be begun, nothing ends the first but this.
        let thread = thread.inspect_err(|_| self.log.end_syncs())?;
        self.threads.push(thread);
        Ok(())
    }

    /// When what `done` did is on the disk, its result.
    async fn lasting<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        let done = done?;
        self.log.synced(self.log.noted()).await?;
        self.log.goes_on().map(|()| done)
    }
}

impl Engine for FileEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            delay: true,
            expiry: true,
            priority: true,
            dedup: true,
            ordered: true,
            drop_oldest: true,
            requests: true,
            ..Capabilities::new("file")
        }
    }

    /// Dropped while it waits for the disk, the message is published.
    fn publish(&self, message: Message) -> Publishing {
        if let Err(error) = self.log.open() {
            return Publishing::Done(Err(error));
        }
        let (size, limit) = (message.size(), LARGEST);
        if size > limit {
            return Publishing::Done(Err(Error::Engine(
                FileError::TooLarge { size, limit }.into(),
            )));
        }
        if self.log.live() >= self.max_bytes {
            return Publishing::Done(Err(Error::Full(Overloaded::new("disk of the broker"))));
        }
        let (publishing, log) = (self.shared.publish(message), self.log.clone());
        Publishing::Waiting(Box::pin(async move {
            let receipt = publishing.await?;
            log.synced(log.noted()).await?;
            // A handler that outlasted the end has told only itself.
            log.goes_on().map(|()| receipt)
        }))
    }

    fn declare(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), Error>> {
        let declared = can_keep(&group).and_then(|()| self.shared.declare(group));
        Box::pin(self.lasting(declared))
    }

    fn remove(&self, group: Arc<str>) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.lasting(self.shared.remove(&group)))
    }

    fn join(&self, group: GroupSpec) -> BoxFuture<'_, Result<Arc<dyn Member>, Error>> {
        let joined = can_keep(&group).and_then(|()| MemoryMember::join(&self.shared, group));
        let member = joined.map(|member| {
            let is_written = member.is_written();
            Arc::new(FileMember { member, log: self.log.clone(), is_written }) as Arc<dyn Member>
        });
        Box::pin(std::future::ready(member))
    }

    fn dead_letters(&self) -> &dyn DeadLetterStore {
        self
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn close(&self, deadline: Deadline) -> BoxFuture<'_, Leftover> {
        Box::pin(async move {
            let leftover = self.shared.close(deadline).await;
            let written = self.log.synced(self.log.noted());
            let _ = tokio::time::timeout_at(deadline.instant(), written).await;
            leftover
        })
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.log.end();
        Box::pin(self.log.ended())
    }
}

/// A closure is not to be written down.
fn can_keep(group: &GroupSpec) -> Result<(), Error> {
    let lasts = group.name.is_some();
    match &group.order {
        Some(order) if lasts && order.header_name().is_none() => Err(Error::Unsupported {
            engine: "file",
            what: "keep the order of keys that a closure finds: it cannot be written down, and until it is given again after a restart the group \
                   could not tell which messages to hold back. Put the key into a header",
        }),
        _ => Ok(()),
    }
}

impl DeadLetterStore for FileEngine {
    fn list(
        &self,
        filter: Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<DeadLetter>>, Error>> {
        self.shared.list(filter, after, limit)
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'_, Result<Option<Arc<DeadLetter>>, Error>> {
        self.shared.get(id)
    }

    fn redrive(&self, id: DeadLetterId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.lasting(self.shared.redrive(id).await).await })
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<DeadLetterId>, Error>> {
        self.shared.newest()
    }

    fn max_redrives(&self) -> u32 {
        self.shared.max_redrives()
    }

    fn purge(&self, filter: Filter) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move { self.lasting(self.shared.purge(filter).await).await })
    }
}

impl Drop for FileEngine {
    fn drop(&mut self) {
        self.log.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
