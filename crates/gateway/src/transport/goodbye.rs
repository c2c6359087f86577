//! WebSocket (RFC 6455), as far as somebody between two who speak it has to know it to say goodbye to both.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long the one who was told may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// A frame that closes, with the code 1001: an endpoint is going away.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// Whose frames are read here, and so to whom goodbye is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Frames of a server are as they are.
    Instance,
    /// Those of a client are masked.
    Client,
}

/// One side of a tunnel. When `leave` ends, what is read of it ends with a frame that closes, behind the frame that is on its way; and what this side still says is not heard.
///
/// The other side answers that frame and ends; so both do.
pub(super) struct Goodbye<S, L> {
    stream: S,
    of: Side,
    /// What was read of it already.
    early: Bytes,
    leave: Pin<Box<L>>,
    frames: Frames,
    state: State,
}

enum State {
    Passing {
        leaving: bool,
    },
    /// So much of the frame was said.
    Saying {
        frame: Vec<u8>,
        said: usize,
    },
    /// What comes now is not for the other side.
    Ending(Pin<Box<Sleep>>),
    Over,
}

impl<S, L> Goodbye<S, L> {
    pub(super) fn new(stream: S, of: Side, early: Bytes, leave: L) -> Self {
        let state = State::Passing { leaving: false };
        let (leave, frames) = (Box::pin(leave), Frames::default());
        Self { stream, of, early, leave, frames, state }
    }

    fn frame(&self) -> Vec<u8> {
        let [one, two] = GOING_AWAY;
        match self.of {
            Side::Instance => vec![0x88, 2, one, two],
            Side::Client => {
                let mask: [u8; 4] = rand::random();
                vec![0x88, 0x82, mask[0], mask[1], mask[2], mask[3], one ^ mask[0], two ^ mask[1]]
            }
        }
    }
}

impl<S: AsyncRead + Unpin, L> Goodbye<S, L> {
    fn poll_side(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.early.len().min(into.remaining());
        into.put_slice(&self.early.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin, L: Future<Output = ()>> AsyncRead for Goodbye<S, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Passing { leaving } => {
                    *leaving = *leaving || this.leave.as_mut().poll(cx).is_ready();
                    if !*leaving || this.frames.is_closed {
                        let before = into.filled().len();
                        ready!(this.poll_side(cx, into))?;
                        this.frames.pass(&into.filled()[before..]);
                        return Poll::Ready(Ok(()));
                    }
                    if this.frames.are_between() {
                        this.state = State::Saying { frame: this.frame(), said: 0 };
                        continue;
                    }
                    let mut bytes = [0; 4096];
                    let most = this.frames.rest().min(into.remaining()).min(bytes.len());
                    let mut rest = ReadBuf::new(&mut bytes[..most]);
                    ready!(this.poll_side(cx, &mut rest))?;
                    this.frames.pass(rest.filled());
                    into.put_slice(rest.filled());
                    return Poll::Ready(Ok(()));
                }
                State::Saying { frame, said } => {
                    let rest = &frame[*said..];
                    let count = rest.len().min(into.remaining());
                    into.put_slice(&rest[..count]);
                    *said += count;
                    if *said == frame.len() {
                        this.state = State::Ending(Box::pin(sleep(FAREWELL)));
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Ending(limit) => {
                    // First, for who goes on talking shall not talk for ever.
                    if limit.as_mut().poll(cx).is_pending() {
                        let mut bytes = [0; 4096];
                        let mut unheard = ReadBuf::new(&mut bytes);
                        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut unheard));
                        if read.is_ok() && !unheard.filled().is_empty() {
                            continue;
                        }
                    }
                    this.state = State::Over;
                }
                State::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin, L> AsyncWrite for Goodbye<S, L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a stream of frames one is (RFC 6455, 5.2).
#[derive(Debug, Default)]
struct Frames {
    /// The begin of the next one, up to its length.
    head: [u8; 10],
    have: usize,
    /// Bytes that the frame has still, mask and all.
    left: u64,
    /// One that closes has begun: none may follow.
    is_closed: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.head[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if let Some(left) = self.length() {
                self.is_closed = self.is_closed || self.head[0] & 0xf == 8;
                self.left = left;
                self.have = 0;
            }
        }
    }

    /// What follows a head; `None` if it is not there as a whole.
    fn length(&self) -> Option<u64> {
        let [_, second, rest @ ..] = self.head;
        let (needed, length) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes([rest[0], rest[1]]))),
            127 => (10, u64::from_be_bytes(rest)),
            short => (2, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (self.have >= needed).then(|| length.saturating_add(mask))
    }

    const fn are_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// So many bytes may be read without a look behind the frame.
    fn rest(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use proptest::{collection::vec, prelude::*};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        sync::oneshot,
        time::timeout,
    };

    use super::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mask = if masked { 4 } else { 0 };
        frame.resize(frame.len() + mask + length, b'.');
        frame
    }

    const GOODBYE: [u8; 4] = [0x88, 2, 0x03, 0xe9];

    proptest! {
        #[test]
        fn however_frames_are_cut_it_is_known_where_they_end(
            frames in vec((0u8..3, any::<bool>(), prop_oneof![0usize..130, 65_530usize..65_540]), 0..6),
            cuts in vec(1usize..5_000, 1..20),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (opcode, masked, length) in frames {
                bytes.extend(frame(opcode, masked, length));
                ends.push(bytes.len());
            }
            let (mut at, mut seen) = (0, Frames::default());
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(seen.are_between(), ends.contains(&at));
                if at == bytes.len() {
                    break;
                }
                let next = (at + cut).min(bytes.len());
                seen.pass(&bytes[at..next]);
                at = next;
            }
            prop_assert!(!seen.is_closed);
        }

        #[test]
        fn any_bytes_can_pass(bytes in vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.pass(&bytes);
            prop_assert!(frames.rest() > 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn goodbye_is_said_between_frames_and_never_in_one() {
        let (near, mut far) = duplex(1 << 20);
        let (leave, left) = oneshot::channel::<()>();
        let mut side = Goodbye::new(near, Side::Instance, Bytes::new(), async { drop(left.await) });
        let long = frame(2, false, 70_000);
        far.write_all(&long[..100]).await.unwrap();
        let mut read = vec![0; 100];
        side.read_exact(&mut read).await.unwrap();
        leave.send(()).unwrap();
        far.write_all(&long[100..]).await.unwrap();
        far.write_all(&frame(1, false, 10)).await.unwrap();
        let mut rest = vec![0; long.len() - 100 + 4];
        side.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest[..long.len() - 100], &long[100..]);
        assert_eq!(rest[long.len() - 100..], GOODBYE);
        // What comes afterwards is not heard, and its end is the end.
        drop(far);
        assert_eq!(side.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_told_at_once_and_may_take_its_time_but_not_for_ever() {
        let (near, far) = duplex(100);
        let mut side = Goodbye::new(near, Side::Client, Bytes::new(), ready(()));
        let mut said = [0; 8];
        side.read_exact(&mut said).await.unwrap();
        let [head, length, mask @ .., one, two] = said;
        assert_eq!((head, length), (0x88, 0x82));
        assert_eq!([one ^ mask[0], two ^ mask[1]], GOING_AWAY);
        let begun = tokio::time::Instant::now();
        assert_eq!(side.read(&mut [0; 10]).await.unwrap(), 0);
        assert!(begun.elapsed() >= FAREWELL);
        drop(far);
    }

    #[tokio::test]
    async fn who_goes_on_talking_is_not_heard_for_ever() {
        // The clock goes on by itself only where nobody talks.
        let (near, mut far) = duplex(64);
        let mut side = Goodbye::new(near, Side::Instance, Bytes::new(), ready(()));
        side.read_exact(&mut [0; 4]).await.unwrap();
        tokio::time::pause();
        let talking = tokio::spawn(async move { while far.write_all(&[0; 64]).await.is_ok() {} });
        let heard = async {
            assert_eq!(side.read(&mut [0; 10]).await.unwrap(), 0);
        };
        let passing = async {
            tokio::task::yield_now().await;
            // Timers count whole milliseconds, and the clock was stopped within one.
            tokio::time::advance(2 * FAREWELL).await;
        };
        tokio::join!(heard, passing);
        drop(side);
        talking.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_closed_is_not_told_again() {
        let (near, far) = duplex(100);
        let (leave, left) = oneshot::channel::<()>();
        let closing = Bytes::from(frame(8, false, 2));
        let mut side = Goodbye::new(near, Side::Instance, closing, async { drop(left.await) });
        let mut read = vec![0; 4];
        side.read_exact(&mut read).await.unwrap();
        leave.send(()).unwrap();
        assert!(timeout(FAREWELL, side.read(&mut [0; 10])).await.is_err());
        drop(far);
        assert_eq!(side.read(&mut [0; 10]).await.unwrap(), 0);
    }
}
