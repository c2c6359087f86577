//! The connections of HTTP/2 to one instance: few, each with many calls.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    dial::dial,
    line::Place,
    pool::{SHARDS, shard_of_thread},
};
use crate::socket::Socket;

/// Connections to an instance for each thread.
const MOST: usize = 8;

/// Calls by one connection, if its instance does not take fewer. With their windows they are the bytes that may wait in a connection, which is as much as its own window
/// has room for: so no call of a slow client can hold up those of others.
const STREAMS: usize = 128;
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// Bytes of an answer's head at most, as over HTTP/1.1.
const MAX_HEAD: u32 = 64 * 1024;

/// How often it is looked whether a connection has calls, and how long it may have none.
const LOOK: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// After how long the kernel asks an instance whether it is there still; twice this without a word, and the connection has ended. Not by HTTP/2's own PING: servers of
/// gRPC take one in five minutes for an attack.
const ALIVE: Duration = Duration::from_secs(10);

/// Each thread has its own, for a socket belongs to the runtime that opened it.
#[derive(Default)]
pub(super) struct Multiplex {
    shards: OnceLock<Box<[Shard; SHARDS]>>,
}

#[derive(Default)]
struct Shard(Mutex<Group>);

#[derive(Default)]
struct Group {
    open: Vec<Open>,
    /// One is being made; it says why if it could not.
    dialing: Option<Dialing>,
    next: u64,
}

/// Closed without a word: look again.
pub(super) type Dialing = watch::Receiver<Option<Arc<io::Error>>>;

struct Open {
    id: u64,
    send: SendRequest<Bytes>,
    /// A clone for each call.
    calls: Arc<()>,
    made: Instant,
}

impl Open {
    fn calls(&self) -> usize {
        Arc::strong_count(&self.calls) - 1
    }

    fn has_room(&self) -> bool {
        self.calls() < self.send.current_max_send_streams().min(STREAMS)
    }

    fn seat(&self) -> Seat {
        Seat { id: self.id, send: self.send.clone(), counted: self.calls.clone() }
    }
}

/// A place for a call on a connection.
pub(super) struct Seat {
    pub(super) id: u64,
    pub(super) send: SendRequest<Bytes>,
    pub(super) counted: Arc<()>,
}

pub(super) enum Found {
    Seat(Seat),
    Dialing(Dialing),
}

impl Group {
    /// Its number, and its calls with one more as long as it stays here.
    fn add(&mut self, send: SendRequest<Bytes>) -> (u64, Weak<()>) {
        self.dialing = None;
        let (id, calls) = (self.next, Arc::new(()));
        self.next += 1;
        let weak = Arc::downgrade(&calls);
        self.open.push(Open { id, send, calls, made: Instant::now() });
        (id, weak)
    }
}

impl Multiplex {
    fn group(&self, at: usize) -> MutexGuard<'_, Group> {
        let shards =
            self.shards.get_or_init(|| Box::new(std::array::from_fn(|_| Shard::default())));
        shards[at].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection with the fewest calls, or the one that is being made if the others are full.
    pub(super) fn find(place: &Arc<Place>) -> Found {
        let at = shard_of_thread();
        let mut group = place.multiplex().group(at);
        let oldest = place.transport().connections.max_age;
        // The calls of one that is too old go on, and it ends with them.
        group.open.retain(|open| open.made.elapsed() <= oldest);
        let best = group.open.iter().min_by_key(|open| open.calls());
        if let Some(best) = best.filter(|best| best.has_room()) {
            return Found::Seat(best.seat());
        }
        if let Some(dialing) = &group.dialing {
            return Found::Dialing(dialing.clone());
        }
        match best {
            Some(best) if group.open.len() >= MOST => Found::Seat(best.seat()),
            _ => {
                let (done, dialing) = watch::channel(None);
                group.dialing = Some(dialing.clone());
                // Of this thread's runtime, so that the connection is as well.
                tokio::spawn(run(Arc::downgrade(place), at, done));
                Found::Dialing(dialing)
            }
        }
    }

    /// Any that is open, when no other can be made.
    pub(super) fn any(&self) -> Option<Seat> {
        let group = self.group(shard_of_thread());
        group.open.iter().min_by_key(|open| open.calls()).map(Open::seat)
    }

    /// No more calls go to the connection of this number.
    pub(super) fn forget(&self, id: u64) {
        self.group(shard_of_thread()).open.retain(|open| open.id != id);
    }
}

/// Makes a connection and drives it, until it has gone away, is too old, or has had no call for long, and all its calls have ended.
async fn run(place: Weak<Place>, at: usize, done: watch::Sender<Option<Arc<io::Error>>>) {
    let Some(strong) = place.upgrade() else { return };
    let mut running = Running { place, at, id: None };
    let (send, connection) = match make(&strong).await {
        Ok(made) => made,
        Err(error) => {
            drop(running);
            done.send_replace(Some(Arc::new(error)));
            return;
        }
    };
    let (id, calls) = strong.multiplex().group(at).add(send);
    running.id = Some(id);
    // The place is not held by its own connections.
    drop((strong, done));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = idled(calls) => {
            drop(running);
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/2 connection to an instance ended");
    }
}

async fn make(place: &Place) -> io::Result<(SendRequest<Bytes>, Driven)> {
    let socket = dial(place, true).await?;
    let tcp = SockRef::from(socket.tcp());
    let probes = TcpKeepalive::new().with_time(ALIVE).with_interval(ALIVE / 4);
    tcp.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(2 * ALIVE))?;
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(128 * 1024);
    let broken = |error: h2::Error| {
        error.into_io().unwrap_or_else(|| io::Error::other("it does not speak HTTP/2"))
    };
    builder.handshake(socket).await.map_err(broken)
}

type Driven = h2::client::Connection<Socket, Bytes>;

/// Until there has been no call for long.
pub(super) async fn idled(calls: Weak<()>) {
    let mut idle_since = None;
    loop {
        sleep(LOOK).await;
        // One of them is the connection's own.
        if calls.strong_count() > 1 {
            idle_since = None;
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE {
            return;
        }
    }
}

/// However a connection ends, with its runtime as well, it gets no more calls, and what waited for it looks for another.
struct Running {
    place: Weak<Place>,
    at: usize,
    /// `None` while it is made.
    id: Option<u64>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(place) = self.place.upgrade() else { return };
        let mut group = place.multiplex().group(self.at);
        match self.id {
            Some(id) => group.open.retain(|open| open.id != id),
            None => group.dialing = None,
        }
    }
}
