mod checked;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod message;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gusset_call::{Context, Deadline};
use gusset_sidecar::Idempotent;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header, request::Parts,
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Either, Full, combinators::UnsyncBoxBody};
use prost_reflect::{FieldDescriptor, MethodDescriptor};
use tokio::time::timeout_at;
use tower::util::Oneshot;

use self::checked::{paths, taken};
use super::{
    GrpcMethod,
    descriptors::Options,
    fields::{Unfit, find},
    frames::{Frames, frame},
    json_stream::{Lines, Values},
    shape::Shape,
    status::Status,
};
use crate::{
    Route,
    answer::Answer,
    body::{RequestBody, Upload},
    forward::{AnyBody, UpstreamBody, passed_back},
    headers::{begins, has_member, remove_where},
    routes::{HostAs, Leads, Pattern},
    upstream::Caller,
};

/// Fields of a request that speak of its body or of the form of its answer, which are others for the method.
const NOT_FOR_METHODS: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    header::TRAILER,
];

/// The same of an answer.
const NOT_FOR_CLIENTS: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    header::TRAILER,
];

/// A [`GrpcMethod`] that was checked.
pub(crate) struct Transcoder {
    /// The path of the route, to find what its parameters stand for.
    pattern: Pattern,
    method: MethodDescriptor,
    target: Uri,
    paths: Vec<Bound>,
    body: Taken,
    shape: Arc<Shape>,
    max_message: usize,
    limit: Duration,
    idempotent: bool,
}

/// A field that the path says, and what it is made of.
type Bound = (Vec<FieldDescriptor>, Vec<Placed>);

enum Placed {
    Literal(String),
    /// By its place in the path.
    Parameter(usize),
}

/// What the body of a request is.
enum Taken {
    Nothing,
    Message,
    Field(FieldDescriptor),
}

impl Transcoder {
    pub(super) fn compile(route: &Route, of: &GrpcMethod) -> Result<Self, String> {
        let mirrored = route.mirror.is_some();
        if route.rewrites() || route.idempotency.is_some() || !route.upgrades.is_empty() || mirrored
        {
            let reason = "a method of gRPC has the path of its own, no idempotency key, no upgrade and no mirror";
            return Err(reason.into());
        }
        if !matches!(route.leads, Leads::To(_) | Leads::Split(_)) {
            return Err("a method of gRPC is one of an upstream: to(…)".into());
        }
        let method = of.method.clone();
        let body = taken(route, of)?;
        let pattern = Pattern::parse(&route.path)?;
        let paths = paths(route, of, &pattern)?;
        if method.is_client_streaming() && (!matches!(body, Taken::Message) || !paths.is_empty()) {
            return Err(format!(
                "{} takes a stream, which is the body: no parameters, methods([POST])",
                method.full_name()
            ));
        }
        let known = |name: &str| find(&of.method.output(), name).map(|mut found| found.pop());
        let field = of.response_body.as_deref().map(known).transpose()?.flatten();
        let target = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let target = PathAndQuery::try_from(target).map_err(|error| error.to_string())?;
        Ok(Self {
            pattern,
            target: target.into(),
            paths,
            body,
            shape: Arc::new(Shape { message: method.output(), field, defaults: of.defaults }),
            max_message: of.max_message,
            limit: route.timeout,
            idempotent: Options::of(&method).idempotency > 0,
            method,
        })
    }

    /// The answer to `request`, which is as an upstream would see it, by a call of `caller`.
    pub(super) async fn answer(
        self: Arc<Self>,
        caller: Caller,
        request: Request<RequestBody>,
    ) -> Result<Response<AnyBody>, Answer> {
        // The body is read before the call begins, within the same limit.
        let deadline = Deadline::after(self.limit);
        Context::current().with_deadline(deadline).scope(self.run(caller, request, deadline)).await
    }

    async fn run(
        &self,
        caller: Caller,
        request: Request<RequestBody>,
        deadline: Deadline,
    ) -> Result<Response<AnyBody>, Answer> {
        let (head, body) = request.into_parts();
        let limit = body.limit();
        self.check_media(&head, &body)?;
        let body = if self.method.is_client_streaming() {
            let lines = Lines::new(body, self.method.input(), self.max_message);
            RequestBody::new(lines, u64::MAX)
        } else {
            let read = timeout_at(deadline.instant(), body.collect()).await;
            let read = read.map_err(|_| Answer::SlowBody)?;
            let text = read.map_err(|error| Answer::to_error(&error, limit))?.to_bytes();
            let message = self.message(&head, &text).map_err(Unfit::answer)?;
            RequestBody::new(Full::from(frame(&message)), u64::MAX)
        };
        let response = Oneshot::new(caller, self.request(&head, body)).await.map_err(|error| {
            let answer = Answer::to_error(&error, limit);
            let error = &*error as &dyn std::error::Error;
            tracing::debug!(method = self.method.full_name(), error, "no answer of a method");
            answer
        })?;
        self.translate(&head, passed_back(response)?, deadline).await
    }

    /// A web page may send other media without asking.
    fn check_media(&self, head: &Parts, body: &RequestBody) -> Result<(), Answer> {
        use http_body::Body;
        if body.is_end_stream() || matches!(self.body, Taken::Nothing) {
            return Ok(());
        }
        let kind = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let kind = kind.unwrap_or_default().split(|byte| *byte == b';').next().unwrap_or_default();
        let kind = kind.trim_ascii().to_ascii_lowercase();
        let lines: &[&[u8]] = &[b"application/x-ndjson", b"application/jsonl"];
        let is_json = kind == b"application/json"
            || (kind.starts_with(b"application/") && kind.ends_with(b"+json"))
            || (self.method.is_client_streaming() && lines.contains(&&*kind));
        if is_json { Ok(()) } else { Err(Answer::WrongMedia) }
    }

    fn request(&self, head: &Parts, body: RequestBody) -> Request<RequestBody> {
        let mut headers = head.headers.clone();
        for name in &NOT_FOR_METHODS {
            headers.remove(name);
        }
        remove_where(&mut headers, |name| begins(name, "grpc-"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = headers;
        let extensions = request.extensions_mut();
        if let Some(host) = head.extensions.get::<HostAs>() {
            extensions.insert(host.clone());
        }
        // The upload of a stream goes on while the call does.
        if let (true, Some(upload)) =
            (self.method.is_client_streaming(), head.extensions.get::<Upload>())
        {
            extensions.insert(upload.clone());
        }
        // Whoever may try again waits for the first message, of which a stream may have none for long.
        let again = self.idempotent || head.method.is_idempotent();
        extensions.insert(Idempotent(again && !self.method.is_server_streaming()));
        request
    }

    async fn translate(
        &self,
        head: &Parts,
        response: Response<UpstreamBody>,
        deadline: Deadline,
    ) -> Result<Response<AnyBody>, Answer> {
        let (mut answer, body) = response.into_parts();
        let kind = answer.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if answer.status != 200 || !kind.unwrap_or_default().starts_with(b"application/grpc") {
            tracing::warn!(method = self.method.full_name(), status = %answer.status, "an answer that is not gRPC");
            return Err(Answer::BadGateway);
        }
        let early = Status::of(&answer.headers);
        remove_where(&mut answer.headers, |name| {
            begins(name, "grpc-") || NOT_FOR_CLIENTS.contains(name)
        });
        let early = match early {
            Some(status) if !status.is_ok() => return Ok(told(status)),
            early => early,
        };
        let frames = Frames::new(self.max_message);
        if self.method.is_server_streaming() {
            let events = is_accepted(&head.headers, b"text/event-stream");
            let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
            answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if head.method == Method::HEAD {
                let none = Either::Right(Either::Left(Full::default()));
                return Ok(Response::from_parts(answer, none));
            }
            let values = Values::new(body, frames, self.shape.clone());
            let values = values.like(events, early.is_some());
            let body = Either::Right(Either::Right(Either::Right(UnsyncBoxBody::new(values))));
            return Ok(Response::from_parts(answer, body));
        }
        let read = timeout_at(deadline.instant(), unary(body, frames, early)).await;
        let (message, status) =
            read.map_err(|_| Answer::Timeout)?.map_err(|fault| self.failed(fault))?;
        if !status.is_ok() {
            return Ok(told(status));
        }
        let message = message.ok_or_else(|| self.failed("OK without a message"))?;
        let text = self.shape.json(&message).map_err(|why| self.failed(&why))?;
        let (json, length) = (HeaderValue::from_static("application/json"), text.len());
        answer.headers.insert(header::CONTENT_TYPE, json);
        answer.headers.insert(header::CONTENT_LENGTH, length.into());
        let text = if head.method == Method::HEAD { Full::default() } else { Full::from(text) };
        Ok(Response::from_parts(answer, Either::Right(Either::Left(text))))
    }

    fn failed(&self, fault: &str) -> Answer {
        tracing::warn!(method = self.method.full_name(), fault, "an answer that cannot be read");
        Answer::BadGateway
    }
}

fn told(status: Status) -> Response<AnyBody> {
    status.answer().map(|body| Either::Right(Either::Left(body)))
}

fn is_accepted(headers: &HeaderMap, kind: &[u8]) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|accepts| has_member(accepts, kind))
}

/// The only message of an answer, and how it ended.
async fn unary(
    mut body: UpstreamBody,
    mut frames: Frames,
    mut status: Option<Status>,
) -> Result<(Option<Bytes>, Status), &'static str> {
    let mut message = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| "it broke off")?.into_data() {
            Ok(data) => frames.push(&data),
            Err(frame) => status = frame.trailers_ref().and_then(Status::of).or(status),
        }
        while let Some(next) =
            frames.next().map_err(|_| "its message is too large, or compressed")?
        {
            if message.replace(next).is_some() {
                return Err("it has more than one message");
            }
        }
    }
    if !frames.is_empty() {
        return Err("it ended within a message");
    }
    status.map(|status| (message, status)).ok_or("it ended without a status")
}

#[cfg(test)]
mod tests;
