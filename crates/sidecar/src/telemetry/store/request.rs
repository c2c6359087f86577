//! What somebody asks over HTTP.

use std::{str::FromStr, time::Duration};

use gusset_call::TraceId;
use http::{HeaderMap, Method, Request, StatusCode, header};

use super::{LogQuery, TraceQuery, query::Text};
use crate::telemetry::environment::decoded;

/// A question that makes sense.
#[derive(Debug)]
pub(super) enum Ask {
    Traces(TraceQuery),
    Trace(TraceId),
    Logs(LogQuery),
    FollowSpans(TraceQuery),
    /// From the log with this number on.
    FollowLogs(LogQuery, Option<u64>),
}

/// Why it makes none: status, and words.
pub(super) type Refused = (StatusCode, String);

/// Most that one answer lists.
const MOST: usize = 1_000;

impl Ask {
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Refused> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are".into()));
        }
        let path = request.uri().path().trim_matches('/');
        let mut asked = Asked::of(request.uri().query().unwrap_or_default())?;
        let follow = asked.flag("follow")? || wants_events(request.headers());
        let ask = match path.split_once('/') {
            None if path == "logs" && follow => {
                let last = request.headers().get("last-event-id");
                let last = last.and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
                Self::FollowLogs(asked.logs()?, last.map(|last| last.saturating_add(1)))
            }
            None if path == "logs" => Self::Logs(asked.logs()?),
            None if path == "traces" && follow => Self::FollowSpans(asked.traces()?),
            None if path == "traces" => Self::Traces(asked.traces()?),
            Some(("traces", id)) => match id.parse() {
                Ok(id) => Self::Trace(id),
                Err(_) => return Err((StatusCode::NOT_FOUND, "no identifier of a trace".into())),
            },
            _ => {
                let known = "there are /traces, /traces/{id} and /logs";
                return Err((StatusCode::NOT_FOUND, known.into()));
            }
        };
        asked.nothing_left()?;
        Ok(ask)
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// The parameters of a query that nobody has looked at yet.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn of(query: &str) -> Result<Self, Refused> {
        let bad = || bad("query", "is not percent-encoded");
        let text = |text: &str| decoded(&text.replace('+', " ")).ok_or_else(bad);
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((text(key)?, text(value)?))
        });
        pairs.collect::<Result<_, Refused>>().map(Self)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(at).1).filter(|value| !value.is_empty())
    }

    fn parse<T: FromStr>(&mut self, name: &'static str, what: &str) -> Result<Option<T>, Refused> {
        let value = self.take(name);
        value.map(|value| value.parse().map_err(|_| bad(name, what))).transpose()
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, Refused> {
        Ok(self.parse(name, "is neither true nor false")?.unwrap_or(false))
    }

    fn nanos(&mut self, name: &'static str) -> Result<Option<u64>, Refused> {
        self.parse(name, "is no number of nanoseconds since 1970")
    }

    fn limit(&mut self, default: usize) -> Result<usize, Refused> {
        Ok(self.parse("limit", "is no number")?.unwrap_or(default).min(MOST))
    }

    fn logs(&mut self) -> Result<LogQuery, Refused> {
        let default = LogQuery::new();
        Ok(LogQuery {
            service: self.take("service"),
            level: self.parse("level", "is no level")?.unwrap_or(default.level),
            trace: self.parse("trace_id", "is no identifier of a trace")?,
            since: self.nanos("since")?.unwrap_or(default.since),
            until: self.nanos("until")?.unwrap_or(default.until),
            text: Text::new(&self.take("text").unwrap_or_default()),
            before: self.parse("before", "is no number of a log")?,
            limit: self.limit(default.limit)?,
        })
    }

    fn traces(&mut self) -> Result<TraceQuery, Refused> {
        let default = TraceQuery::new();
        let millis = self.parse("min_duration_ms", "is no number of milliseconds")?;
        Ok(TraceQuery {
            service: self.take("service"),
            since: self.nanos("since")?.unwrap_or(default.since),
            until: self.nanos("until")?.unwrap_or(default.until),
            longer_than: millis.map_or(default.longer_than, Duration::from_millis),
            failed: self.flag("failed")?,
            text: Text::new(&self.take("text").unwrap_or_default()),
            limit: self.limit(default.limit)?,
        })
    }

    /// A parameter that is not understood would give an answer to another question.
    fn nothing_left(self) -> Result<(), Refused> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(bad(&name, "is not known here, or there twice"))
            }
        }
    }
}

fn bad(name: &str, what: &str) -> Refused {
    (StatusCode::BAD_REQUEST, format!("{name} {what}"))
}
