//! What of a trace goes into and comes out of headers.

use gusset_call::{Ambient, Attempt, SpanId, TraceContext, TraceState};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::tracestate::{TRACESTATE, tracestate_in};
use crate::{Ratio, ambient::attempt_of};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What of a request's headers matters here, found by looking at each once: a header that is looked up costs as much as several that
/// are passed over.
pub(super) struct Seen<'a> {
    headers: &'a HeaderMap,
    traceparent: Option<&'a HeaderValue>,
    attempt: Option<&'a HeaderValue>,
    previous: Option<&'a HeaderValue>,
    has_state: bool,
    /// `traceparent` is there twice, and nobody knows which of them is meant.
    ambiguous: bool,
}

impl<'a> Seen<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self {
            headers,
            traceparent: None,
            attempt: None,
            previous: None,
            has_state: false,
            ambiguous: false,
        };
        for (name, value) in headers {
            match name.as_str() {
                "traceparent" => seen.ambiguous |= seen.traceparent.replace(value).is_some(),
                "tracestate" => seen.has_state = true,
                "grpc-previous-rpc-attempts" => seen.previous = seen.previous.or(Some(value)),
                "x-gusset-attempt" => seen.attempt = seen.attempt.or(Some(value)),
                _ => {}
            }
        }
        seen
    }

    /// The parent and the state that a request came with. A state without a parent means nothing.
    pub(super) fn parent(&self) -> (Option<TraceContext>, Option<TraceState>) {
        let parent = self.traceparent.filter(|_| !self.ambiguous);
        let parent = parent.and_then(|it| TraceContext::from_header(trimmed(it.as_bytes())).ok());
        let state =
            if self.has_state && parent.is_some() { tracestate_in(self.headers) } else { None };
        (parent, state)
    }

    pub(super) fn attempt(&self) -> Attempt {
        attempt_of(self.attempt, self.previous)
    }
}

/// Without white space around it, which servers in front may have left there.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
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

/// The parent of an outgoing call: the work it is made for, or else what its headers already say.
pub(crate) fn parent_of_call(around: &Ambient, headers: &mut HeaderMap) -> Option<TraceContext> {
    let Some(current) = around.context().trace() else {
        let (parent, state) = Seen::of(headers).parent();
        if state.is_none() {
            headers.remove(TRACESTATE);
        }
        return parent;
    };
    match around.trace_state().and_then(|state| HeaderValue::from_str(state.as_str()).ok()) {
        Some(state) => drop(headers.insert(TRACESTATE, state)),
        None => drop(headers.remove(TRACESTATE)),
    }
    Some(current)
}

/// Tells the service that is called which span calls.
pub(crate) fn inject(trace: TraceContext, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_bytes(&trace.to_header()) {
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
        let (parent, state) =
            Seen::of(&headers(&[("traceparent", GOOD), ("tracestate", "a=1")])).parent();
        assert_eq!(parent.unwrap().to_string(), GOOD);
        assert_eq!(state.unwrap().as_str(), "a=1");
        for bad in [
            headers(&[("tracestate", "a=1")]),
            headers(&[("traceparent", "00-nonsense"), ("tracestate", "a=1")]),
            headers(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")]),
        ] {
            assert_eq!(Seen::of(&bad).parent(), (None, None));
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
        assert_eq!(Seen::of(&headers).parent().0, Some(trace));
    }
}
