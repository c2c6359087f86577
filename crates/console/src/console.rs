use std::sync::{Arc, atomic::AtomicUsize};

use axum::{Router, body::Body, extract::Request, routing::any};
use bytes::Bytes;
use gusset_call::{Asked, Door};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    Sources,
    answer::{Answer, guarded, json, problem, typed},
    breakers, canary, elsewhere, limits,
    live::Shown,
    map, messages, sagas, switches, traces,
};

/// Longest body of an order.
const BODY: usize = 64 << 10;
/// So much of an order is logged, in characters.
const LOGGED: usize = 500;

/// The console over `sources`, to be served alone or nested in another router, under a path that ends with a slash: `.nest("/console/", …)`.
///
/// # Cancellation
///
/// Nothing runs while nobody asks. Dropping an answer ends the reading, or the following, that it is. An order that was given stands: but who leaves while many dead letters are
/// redriven leaves the rest where it is.
pub fn router(sources: Sources) -> Router {
    let console = Arc::new(Console {
        sources,
        memory: map::Memory::default(),
        shown: Default::default(),
        viewers: AtomicUsize::new(0),
    });
    let answer = any(move |request: Request| {
        let console = console.clone();
        async move { guarded(console.answer(request).await) }
    });
    Router::new().route("/", answer.clone()).route("/{*path}", answer)
}

pub(crate) struct Console {
    sources: Sources,
    memory: map::Memory,
    shown: [Shown; Page::ALL.len()],
    pub(crate) viewers: AtomicUsize,
}

/// What can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Map,
    Breakers,
    Limits,
    Traces,
    Sagas,
    Broker,
    Canary,
    Switches,
}

impl Page {
    pub(crate) const ALL: [(Self, &str); 8] = [
        (Self::Map, "map"),
        (Self::Breakers, "breakers"),
        (Self::Limits, "limits"),
        (Self::Traces, "traces"),
        (Self::Sagas, "sagas"),
        (Self::Broker, "broker"),
        (Self::Canary, "canary"),
        (Self::Switches, "switches"),
    ];

    pub(crate) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, of)| *of == name).map(|(page, _)| *page)
    }
}

impl Console {
    pub(crate) fn shown(&self, page: Page) -> &Shown {
        &self.shown[page as usize]
    }

    pub(crate) async fn page(&self, page: Page) -> Value {
        let sources = &*self.sources.now();
        let own = match page {
            Page::Map => map::page(sources, &self.memory).await,
            Page::Breakers => breakers::page(sources),
            Page::Limits => limits::page(sources),
            Page::Traces => traces::page(sources),
            Page::Sagas => sagas::page(sources).await,
            Page::Broker => messages::page(sources).await,
            Page::Canary => canary::page(sources),
            Page::Switches => switches::page(sources),
        };
        elsewhere::page(sources, page, own).await
    }

    async fn answer(self: Arc<Self>, request: Request) -> Answer {
        let door = &self.sources.door;
        let what = if request.uri().path() == "/" { Asked::Page } else { Asked::Open };
        if let Some(refused) = door.refuses(&request, what) {
            return refused.map(Body::new);
        }
        let path = request.uri().path().to_owned();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match (&*path, reads) {
            ("/", true) => typed("text/html; charset=utf-8", include_str!("../page/index.html")),
            ("/app.js", true) => {
                typed("text/javascript; charset=utf-8", include_str!("../page/app.js"))
            }
            ("/app.css", true) => typed("text/css; charset=utf-8", include_str!("../page/app.css")),
            ("/icon.svg", true) => typed("image/svg+xml", include_str!("../page/icon.svg")),
            ("/api/session", true) => self.session(request.headers()),
            (_, true) if self.sources.readers_too && !self.is_operator(request.headers()) => {
                Door::challenge().map(Body::new)
            }
            (_, true) => self.look(&path, request.uri().query()).await,
            (path, false) if request.method() == Method::POST && path.starts_with("/api/") => {
                if !door.has_token() {
                    let reason = "this console has no operator's token, and so changes nothing";
                    return problem(StatusCode::FORBIDDEN, reason);
                }
                if !self.is_operator(request.headers()) {
                    return Door::challenge().map(Body::new);
                }
                self.act(path, request).await
            }
            _ => wrong_method(),
        }
    }

    fn is_operator(&self, headers: &HeaderMap) -> bool {
        self.sources.door.is_shown_token(headers)
    }

    /// Who asks, and what for there is a source.
    fn session(&self, headers: &HeaderMap) -> Answer {
        let sources = &*self.sources.now();
        json(&json!({
            "operator": self.is_operator(headers),
            "can_act": sources.door.has_token(),
            "readers_need_token": sources.readers_too,
            "others": sources.others.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
            "sources": {
                "map": sources.registry.is_some() || !sources.metrics.is_empty() || !sources.gateways.is_empty(),
                "breakers": !sources.circuits.is_empty() || !sources.gateways.is_empty(),
                "limits": !sources.limits.is_empty(),
                "traces": !sources.traces.is_empty(),
                "sagas": sources.sagas.is_some(),
                "broker": sources.broker.is_some(),
                "canary": !sources.splits.is_empty(),
                "switches": !sources.switches.is_empty(),
            },
        }))
    }

    async fn look(self: Arc<Self>, path: &str, query: Option<&str>) -> Answer {
        if path == "/live" {
            let Some(page) = parameter(query, "page").and_then(Page::named) else {
                return problem(
                    StatusCode::BAD_REQUEST,
                    "which page? map, breakers, limits, traces, sagas, broker, canary or switches",
                );
            };
            return match self.follow(page) {
                Some(body) => typed("text/event-stream", body),
                None => problem(StatusCode::SERVICE_UNAVAILABLE, "too many look already"),
            };
        }
        let Some(rest) = path.strip_prefix("/api/") else { return not_found() };
        if let Some(page) = Page::named(rest) {
            return typed("application/json", self.read(page).await.json);
        }
        match self.detail(rest, query).await {
            Ok(Some(value)) => json(&value),
            Ok(None) => not_found(),
            Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// What is asked for by name.
    async fn detail(&self, rest: &str, query: Option<&str>) -> Result<Option<Value>, String> {
        let sources = &*self.sources.now();
        let asked = rest.split_once('/').unwrap_or((rest, ""));
        let own = self.own_detail(sources, asked, query).await?;
        match asked {
            ("traces" | "sagas" | "letters", id)
                if !id.is_empty() && !sources.others.is_empty() =>
            {
                elsewhere::detail(sources, asked, own).await
            }
            _ => Ok(own),
        }
    }

    async fn own_detail(
        &self,
        sources: &Sources,
        asked: (&str, &str),
        query: Option<&str>,
    ) -> Result<Option<Value>, String> {
        use gusset_saga::SagaError::NoSuchSaga;
        match asked {
            ("traces", "all") => Ok(Some(traces::list(&sources.traces))),
            ("traces", id) => Ok(traces::one(&sources.traces, id)),
            ("sagas", id) => {
                let (Some(sagas), Some(id)) = (&sources.sagas, &elsewhere::decoded(id)) else {
                    return Ok(None);
                };
                match sagas::one(sagas, id, &sources.traces).await {
                    Ok(Value::Null) | Err(NoSuchSaga(_)) => Ok(None),
                    Ok(found) => Ok(Some(found)),
                    Err(error) => Err(error.to_string()),
                }
            }
            ("letters", id) => {
                let Some(broker) = &sources.broker else { return Ok(None) };
                let found = match (id, id.parse()) {
                    ("", _) => {
                        let after = parameter(query, "after").and_then(|after| after.parse().ok());
                        let letters = messages::letters(broker, after).await;
                        letters.map(|letters| Some(json!({ "letters": letters })))
                    }
                    (_, Ok(id)) => messages::one(broker, id).await,
                    (_, Err(_)) => Ok(None),
                };
                found.map_err(|error| error.to_string())
            }
            _ => Ok(None),
        }
    }

    async fn act(&self, path: &str, request: Request) -> Answer {
        // Forms of other pages cannot send this type unasked.
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if !kind.is_some_and(|kind| kind.starts_with(b"application/json")) {
            return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json");
        }
        let body = Limited::new(request.into_body(), BODY).collect().await;
        let Ok(body) = body.map(|body| body.to_bytes()) else {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "the order is too long, or broke off");
        };
        let done = self.order(path, &body).await;
        let order: String = String::from_utf8_lossy(&body).chars().take(LOGGED).collect();
        match &done {
            Some(Ok(_)) => tracing::info!(path, %order, "an operator's order was carried out"),
            Some(Err(why)) => tracing::info!(path, %order, why, "an operator's order was refused"),
            None => {}
        }
        match done {
            Some(Ok(value)) => json(&value),
            Some(Err(why)) => problem(StatusCode::CONFLICT, &why),
            None => not_found(),
        }
    }

    /// What came of it; `None` if there is nothing to order there.
    async fn order(&self, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        #[derive(Deserialize)]
        struct OfCircuit {
            group: String,
            name: String,
            #[serde(rename = "do")]
            act: String,
        }
        #[derive(Deserialize)]
        struct OfSplit {
            split: String,
            #[serde(rename = "do")]
            act: String,
            #[serde(default)]
            variant: String,
        }
        let sources = &*self.sources.now();
        let elsewhere = match serde_json::from_slice(body) {
            Ok(order) => elsewhere::order(sources, path, &order).await,
            Err(_) => None,
        };
        if elsewhere.is_some() {
            return elsewhere;
        }
        Some(match path {
            "/api/breakers" => parsed(body).and_then(|OfCircuit { group, name, act }| {
                let count = breakers::act(sources, (&group, &name), &act)?;
                Ok(json!({ "circuits": count }))
            }),
            "/api/canary" => parsed(body).and_then(|OfSplit { split, act, variant }| {
                canary::act(sources, &split, &act, &variant)?;
                Ok(json!({}))
            }),
            "/api/switches" => parsed(body).and_then(|turn| {
                switches::act(sources, &turn)?;
                Ok(json!({}))
            }),
            "/api/sagas" => match parsed(body) {
                Ok(act) => sagas::act(sources.sagas.as_ref()?, act).await,
                Err(why) => Err(why),
            },
            "/api/letters" => match parsed(body) {
                Ok(act) => messages::act(sources.broker.as_ref()?, &act).await,
                Err(why) => Err(why),
            },
            _ => return None,
        })
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn not_found() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is nothing of that name here")
}

fn wrong_method() -> Answer {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "not by this method");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}
