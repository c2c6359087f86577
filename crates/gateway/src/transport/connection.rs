use std::{
    io,
    mem::MaybeUninit,
    task::{Context, Poll, Waker},
};

use socket2::SockRef;
use tokio::time::Instant;

use super::{dial::dial, line::Place, places::Counted};
use crate::{buffers::Intake, socket::Socket};

/// A connection to an instance, and what was read of it and not looked at yet.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) read: Intake,
    /// How many calls it has served.
    pub(super) calls: u64,
    /// Something is under way. Dropped like that, it is reset.
    pub(super) busy: bool,
    pub(super) made: Instant,
    /// What makes it count where their number is bounded. It is the last to go.
    _counted: Option<Counted>,
}

impl Connection {
    pub(super) async fn make(place: &Place) -> io::Result<Box<Self>> {
        let counted = match place.places() {
            Some(places) => Some(places.open(place).await),
            None => None,
        };
        let socket = dial(place, false).await?;
        Ok(Box::new(Self {
            socket,
            read: Intake::new(),
            calls: 0,
            busy: false,
            made: Instant::now(),
            _counted: counted,
        }))
    }

    /// Reads what is there; 0 bytes are the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.poll_fill(&mut self.socket, cx)
    }

    /// Whether the instance has neither ended it nor said what nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Mostly the runtime knows of nothing to read, and no memory is needed to read it into.
        self.socket.has_nothing(&mut cx) || self.poll_fill(&mut cx).is_pending()
    }

    /// Whether the kernel has nothing to read from it. The runtime learns of an end only when it looks for events, and may be late by all that it does in between.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(self.socket.tcp()).peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Before it waits for the next call, memory that one large answer needed is given back.
    pub(super) fn rest(&mut self) {
        self.busy = false;
        self.calls += 1;
        self.read.rest();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.busy {
            // A regular end could be taken for the end of what was sent. That it fails, only a socket without a connection could make it.
            let _ = self.socket.tcp().set_zero_linger();
        }
    }
}
