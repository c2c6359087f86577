//! What of a trace goes into and comes out of headers.

use gusset_call::{
    Ambient, Attempt, Baggage, RequestId, SpanId, TraceContext, TraceId, TraceState,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    b3,
    settings::Settings,
    tracestate::{TRACESTATE, tracestate_in},
};
use crate::{Ratio, ambient::attempt_of};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What of a request's headers matters here, found by looking at each once: a header that is looked up costs as much as several that
/// are passed over.
pub(super) struct Seen<'a> {
    headers: &'a HeaderMap,
    traceparent: Option<&'a HeaderValue>,
    attempt: Option<&'a HeaderValue>,
    previous: Option<&'a HeaderValue>,
    request_id: Option<&'a HeaderValue>,
    has_state: bool,
    has_baggage: bool,
    has_b3: bool,
    /// `traceparent` is there twice, and nobody knows which of them is meant.
    ambiguous: bool,
}

/// Where a new span stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Above {
    pub(super) parent: Option<TraceContext>,
    /// Whether a trace that begins here is sampled, if that is decided.
    pub(super) sampled: Option<bool>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self {
            headers,
            traceparent: None,
            attempt: None,
            previous: None,
            request_id: None,
            has_state: false,
            has_baggage: false,
            has_b3: false,
            ambiguous: false,
        };
        for (name, value) in headers {
            match name.as_str() {
                "traceparent" => seen.ambiguous |= seen.traceparent.replace(value).is_some(),
                "tracestate" => seen.has_state = true,
                "baggage" => seen.has_baggage = true,
                "b3" | "x-b3-traceid" | "x-b3-sampled" | "x-b3-flags" => seen.has_b3 = true,
                "grpc-previous-rpc-attempts" => seen.previous = seen.previous.or(Some(value)),
                "x-gusset-attempt" => seen.attempt = seen.attempt.or(Some(value)),
                "x-request-id" => seen.request_id = seen.request_id.or(Some(value)),
                _ => {}
            }
        }
        seen
    }

    /// What the request continues, with the state beside it. A state without a `traceparent` means nothing.
    pub(super) fn above(&self, settings: &Settings) -> (Above, Option<TraceState>) {
        let traceparent = self.traceparent.filter(|_| !self.ambiguous).map(HeaderValue::as_bytes);
        let parent = traceparent.and_then(|it| TraceContext::from_header(trimmed(it)).ok());
        if parent.is_some() {
            let state = if self.has_state { tracestate_in(self.headers) } else { None };
            return (Above { parent, sampled: None }, state);
        }
        if !self.has_b3 || settings.propagation.b3.is_none() {
            return (Above::default(), None);
        }
        let b3::Said { ids, sampled } = b3::said(self.headers);
        let parent = ids.map(|(trace, span)| {
            let sampled = sampled.unwrap_or_else(|| covers(settings.sampling, trace));
            TraceContext::new(trace, span, sampled)
        });
        (Above { parent, sampled }, None)
    }

    /// What an outgoing call continues: the work it is made for, or else what its headers already say.
    pub(super) fn above_call(&self, settings: &Settings, around: &Ambient) -> (Above, State) {
        let nothing = if self.has_state { State::Nothing } else { State::AsItIs };
        let Some(current) = around.context().trace() else {
            let (above, state) = self.above(settings);
            return (above, state.map_or(nothing, |_| State::AsItIs));
        };
        let state = around.trace_state().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        (Above { parent: Some(current), sampled: None }, state.map_or(nothing, State::This))
    }

    pub(super) const fn has_one_parent(&self) -> bool {
        self.traceparent.is_some() && !self.ambiguous
    }

    pub(super) fn attempt(&self) -> Attempt {
        attempt_of(self.attempt, self.previous)
    }

    /// Several headers are one list.
    pub(super) fn baggage(&self, settings: &Settings) -> Option<Baggage> {
        if !self.has_baggage || !settings.propagation.baggage {
            return None;
        }
        let values = self.headers.get_all(BAGGAGE).iter();
        let mut list = String::new();
        for value in values.filter_map(|value| value.to_str().ok()) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(value);
        }
        list.parse().ok()
    }

    /// What the request is called, or else is called from now on.
    pub(super) fn request_id(&self, settings: &Settings, trace: TraceId) -> Option<RequestId> {
        if !settings.propagation.request_ids {
            return None;
        }
        let given = self.request_id.and_then(|value| value.to_str().ok()?.parse().ok());
        Some(given.unwrap_or_else(|| trace.into()))
    }
}

/// Without white space around it, which servers in front may have left there.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A new span below a parent, or a new trace of which `sampling` are sampled.
pub(super) fn span_below(above: Above, sampling: Ratio) -> (TraceContext, Option<SpanId>) {
    match above.parent {
        Some(parent) => (parent.child(), Some(parent.span_id())),
        None => {
            let root = TraceContext::new_root();
            let sampled = above.sampled.unwrap_or_else(|| covers(sampling, root.trace_id()));
            (root.with_sampled(sampled), None)
        }
    }
}

/// The low half of an identifier is random; the same trace is decided in the same way wherever it is asked.
fn covers(sampling: Ratio, trace: TraceId) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "only the low half is meant")]
    sampling.covers(trace.get() as u64)
}

/// What an outgoing call says in `tracestate`.
#[derive(Debug)]
pub(super) enum State {
    /// What it says already, if anything.
    AsItIs,
    Nothing,
    This(HeaderValue),
}

impl State {
    pub(super) fn write(self, headers: &mut HeaderMap) {
        match self {
            Self::AsItIs => {}
            Self::Nothing => drop(headers.remove(TRACESTATE)),
            Self::This(state) => drop(headers.insert(TRACESTATE, state)),
        }
    }
}

/// Tells the service that is called which span calls, and what goes along with it. `replaces` the one `traceparent` that is there.
pub(super) fn inject(
    settings: &Settings,
    (span, parent): (TraceContext, Option<SpanId>),
    replaces: bool,
    around: &Ambient,
    headers: &mut HeaderMap,
) {
    match HeaderValue::from_bytes(&span.to_header()) {
        Ok(value) if replaces => {
            // Most requests have few headers: to look at each is quicker than to look for one.
            let mut present = headers.iter_mut();
            if let Some((_, present)) = present.find(|(name, _)| name.as_str() == "traceparent") {
                *present = value;
            }
        }
        Ok(value) => drop(headers.insert(TRACEPARENT, value)),
        Err(_) => {}
    }
    let propagation = &settings.propagation;
    if let Some(form) = propagation.b3 {
        b3::inject(form, span, parent, headers);
    }
    let mut pass_on = |name: HeaderName, text: Option<&str>| {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(name, value);
        }
    };
    if propagation.baggage {
        pass_on(BAGGAGE, around.baggage().map(Baggage::as_str));
    }
    if propagation.request_ids {
        pass_on(REQUEST_ID, around.request_id().map(RequestId::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{B3, Propagation, Recorder, SpanKind};

    fn settings() -> Settings {
        Settings::new(Recorder::with_capacity("s", 0), SpanKind::Server)
    }

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
        let both = headers(&[("traceparent", GOOD), ("tracestate", "a=1")]);
        let (above, state) = Seen::of(&both).above(&settings());
        assert_eq!(above.parent.unwrap().to_string(), GOOD);
        assert_eq!(state.unwrap().as_str(), "a=1");
        for bad in [
            headers(&[("tracestate", "a=1")]),
            headers(&[("traceparent", "00-nonsense"), ("tracestate", "a=1")]),
            headers(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")]),
        ] {
            assert_eq!(Seen::of(&bad).above(&settings()), (Above::default(), None));
        }
    }

    #[test]
    fn a_child_keeps_the_decision_of_its_parent_and_a_root_takes_the_share() {
        let below = |parent, sampled, sampling| span_below(Above { parent, sampled }, sampling);
        let parent: TraceContext = GOOD.parse().unwrap();
        let (child, parent_id) = below(Some(parent), None, Ratio::NONE);
        assert!(child.is_sampled());
        assert_eq!(parent_id, Some(parent.span_id()));
        let unsampled = Some(parent.with_sampled(false));
        assert!(!below(unsampled, None, Ratio::ALL).0.is_sampled());

        assert!(below(None, None, Ratio::ALL).0.is_sampled());
        assert!(!below(None, None, Ratio::NONE).0.is_sampled());
        assert!(!below(None, Some(false), Ratio::ALL).0.is_sampled(), "it is decided");
        let sampled = |_: &i32| below(None, None, Ratio::percent(25)).0.is_sampled();
        let sampled = (0..10_000).filter(sampled).count();
        assert!((2_200..2_800).contains(&sampled), "{sampled} of 10,000");
    }

    #[test]
    fn b3_counts_where_it_is_asked_for_and_there_is_no_good_traceparent() {
        let pairs =
            [("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"), ("tracestate", "a=1")];
        let b3 = headers(&pairs);
        assert_eq!(Seen::of(&b3).above(&settings()).0, Above::default());
        let mut asked = settings();
        asked.propagation = Propagation::new().b3(B3::Multi);
        let (above, state) = Seen::of(&b3).above(&asked);
        assert_eq!(above.parent.unwrap().span_id().to_string(), "e457b5a2e4d86bd1");
        assert!(above.parent.unwrap().is_sampled(), "the share decides where the caller does not");
        assert_eq!(state, None, "it belongs to a traceparent");
        asked.sampling = Ratio::NONE;
        assert!(!Seen::of(&b3).above(&asked).0.parent.unwrap().is_sampled());
        let both = headers(&[&pairs[..], &[("traceparent", GOOD)]].concat());
        assert_eq!(Seen::of(&both).above(&asked).0.parent.unwrap().to_string(), GOOD);
        let refused = headers(&[("b3", "0")]);
        assert_eq!(Seen::of(&refused).above(&asked).0.sampled, Some(false));
    }

    #[test]
    fn what_is_injected_is_extracted() {
        let trace = TraceContext::new_root();
        let around = Ambient::default()
            .with_baggage(Some(Baggage::new("tenant", "7").unwrap()))
            .with_request_id(Some("r1".parse().unwrap()));
        for (propagation, count) in
            [(Propagation::new().request_ids(), 3), (Propagation::new().without_baggage(), 1)]
        {
            let mut settings = settings();
            settings.propagation = propagation;
            let mut headers = HeaderMap::new();
            inject(&settings, (trace, None), false, &around, &mut headers);
            assert_eq!(headers.len(), count);
            let seen = Seen::of(&headers);
            assert_eq!(seen.above(&settings).0.parent, Some(trace));
            let (baggage, id) =
                (seen.baggage(&settings), seen.request_id(&settings, trace.trace_id()));
            assert_eq!(baggage.as_ref(), around.baggage().filter(|_| count > 1));
            assert_eq!(id.as_ref(), around.request_id().filter(|_| count > 1));
        }
    }

    #[test]
    fn a_bad_request_id_is_replaced_and_baggage_of_several_headers_is_one() {
        let mut settings = settings();
        settings.propagation = Propagation::new().request_ids();
        let trace = TraceContext::new_root().trace_id();
        let headers =
            headers(&[("x-request-id", "two words"), ("baggage", "a=1"), ("baggage", "b=2,?")]);
        let seen = Seen::of(&headers);
        assert_eq!(seen.request_id(&settings, trace).unwrap().as_str(), trace.to_string());
        assert_eq!(seen.baggage(&settings).unwrap().as_str(), "a=1,b=2");
    }
}
