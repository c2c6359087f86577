//! The page that Prometheus asks for.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, VARY},
};
use http_body_util::Full;
use tower_service::Service;

use super::{
    registry::Metrics,
    text::{self, Format},
};

/// Answers with all metrics of one registry, in OpenMetrics 1.0 where the caller prefers that, and else in Prometheus' text format 0.0.4.
///
/// Only OpenMetrics has exemplars, so Prometheus shows them if it was started with `--enable-feature=exemplar-storage`. The page is for those who operate the program: it
/// stands on a port of theirs, or behind a check of who asks. Any path is answered; the router chooses.
///
/// ```
/// use gusset_sidecar::Metrics;
/// use http::{Request, header::CONTENT_TYPE};
/// use http_body_util::{BodyExt, Empty};
/// use tower::ServiceExt;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let metrics = Metrics::new();
/// metrics.counter("orders_total", "Orders taken.").increment();
/// // In axum: `Router::new().route_service("/metrics", metrics.endpoint())`.
/// let page = metrics.endpoint().oneshot(Request::new(Empty::<bytes::Bytes>::new())).await.unwrap();
/// assert_eq!(page.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
/// let text = page.into_body().collect().await.unwrap().to_bytes();
/// assert!(text.starts_with(b"# HELP gusset_"));
/// # });
/// ```
///
/// # Readiness
///
/// Always ready. The page is written, and sources are asked, before the call returns.
///
/// # Cancellation
///
/// There is nothing to cancel.
#[derive(Clone, Debug)]
pub struct MetricsEndpoint {
    metrics: Metrics,
}

impl Metrics {
    /// A service that answers with everything, for Prometheus and whoever reads the same.
    #[must_use]
    pub fn endpoint(&self) -> MetricsEndpoint {
        MetricsEndpoint { metrics: self.clone() }
    }
}

impl<B> Service<Request<B>> for MetricsEndpoint {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = Response::default();
        let to_head = request.method() == Method::HEAD;
        let headers = response.headers_mut();
        if !to_head && request.method() != Method::GET {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return ready(Ok(response));
        }
        let format = wanted(request.headers());
        let kind = match format {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        };
        let page = text::render(&self.metrics.collect(), format);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(page.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        if !to_head {
            *response.body_mut() = page.into();
        }
        ready(Ok(response))
    }
}

/// OpenMetrics if it is named and liked no less than text; text for everybody else, also for who wants neither: a page that one has to look at twice is better than none.
fn wanted(headers: &HeaderMap) -> Format {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut new, mut old) = (0.0_f32, None);
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut version, mut quality) = (None, 1.0);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim_matches('"');
            match &*key.trim().to_ascii_lowercase() {
                "q" => quality = value.parse().unwrap_or(0.0),
                "version" => version = Some(value),
                _ => {}
            }
        }
        match (&*name, version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => new = new.max(quality),
            ("text/plain", None | Some("0.0.4")) => {
                old = Some(old.map_or(quality, |old: f32| old.max(quality)))
            }
            _ => {}
        }
    }
    let liked = new > 0.0 && old.is_none_or(|old| new >= old);
    if liked { Format::OpenMetrics } else { Format::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(accept: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        wanted(&headers)
    }

    #[test]
    fn the_caller_gets_what_it_likes_best() {
        const NEW: &str = "application/openmetrics-text";
        for accept in [
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ][..],
            &[
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ],
            &["text/plain; q=0.5", "Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.5"],
            &[NEW],
        ] {
            assert_eq!(wants(accept), Format::OpenMetrics, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=x"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;q=0.3,text/plain;version=0.0.4"],
            &[",;,=;q=1"],
        ] {
            assert_eq!(wants(accept), Format::Text, "{accept:?}");
        }
    }
}
