//! The `tracestate` header: passed on as it came, but only if it is well formed.

use gusset_call::TraceState;
use http::{HeaderMap, HeaderName};

pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The state to pass on. Several headers are one list, and an ill-formed list is none.
pub(crate) fn tracestate_in(headers: &HeaderMap) -> Option<TraceState> {
    let mut values = headers.get_all(TRACESTATE).iter().map(|value| value.to_str());
    let first = values.next()?.ok()?;
    let mut joined = String::new();
    for value in values {
        if joined.is_empty() {
            joined.push_str(first);
        }
        joined.push(',');
        joined.push_str(value.ok()?);
    }
    let state = if joined.is_empty() { first } else { joined.as_str() };
    state.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn state(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACESTATE, HeaderValue::from_str(value).unwrap());
        }
        tracestate_in(&headers).map(|state| state.to_string())
    }

    #[test]
    fn a_good_state_passes_as_it_came() {
        for good in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "t@v=x y", "a=1 ,, b=2"] {
            assert_eq!(state(&[good]).as_deref(), Some(good));
        }
        assert_eq!(state(&["a=1", "b=2", "c=3"]).as_deref(), Some("a=1,b=2,c=3"));
    }

    #[test]
    fn an_ill_formed_state_is_dropped() {
        for bad in ["", ",", "a", "=1", "a=", "A=1", "a=1=2", "@a=1", "é=1"] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
    }
}
