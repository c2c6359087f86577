use std::{borrow::Cow, mem, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use tokio::time::{Instant, timeout};
use tower::util::Oneshot;

use super::{
    BranchStats, FanOut, MakeCaller,
    address::Address,
    branch::Counters,
    merge::{Part, Value, merge},
    select::Pointer,
};
use crate::{
    Route, Upstream,
    answer::Answer,
    body::RequestBody,
    forward::{AnyBody, UpstreamBody, passed_back},
    routes::{HostAs, Leads, Methods, Pattern},
    upstream::Caller,
};

/// Fields of a request that speak of its body, of parts of the answer, or of an answer that the client has stored: the answer is another one here.
const NOT_FOR_BRANCHES: [HeaderName; 15] = [
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("idempotency-key"),
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    HeaderName::from_static("repr-digest"),
    header::TE,
    header::TRAILER,
];

/// A [`FanOut`] that was checked.
pub(crate) struct Fan {
    /// The path of the route, to find what its parameters stand for.
    pattern: Pattern,
    branches: Vec<Line>,
    max_body: usize,
    missing: Box<str>,
}

struct Line {
    name: Arc<str>,
    to: Upstream,
    address: Address,
    pointer: Pointer,
    flat: bool,
    required: bool,
    limit: Duration,
    caller: Caller,
    counters: Counters,
}

/// Why a branch has no value.
enum Failure {
    /// It did not answer as it should.
    Ours(Answer),
    /// It answered, but not with a success.
    Theirs(Box<Response<UpstreamBody>>),
    /// The same, as far as it was read.
    Read(Box<Response<Bytes>>),
}

impl Fan {
    pub(super) fn compile(
        route: &Route,
        of: &FanOut,
        make_caller: &mut MakeCaller<'_>,
    ) -> Result<Self, String> {
        check(route, of)?;
        let pattern = Pattern::parse(&route.path)?;
        let mut branches: Vec<Line> = Vec::new();
        for branch in &of.branches {
            let wrong = |reason| format!("branch {}: {reason}", branch.name);
            if branches.iter().any(|other| other.name == branch.name) || *branch.name == *of.missing
            {
                return Err(wrong("something else has this name".to_owned()));
            }
            if !branch.to.leads_somewhere() {
                return Err(wrong("it leads nowhere".to_owned()));
            }
            let limit = branch.timeout.map_or(route.timeout, |limit| limit.min(route.timeout));
            let address = Address::compile(&pattern, &branch.path, &branch.query);
            branches.push(Line {
                name: branch.name.clone(),
                to: branch.to.clone(),
                address: address.map_err(wrong)?,
                pointer: Pointer::parse(&branch.pointer).map_err(wrong)?,
                flat: branch.flat,
                required: branch.required,
                limit,
                caller: make_caller(&branch.to, limit),
                counters: Counters::default(),
            });
        }
        Ok(Self { pattern, branches, max_body: of.max_body, missing: of.missing.clone() })
    }

    pub(super) fn stats(&self) -> Vec<BranchStats> {
        let read = |branch: &Line| branch.counters.read(branch.name.clone(), branch.to.clone());
        self.branches.iter().map(read).collect()
    }

    /// The answer to the request of this head, which is as an upstream would see it.
    pub(super) async fn answer(self: Arc<Self>, head: Parts) -> Result<Response<AnyBody>, Answer> {
        let bodyless = head.method == Method::HEAD;
        let requests = self.requests(&head).ok_or(Answer::NotFound)?;
        drop(head);
        let asked = requests.into_iter().enumerate().map(|(at, request)| {
            let fan = self.clone();
            async move { (at, fan.ask(at, request).await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut values: Vec<_> = self.branches.iter().map(|_| None).collect();
        while let Some((at, value)) = asked.next().await {
            match value {
                // Whoever is under way still is cancelled with `asked`.
                Err(failure) if self.branches[at].required => return failure.answer(bodyless),
                value => values[at] = Some(value),
            }
        }
        let mut values: Vec<_> = values.into_iter().flatten().collect();
        if values.iter().all(Result::is_err) {
            return match values.swap_remove(0) {
                Err(failure) => failure.answer(bodyless),
                Ok(_) => Err(Answer::BadGateway),
            };
        }
        Ok(self.whole(&values, bodyless))
    }

    /// What each branch is asked.
    fn requests(&self, head: &Parts) -> Option<Vec<Request<RequestBody>>> {
        let captures = self.pattern.captures(head.uri.path())?;
        let mut headers = head.headers.clone();
        for name in &NOT_FOR_BRANCHES {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = |uri: Uri, headers: HeaderMap| {
            let mut request = Request::new(RequestBody::new(Full::<Bytes>::default(), 0));
            (*request.uri_mut(), *request.headers_mut()) = (uri, headers);
            if let Some(host) = head.extensions.get::<HostAs>() {
                request.extensions_mut().insert(host.clone());
            }
            request
        };
        let uri = |branch: &Line| branch.address.of(&head.uri, &captures);
        self.branches.iter().map(|branch| Some(request(uri(branch)?, headers.clone()))).collect()
    }

    async fn ask(&self, at: usize, request: Request<RequestBody>) -> Result<Bytes, Failure> {
        let branch = &self.branches[at];
        let started = Instant::now();
        let value = match timeout(branch.limit, branch.value(request, self.max_body)).await {
            Ok(value) => value,
            Err(_) => Err(Failure::Ours(Answer::Timeout)),
        };
        branch.counters.count(value.is_ok(), started.elapsed());
        value
    }

    fn whole(&self, values: &[Result<Bytes, Failure>], bodyless: bool) -> Response<AnyBody> {
        let details: Vec<_> = values.iter().map(|v| v.as_ref().err().map(Failure::tell)).collect();
        let parts = self.branches.iter().zip(values).zip(&details);
        let parts = parts.map(|((branch, value), detail)| Part {
            name: &branch.name,
            flat: branch.flat,
            value: match (value, detail) {
                (Ok(text), _) => Value::There(text),
                (Err(_), Some((status, detail))) => Value::Missing { status: *status, detail },
                (Err(_), None) => Value::Missing { status: StatusCode::BAD_GATEWAY, detail: "" },
            },
        });
        let text = merge(&parts.collect::<Vec<_>>(), &self.missing);
        let stored = if details.iter().all(Option::is_none) { "no-cache" } else { "no-store" };
        let length = text.len();
        let body = if bodyless { Full::default() } else { Full::from(text) };
        let mut response = Response::new(Either::Right(Either::Left(body)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(stored));
        headers.insert(header::CONTENT_LENGTH, length.into());
        response
    }
}

/// What no branch can mend.
fn check(route: &Route, of: &FanOut) -> Result<(), String> {
    let reads = |method: &Method| matches!(*method, Method::GET | Method::HEAD);
    if of.branches.is_empty() || of.branches.len() > FanOut::MOST {
        return Err(format!("a fan-out has one branch to {}", FanOut::MOST));
    }
    if !matches!(route.leads, Leads::Nowhere) {
        return Err("a fan-out leads to its branches; to(…) leads nowhere then".into());
    }
    match &route.methods {
        Methods::These(methods) if methods.iter().all(reads) => {}
        _ => {
            return Err(
                "a fan-out takes GET alone, for several effects cannot be taken back".into()
            );
        }
    }
    if route.rewrites() || route.idempotency.is_some() || !route.upgrades.is_empty() {
        return Err(
            "a fan-out has the paths of its branches, no idempotency key and no upgrade".into()
        );
    }
    Ok(())
}

impl Line {
    async fn value(&self, request: Request<RequestBody>, most: usize) -> Result<Bytes, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            tracing::debug!(branch = &*self.name, error, "a branch has no value");
        };
        let response = match Oneshot::new(self.caller.clone(), request).await {
            Ok(response) => passed_back(response).map_err(Failure::Ours)?,
            Err(error) => {
                failed(&*error);
                return Err(Failure::Ours(Answer::to_error(&error, 0)));
            }
        };
        if !response.status().is_success() {
            return Err(self.refused(response, most).await);
        }
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Bytes::from_static(if self.flat { b"{}" } else { b"null" }));
        }
        let body = read(response.into_body(), most).await.map_err(|fault| {
            tracing::debug!(branch = &*self.name, fault, "a branch has no value");
            Failure::Ours(Answer::BadGateway)
        })?;
        let value = self.pointer.find(&body).filter(|value| !self.flat || value.starts_with(b"{"));
        value.ok_or_else(|| {
            tracing::debug!(branch = &*self.name, "a branch answers without the value");
            Failure::Ours(Answer::BadGateway)
        })
    }

    /// That of a required branch is the answer. Another one is read, so that its connection can serve again.
    async fn refused(&self, response: Response<UpstreamBody>, most: usize) -> Failure {
        if self.required {
            return Failure::Theirs(Box::new(response));
        }
        let (head, body) = response.into_parts();
        match read(body, most).await {
            Ok(body) => Failure::Read(Box::new(Response::from_parts(head, body))),
            Err(_) => Failure::Ours(Answer::BadGateway),
        }
    }
}

impl Failure {
    /// As the answer to the whole request.
    fn answer(self, bodyless: bool) -> Result<Response<AnyBody>, Answer> {
        let mut response = match self {
            Self::Ours(answer) => return Err(answer),
            Self::Theirs(response) => response.map(Either::Left),
            Self::Read(response) => response.map(|body| Either::Right(Either::Left(body.into()))),
        };
        if bodyless {
            *response.body_mut() = Either::Right(Either::Left(Full::default()));
        }
        Ok(response)
    }

    /// As it is told where something else is the answer.
    fn tell(&self) -> (StatusCode, Cow<'static, str>) {
        let answered = |status: StatusCode| {
            (status, format!("the service answered with {}", status.as_str()).into())
        };
        match self {
            Self::Ours(answer) => (answer.status(), answer.detail().into()),
            Self::Theirs(response) => answered(response.status()),
            Self::Read(response) => answered(response.status()),
        }
    }
}

/// All of a body of at most these many bytes.
async fn read(mut body: UpstreamBody, most: usize) -> Result<Bytes, &'static str> {
    const TOO_LARGE: &str = "its answer is too large";
    if body.size_hint().lower() > most as u64 {
        return Err(TOO_LARGE);
    }
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| "its answer broke off")?.into_data() else { continue };
        if first.len().max(all.len()) + data.len() > most {
            return Err(TOO_LARGE);
        }
        // Most answers are one piece.
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
