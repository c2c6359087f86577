//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use crate::{Baggage, RequestId, SpanId, TraceContext, TraceId, TraceState};

/// A field that goes along with a call, taken for each of them: what is read is well formed, bounded, and read again as the same.
pub fn context(data: &[u8]) {
    if let Ok(context) = TraceContext::from_header(data) {
        let written = context.to_header();
        assert_eq!(TraceContext::from_header(&written), Ok(context), "{data:?}");
        assert!(context.trace_id().get() > 0 && context.span_id().get() > 0, "{data:?}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<TraceId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<SpanId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(state) = text.parse::<TraceState>() {
        assert!(state.as_str() == text && text.len() <= 4_096, "{text:?}");
        assert!(goes_into_a_field(text), "{text:?}");
    }
    if let Ok(id) = text.parse::<RequestId>() {
        assert!(id.as_str() == text && text.len() <= 128 && !text.is_empty(), "{text:?}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    }
    if let Ok(baggage) = text.parse::<Baggage>() {
        assert!(baggage.as_str().len() <= 8_192 && goes_into_a_field(baggage.as_str()), "{text:?}");
        assert_eq!(baggage.as_str().parse(), Ok(baggage.clone()), "{text:?}");
        let members: Vec<_> = baggage.iter().collect();
        assert!((1..=64).contains(&members.len()), "{text:?}");
        for (name, _) in members.into_iter().take(4) {
            let Ok(with) = baggage.with(name, text) else { continue };
            assert_eq!(with.get(name).as_deref(), Some(text), "{name:?} of {baggage:?}");
        }
    }
}

/// Nothing in it ends a line.
fn goes_into_a_field(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

#[cfg(test)]
#[test]
fn what_goes_along_with_a_call_is_read_again_as_it_was() {
    gusset_engines::holds("context", context);
}
