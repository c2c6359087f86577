//! Which try of a call a request is.

use std::num::NonZeroU32;

use gusset_call::Attempt;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::retry::GRPC_PREVIOUS_ATTEMPTS;

/// The header that tells which try of a call a request is, counted from 1. Absent means the first.
pub const ATTEMPT_HEADER: HeaderName = HeaderName::from_static("x-gusset-attempt");

/// Which try a request is, by its headers.
pub(crate) fn attempt_in(headers: &HeaderMap) -> Attempt {
    let (mut ours, mut before) = (None, None);
    // Most requests have few headers: to look at each is quicker than to look for two.
    for (name, value) in headers {
        if name == ATTEMPT_HEADER {
            ours = ours.or(Some(value));
        } else if name == GRPC_PREVIOUS_ATTEMPTS {
            before = before.or(Some(value));
        }
    }
    attempt_of(ours, before)
}

/// Which try a request is, by our header and gRPC's own, which counts those before; the first where they are absent or make no sense.
pub(crate) fn attempt_of(ours: Option<&HeaderValue>, before: Option<&HeaderValue>) -> Attempt {
    let number = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    let ours = ours.and_then(number).and_then(NonZeroU32::new);
    let before = || before.and_then(number).map(|n: u32| NonZeroU32::MIN.saturating_add(n));
    ours.or_else(before).map_or(Attempt::FIRST, Attempt::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

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
