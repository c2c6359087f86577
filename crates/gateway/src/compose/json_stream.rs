//! Streams of messages as streams of JSON and the other way round, each value as it comes in.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use gusset_call::BoxError;
use http_body::{Body, Frame};
use prost_reflect::MessageDescriptor;

use super::{
    frames::{FrameFault, Frames, frame},
    shape::Shape,
    status::Status,
};
use crate::body::{ClientFault, RequestBody};

/// The lines of a request as messages.
pub(super) struct Lines {
    body: Option<RequestBody>,
    message: MessageDescriptor,
    bytes: BytesMut,
    /// Bytes among which there is no end of a line.
    searched: usize,
    most: usize,
}

impl Lines {
    pub(super) fn new(body: RequestBody, message: MessageDescriptor, most: usize) -> Self {
        Self { body: Some(body), message, bytes: BytesMut::new(), searched: 0, most }
    }

    /// The next line that says something. At the end of the body its last one need not end.
    fn line(&mut self) -> Result<Option<Bytes>, ClientFault> {
        loop {
            let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
            let line = match found {
                Some(at) => {
                    let line = self.bytes.split_to(self.searched + at);
                    self.bytes.advance(1);
                    line
                }
                None if self.body.is_none() => self.bytes.split(),
                None => {
                    self.searched = self.bytes.len();
                    return if self.searched > self.most {
                        Err(ClientFault::TooLarge)
                    } else {
                        Ok(None)
                    };
                }
            };
            self.searched = 0;
            if line.len() > self.most {
                return Err(ClientFault::TooLarge);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.freeze()));
            }
            if self.body.is_none() && self.bytes.is_empty() {
                return Ok(None);
            }
        }
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        loop {
            if let Some(line) = self.line()? {
                return Poll::Ready(Ok(Some(line)));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
            match ready!(Pin::new(body).poll_frame(cx)).transpose()? {
                Some(frame) => self.bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
                None => self.body = None,
            }
        }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(line) = ready!(self.poll_line(cx)).transpose() else { return Poll::Ready(None) };
        let message = line.and_then(|line| {
            let mut json = serde_json::Deserializer::from_slice(&line);
            let message =
                prost_reflect::DynamicMessage::deserialize(self.message.clone(), &mut json);
            let message = message.and_then(|message| json.end().map(|()| message));
            message.map_err(|error| ClientFault::Broken(error.into()).into())
        });
        Poll::Ready(Some(message.map(|message| Frame::data(frame(&message)))))
    }
}

pin_project_lite::pin_project! {
    /// The messages of an answer as lines or events.
    pub(super) struct Values<B> {
        #[pin]
        body: B,
        frames: Frames,
        shape: Arc<Shape>,
        events: bool,
        // The head said how it ends.
        told: bool,
        over: bool,
    }
}

impl<B> Values<B> {
    pub(super) fn new(body: B, frames: Frames, shape: Arc<Shape>) -> Self {
        Self { body, frames, shape, events: false, told: false, over: false }
    }

    /// As events if that is what the client `accepts`; `told` if the head has said that all is well.
    pub(super) fn like(self, events: bool, told: bool) -> Self {
        Self { events, told, ..self }
    }
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("a message of the answer cannot be read: {0:?}")]
    Frame(FrameFault),
    #[error("a message of the answer is not JSON's: {0}")]
    Message(String),
    #[error("the answer ended within a message")]
    Cut,
    #[error("the answer ended without a status")]
    NoStatus,
    #[error("the answer ended with a status that is not OK")]
    Failed,
}

impl<B> Body for Values<B>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if *this.over {
                return Poll::Ready(None);
            }
            let message = this.frames.next().map_err(Broken::Frame);
            let text = match message {
                Ok(Some(message)) => this.shape.json(&message).map_err(Broken::Message).map(Some),
                Ok(None) => Ok(None),
                Err(broken) => Err(broken),
            };
            match text {
                Ok(Some(text)) => return Poll::Ready(Some(Ok(written(text, *this.events)))),
                Ok(None) => {}
                Err(broken) => {
                    *this.over = true;
                    return Poll::Ready(Some(Err(broken.into())));
                }
            }
            let trailers = match ready!(this.body.as_mut().poll_frame(cx)).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => {
                        this.frames.push(&data);
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                None => None,
            };
            *this.over = true;
            let status = trailers.as_ref().and_then(Status::of);
            let broken = match status {
                _ if !this.frames.is_empty() => Broken::Cut,
                None if *this.told => return Poll::Ready(None),
                None => Broken::NoStatus,
                Some(status) if status.is_ok() => return Poll::Ready(None),
                Some(status) if *this.events => {
                    let problem = status.answer().into_body();
                    return Poll::Ready(Some(Ok(failed(problem))));
                }
                Some(_) => Broken::Failed,
            };
            return Poll::Ready(Some(Err(broken.into())));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

/// JSON has no end of a line within, so that it is one.
fn written(text: Vec<u8>, as_event: bool) -> Frame<Bytes> {
    let (before, after): (&[u8], &[u8]) =
        if as_event { (b"data: ", b"\n\n") } else { (b"", b"\n") };
    Frame::data([before, &text, after].concat().into())
}

/// The last event of a stream that failed.
fn failed(problem: http_body_util::Full<Bytes>) -> Frame<Bytes> {
    let mut problem = problem;
    let text = match Pin::new(&mut problem)
        .poll_frame(&mut Context::from_waker(std::task::Waker::noop()))
    {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    Frame::data([b"event: error\ndata: ", &*text, b"\n\n"].concat().into())
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use prost_reflect::DescriptorPool;

    use super::*;

    fn order() -> MessageDescriptor {
        let set = include_bytes!("../../tests/shop/shop.binpb");
        DescriptorPool::decode(&set[..]).unwrap().get_message_by_name("shop.v1.Order").unwrap()
    }

    /// The messages of a body that comes in pieces of this size, or the fault.
    async fn read(text: &str, piece: usize, most: usize) -> Result<usize, String> {
        let pieces = text
            .as_bytes()
            .chunks(piece)
            .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(piece))));
        let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
        let mut lines =
            Lines::new(RequestBody::new(StreamBody::new(pieces), u64::MAX), order(), most);
        let mut messages = 0;
        while let Some(frame) = lines.frame().await {
            match frame {
                Ok(_) => messages += 1,
                Err(error) => return Err(ClientFault::in_error(&*error).unwrap().to_string()),
            }
        }
        Ok(messages)
    }

    #[tokio::test]
    async fn lines_are_messages_however_they_are_cut_and_a_line_has_a_bound() {
        let text = "\n{\"id\": \"a\"}\r\n \n{}\n\n{\"id\":\"b\"}";
        for piece in 1..text.len() + 1 {
            assert_eq!(read(text, piece, 12).await, Ok(3), "{piece}");
            assert_eq!(
                read(text, piece, 9).await,
                Err("the request body is too large".into()),
                "{piece}"
            );
        }
        let endless = read(&" ".repeat(1000), 10, 50).await;
        assert_eq!(endless, Err("the request body is too large".into()));
        assert_eq!(read("{} {}", 9, 50).await, Err("the request body could not be read".into()));
        assert_eq!(read("", 1, 50).await, Ok(0));
    }

    /// What becomes of the messages of an answer.
    async fn values(frames: Vec<Frame<Bytes>>, told: bool) -> Result<String, String> {
        let frames = frames.into_iter().map(Ok::<_, BoxError>);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let shape = Shape { message: order(), field: None, defaults: false };
        let values = Values::new(body, Frames::new(100), Arc::new(shape)).like(false, told);
        let whole = values.collect().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(whole.to_bytes().to_vec()).unwrap())
    }

    fn trailers(status: &'static str) -> Frame<Bytes> {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        Frame::trailers(trailers)
    }

    #[tokio::test]
    async fn an_answer_is_whole_only_with_all_its_messages_and_ok() {
        let message = || Frame::data(Bytes::from_static(b"\0\0\0\0\x03\x0a\x01a"));
        let line = "{\"id\":\"a\"}\n";
        assert_eq!(values(vec![message(), trailers("0")], false).await, Ok(line.into()));
        assert_eq!(values(vec![trailers("0")], false).await, Ok(String::new()));
        assert_eq!(values(vec![], true).await, Ok(String::new()));
        let half = || Frame::data(Bytes::from_static(b"\0\0\0\0\x03\x0a"));
        for (frames, why) in [
            (vec![message()], "without a status"),
            (vec![message(), trailers("13")], "not OK"),
            (vec![half(), trailers("0")], "within a message"),
            (vec![Frame::data(Bytes::from_static(b"\0\0\0\0\x65"))], "TooLarge"),
            (vec![Frame::data(Bytes::from_static(b"\0\0\0\0\x01\xff"))], "not JSON's"),
        ] {
            let error = values(frames, false).await.unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
