use std::collections::VecDeque;

use super::*;
use http::HeaderValue;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;

/// A body of scripted frames; `None` is an error.
#[derive(Debug)]
struct Script(VecDeque<Option<Frame<Bytes>>>);

fn script<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Script {
    let frame = |chunk| Some(Frame::data(Bytes::copy_from_slice(chunk)));
    Script(chunks.into_iter().map(frame).collect())
}

impl Script {
    fn then_trailers(mut self) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("abc"));
        self.0.push_back(Some(Frame::trailers(trailers)));
        self
    }

    fn then_breaks(mut self) -> Self {
        self.0.push_back(None);
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.0.pop_front().map(|frame| frame.ok_or("broken")))
    }
}

fn poll<B: Body + Unpin>(body: &mut ReplayBody<B>) -> Option<Result<Frame<Bytes>, B::Error>> {
    match tokio_test::task::spawn(body.frame()).poll() {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("scripts are always ready"),
    }
}

/// Data and trailers of a body up to its end.
fn drain<B: Body<Error: fmt::Debug> + Unpin>(mut body: ReplayBody<B>) -> (Vec<u8>, HeaderMap) {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll(&mut body) {
        match frame.unwrap().into_data() {
            Ok(chunk) => data.extend_from_slice(&chunk),
            Err(frame) => trailers = frame.into_trailers().ok().unwrap(),
        }
    }
    assert!(body.is_end_stream());
    (data, trailers)
}

#[test]
fn every_attempt_sends_the_same_bytes_and_trailers() {
    let replay = Replay::new(script([&b"one "[..], b"", b"two"]).then_trailers(), 1024).0;
    for _ in 0..3 {
        let (data, trailers) = drain(replay.next().unwrap());
        assert_eq!(data, b"one two");
        assert_eq!(trailers["checksum"], "abc");
    }
}

#[test]
fn an_attempt_cut_short_gives_the_rest_to_the_next() {
    let replay = Replay::new(script([&b"one "[..], b"two ", b"three"]), 1024).0;
    let mut first = replay.next().unwrap();
    poll(&mut first).unwrap().unwrap();
    assert!(replay.next().is_none(), "the first attempt still has the rest");
    drop(first);
    assert_eq!(drain(replay.next().unwrap()).0, b"one two three");
}

#[test]
fn what_was_never_polled_can_be_sent_whatever_the_limit() {
    let replay = Replay::new(script([&b"payload"[..]]), 0).0;
    drop(replay.next().unwrap());
    assert_eq!(drain(replay.next().unwrap()).0, b"payload");
    assert!(replay.next().is_none(), "now it was sent and not kept");
}

#[test]
fn beyond_the_limit_it_streams_on_and_is_never_sent_again() {
    let replay = Replay::new(script([&b"12345"[..], b"67890", b"end"]), 8).0;
    let mut body = replay.next().unwrap();
    assert_eq!(poll(&mut body).unwrap().unwrap().into_data().unwrap(), "12345");
    assert_eq!(drain(body).0, b"67890end");
    assert!(replay.next().is_none());
    let kept = lock(replay.0.as_deref().unwrap());
    assert_eq!(kept.frames.capacity(), 0, "and holds no memory");
}

#[test]
fn the_limit_itself_fits() {
    let replay = Replay::new(script([&b"12345"[..], b"678"]), 8).0;
    drain(replay.next().unwrap());
    assert_eq!(drain(replay.next().unwrap()).0, b"12345678");
}

#[test]
fn a_body_known_to_be_too_long_is_not_kept_at_all() {
    let replay = Replay::new(Full::<Bytes>::from("123456789"), 8).0;
    drain(replay.next().unwrap());
    assert!(replay.next().is_none());
    assert!(lock(replay.0.as_deref().unwrap()).frames.is_empty());
}

#[test]
fn tiny_frames_without_end_are_not_kept_without_end() {
    let frames = vec![&b"x"[..]; MAX_FRAMES + 1];
    let replay = Replay::new(script(frames), usize::MAX).0;
    assert_eq!(drain(replay.next().unwrap()).0.len(), MAX_FRAMES + 1);
    assert!(replay.next().is_none());
}

#[test]
fn a_broken_body_is_never_sent_again() {
    let replay = Replay::new(script([&b"one"[..]]).then_breaks(), 1024).0;
    let mut body = replay.next().unwrap();
    poll(&mut body).unwrap().unwrap();
    assert_eq!(poll(&mut body).unwrap().unwrap_err(), "broken");
    drop(body);
    assert!(replay.next().is_none());
}

#[test]
fn nothing_to_send_can_be_sent_again_and_costs_nothing() {
    let replay = Replay::new(Full::<Bytes>::default(), 0).0;
    assert!(replay.0.is_none());
    for _ in 0..2 {
        let body = replay.next().unwrap();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}

#[test]
fn when_no_other_attempt_can_follow_nothing_more_is_kept() {
    let replay = Replay::new(script([&b"one"[..], b"two"]), 1024).0;
    let mut body = replay.next().unwrap();
    poll(&mut body).unwrap().unwrap();
    let kept = replay.0.clone().unwrap();
    drop(replay);
    assert_eq!(drain(body).0, b"two");
    assert!(lock(&kept).frames.is_empty());
}

#[test]
fn the_length_is_exact_in_every_attempt() {
    let replay = Replay::new(Full::<Bytes>::from("12345"), 1024).0;
    for _ in 0..2 {
        let mut body = replay.next().unwrap();
        assert_eq!(body.size_hint().exact(), Some(5));
        poll(&mut body).unwrap().unwrap();
        assert!(body.is_end_stream(), "so that a server does not wait for more");
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}

proptest! {
    #[test]
    fn however_attempts_are_cut_short_the_next_sends_byte_for_byte_the_same_or_none_follows(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..12),
        trailers: bool,
        cuts in proptest::collection::vec(0usize..14, 1..6),
        limit in 0usize..150,
    ) {
        let mut body = script(chunks.iter().map(Vec::as_slice));
        if trailers {
            body = body.then_trailers();
        }
        let whole = chunks.concat();
        let replay = Replay::new(body, limit).0;
        let mut most = 0;
        for cut in cuts {
            let Some(mut body) = replay.next() else {
                prop_assert!(most > 0, "something was sent");
                return Ok(());
            };
            let mut sent = Vec::new();
            for _ in 0..cut {
                match poll(&mut body) {
                    Some(frame) => sent.extend(frame.unwrap().into_data().unwrap_or_default()),
                    None => break,
                }
                most = most.max(1);
            }
            prop_assert_eq!(&*sent, &whole[..sent.len()]);
        }
        if let Some(body) = replay.next() {
            let (data, with_trailers) = drain(body);
            prop_assert_eq!(data, whole);
            prop_assert_eq!(!with_trailers.is_empty(), trailers);
        }
    }
}
