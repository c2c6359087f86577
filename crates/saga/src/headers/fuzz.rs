use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Caller, EPOCH, IDEMPOTENCY_KEY, quoted};

/// A key in the first line, an epoch in the second, and others behind them: a key that is taken can be quoted and is read as the same.
pub fn caller(data: &[u8]) {
    crate::fuzz::name(data);
    let names: [HeaderName; 2] = [IDEMPOTENCY_KEY, EPOCH];
    let mut headers = HeaderMap::new();
    for (name, line) in names.iter().cycle().zip(data.split(|byte| *byte == b'\n').take(4)) {
        if let (Ok(value), false) = (HeaderValue::from_bytes(line), line.is_empty()) {
            headers.append(name, value);
        }
    }
    let Ok(Some(caller)) = Caller::of(&headers) else { return };
    assert!((1..=512).contains(&caller.key.len()), "{caller:?}");
    assert!(caller.saga().is_none_or(|saga| caller.key.starts_with(saga)), "{caller:?}");
    let Some(key) = quoted(&caller.key) else { return };
    let again = HeaderMap::from_iter([(IDEMPOTENCY_KEY, key)]);
    let again = Caller::of(&again).ok().flatten().map(|caller| caller.key);
    assert_eq!(again, Some(caller.key), "{headers:?}");
}
