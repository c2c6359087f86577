//! What of a trace goes into and comes out of headers.

use std::io::Write;

use gusset_call::{Context, SpanId, TraceContext, TraceState};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::tracestate::{TRACESTATE, tracestate_in};
use crate::Ratio;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span that a request continues; none where the header is absent, malformed or there twice.
fn traceparent_in(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let only = values.next()?;
    if values.next().is_some() {
        return None;
    }
    only.to_str().ok()?.trim_matches([' ', '\t']).parse().ok()
}

/// A new span below `parent`, or a new trace of which `sampling` are sampled.
pub(crate) fn span_below(
    parent: Option<TraceContext>,
    sampling: Ratio,
) -> (TraceContext, Option<SpanId>) {
    match parent {
        Some(parent) => (parent.child(), Some(parent.span_id())),
        None => {
            let root = TraceContext::new_root();
            // The low half of the identifier is random; the same trace is decided in the same way wherever it is asked.
            #[expect(clippy::cast_possible_truncation, reason = "only the low half is meant")]
            let sampled = sampling.covers(root.trace_id().get() as u64);
            (root.with_sampled(sampled), None)
        }
    }
}

/// The parent and the state that a server finds in a request. A state without a parent means nothing.
pub(crate) fn extract(headers: &HeaderMap) -> (Option<TraceContext>, Option<TraceState>) {
    match traceparent_in(headers) {
        Some(parent) => (Some(parent), tracestate_in(headers)),
        None => (None, None),
    }
}

/// The parent of an outgoing call: the work it is made for, or else what its headers already say.
pub(crate) fn parent_of_call(cx: Context, headers: &mut HeaderMap) -> Option<TraceContext> {
    let Some(current) = cx.trace() else {
        let (parent, state) = extract(headers);
        if state.is_none() {
            headers.remove(TRACESTATE);
        }
        return parent;
    };
    let state = TraceState::current();
    match state.and_then(|state| HeaderValue::from_str(state.as_str()).ok()) {
        Some(state) => drop(headers.insert(TRACESTATE, state)),
        None => drop(headers.remove(TRACESTATE)),
    }
    Some(current)
}

/// Tells the service that is called which span calls.
pub(crate) fn inject(trace: TraceContext, headers: &mut HeaderMap) {
    let mut text = [0; 55];
    let written = write!(&mut text[..], "{trace}");
    debug_assert!(written.is_ok(), "a traceparent is 55 bytes long");
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_state_counts_only_beside_one_good_parent() {
        let (parent, state) = extract(&headers(&[("traceparent", GOOD), ("tracestate", "a=1")]));
        assert_eq!(parent.unwrap().to_string(), GOOD);
        assert_eq!(state.unwrap().as_str(), "a=1");
        for bad in [
            headers(&[("tracestate", "a=1")]),
            headers(&[("traceparent", "00-nonsense"), ("tracestate", "a=1")]),
            headers(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")]),
        ] {
            assert_eq!(extract(&bad), (None, None));
        }
    }

    #[test]
    fn a_child_keeps_the_decision_of_its_parent_and_a_root_takes_the_share() {
        let parent: TraceContext = GOOD.parse().unwrap();
        let (child, parent_id) = span_below(Some(parent), Ratio::NONE);
        assert!(child.is_sampled());
        assert_eq!(parent_id, Some(parent.span_id()));
        assert!(!span_below(Some(parent.with_sampled(false)), Ratio::ALL).0.is_sampled());

        assert!(span_below(None, Ratio::ALL).0.is_sampled());
        assert!(!span_below(None, Ratio::NONE).0.is_sampled());
        let sampled =
            (0..10_000).filter(|_| span_below(None, Ratio::percent(25)).0.is_sampled()).count();
        assert!((2_200..2_800).contains(&sampled), "{sampled} of 10,000");
    }

    #[test]
    fn what_is_injected_is_extracted() {
        let trace = TraceContext::new_root();
        let mut headers = HeaderMap::new();
        inject(trace, &mut headers);
        assert_eq!(extract(&headers).0, Some(trace));
    }
}
