//! What a server layer leaves for the clients inside its handler, beside [`Context`].

use std::num::NonZeroU32;

use gusset_call::{Attempt, Context, TraceState};
use http::{HeaderMap, HeaderName};

use crate::retry::GRPC_PREVIOUS_ATTEMPTS;

/// The header that tells which try of a call a request is, counted from 1. Absent means the first.
pub const ATTEMPT_HEADER: HeaderName = HeaderName::from_static("x-gusset-attempt");

/// What the call that this task works for came with and [`Context`] has no place for.
#[derive(Clone, Debug)]
pub(crate) struct Ambient {
    pub(crate) tracestate: Option<TraceState>,
    pub(crate) attempt: Attempt,
}

impl Ambient {
    pub(crate) fn current() -> Self {
        Self { tracestate: TraceState::current(), attempt: Attempt::current() }
    }

    /// Runs `work` with this and `cx` as what is current.
    pub(crate) fn enter<T>(&self, cx: Context, work: impl FnOnce() -> T) -> T {
        TraceState::sync_scope(self.tracestate.clone(), || {
            self.attempt.sync_scope(|| cx.sync_scope(work))
        })
    }
}

/// Which try a request is, by its headers; the first where they are absent or make no sense. gRPC's own counts those before.
pub(crate) fn attempt_in(headers: &HeaderMap) -> Attempt {
    let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
    let ours = number(ATTEMPT_HEADER).and_then(NonZeroU32::new);
    let before = || number(GRPC_PREVIOUS_ATTEMPTS).map(|n: u32| NonZeroU32::MIN.saturating_add(n));
    ours.or_else(before).map_or(Attempt::FIRST, Attempt::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_call::TraceContext;
    use http::HeaderValue;

    #[test]
    fn what_runs_inside_sees_the_context_and_what_runs_after_does_not() {
        let cx = Context::default().with_trace(TraceContext::new_root());
        let ambient = Ambient { tracestate: None, attempt: Attempt::FIRST.next() };
        let seen = ambient.enter(cx, || (Context::current(), Attempt::current().number()));
        assert_eq!(seen, (cx, 2));
        assert_eq!(Context::current(), Context::default());
        assert_eq!(Attempt::current(), Attempt::FIRST);
    }

    #[test]
    fn an_attempt_header_without_sense_is_the_first_attempt() {
        for (header, attempt) in [("3", 3), ("0", 1), ("-1", 1), ("x", 1), ("99999999999", 1)] {
            let mut headers = HeaderMap::new();
            headers.insert(ATTEMPT_HEADER, HeaderValue::from_static(header));
            assert_eq!(attempt_in(&headers).number(), attempt, "{header}");
        }
    }

    #[test]
    fn attempts_of_another_grpc_client_count() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-previous-rpc-attempts", HeaderValue::from_static("2"));
        assert_eq!(attempt_in(&headers).number(), 3);
        headers.insert(ATTEMPT_HEADER, HeaderValue::from_static("2"));
        assert_eq!(attempt_in(&headers).number(), 2, "ours counts those before it, too");
    }
}
