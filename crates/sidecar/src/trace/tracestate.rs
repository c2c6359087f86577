//! The `tracestate` header: passed on as it came, but only if it is well formed.

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The specification's bound on members; a list with more is dropped as a whole.
const MAX_MEMBERS: usize = 32;
/// The specification asks to pass on at least 512 bytes; what is longer than this is dropped.
const MAX_BYTES: usize = 4096;

/// The state to pass on. Several headers are one list, and an ill-formed list is none.
pub(crate) fn tracestate_in(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let state = match values.next() {
        None => first.clone(),
        Some(second) => {
            let mut joined = first.as_bytes().to_vec();
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            HeaderValue::from_bytes(&joined).ok()?
        }
    };
    is_well_formed(state.as_bytes()).then_some(state)
}

fn is_well_formed(state: &[u8]) -> bool {
    if state.len() > MAX_BYTES {
        return false;
    }
    let mut keys: [&[u8]; MAX_MEMBERS] = [b""; MAX_MEMBERS];
    let mut members = 0;
    for member in state.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if member.is_empty() {
            continue;
        }
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if members == MAX_MEMBERS
            || keys[..members].contains(&key)
            || !is_key(key)
            || !is_value(value)
        {
            return false;
        }
        keys[members] = key;
        members += 1;
    }
    members > 0
}

/// `name` or `tenant@system`, in lower case.
fn is_key(key: &[u8]) -> bool {
    fn is_part(part: &[u8], length: usize, digit_first: bool) -> bool {
        let starts_well = match part.first() {
            Some(first) => first.is_ascii_lowercase() || digit_first && first.is_ascii_digit(),
            None => false,
        };
        starts_well
            && part.len() <= length
            && part.iter().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(byte)
            })
    }
    match key.iter().position(|byte| *byte == b'@') {
        None => is_part(key, 256, true),
        Some(at) => is_part(&key[..at], 241, true) && is_part(&key[at + 1..], 14, false),
    }
}

fn is_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACESTATE, HeaderValue::from_str(value).unwrap());
        }
        tracestate_in(&headers).map(|state| state.to_str().unwrap().to_owned())
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
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let long_key = format!("{}=1", "k".repeat(257));
        let long_value = format!("k={}", "v".repeat(257));
        for bad in ["", ",", "a", "=1", "a=", "A=1", "a=1=2", "a=1,a=2", "a@1=x", "a@b@c=1", "é=1"]
        {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        for bad in [many, long_key, long_value] {
            assert_eq!(state(&[&bad]), None);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..600)) {
            is_well_formed(&value);
        }
    }
}
