//! Zipkin's B3 headers, after <https://github.com/openzipkin/b3-propagation>.

use std::num::NonZeroU128;

use gusset_call::{SpanId, TraceContext, TraceId};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How Zipkin's identifiers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum B3 {
    /// All in one header, `b3`.
    Single,
    /// One header each: `x-b3-traceid`, `x-b3-spanid`, `x-b3-parentspanid`, `x-b3-sampled`.
    Multi,
}

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What B3 headers say. Either may be absent: a caller may leave the decision, or decide and begin no trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) ids: Option<(TraceId, SpanId)>,
    pub(super) sampled: Option<bool>,
}

/// The single header where it is well formed, or else the others. Malformed ones say nothing.
pub(super) fn said(headers: &HeaderMap) -> Said {
    text(headers, &SINGLE).and_then(single).unwrap_or_else(|| multi(headers))
}

/// A header that is there once.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let only = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(only.trim_matches([' ', '\t']))
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`, or the decision alone.
fn single(header: &str) -> Option<Said> {
    if let Some(sampled) = decision(header) {
        return Some(Said { ids: None, sampled: Some(sampled) });
    }
    let mut parts = header.split('-');
    let ids = Some((trace_id(parts.next()?)?, parts.next()?.parse().ok()?));
    let sampled = parts.next().map(|part| decision(part).ok_or(())).transpose().ok()?;
    let parent = parts.next().map(str::parse::<SpanId>).transpose();
    (parent.is_ok() && parts.next().is_none()).then_some(Said { ids, sampled })
}

fn multi(headers: &HeaderMap) -> Said {
    let ids = text(headers, &TRACE_ID)
        .and_then(trace_id)
        .zip(text(headers, &SPAN_ID).and_then(|id| id.parse().ok()));
    // Older senders write words.
    let sampled = match text(headers, &SAMPLED) {
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        _ => None,
    };
    let debug = text(headers, &FLAGS) == Some("1");
    Said { ids, sampled: if debug { Some(true) } else { sampled } }
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// Of 128 bits, or of 64, as older senders have them.
fn trace_id(text: &str) -> Option<TraceId> {
    if text.len() != 16 {
        return text.parse().ok();
    }
    let low: SpanId = text.parse().ok()?;
    NonZeroU128::new(low.get().into()).map(TraceId::new)
}

/// Writes the headers of one form, and removes those of the other, which would say something else.
pub(super) fn inject(form: B3, span: TraceContext, parent: Option<SpanId>, to: &mut HeaderMap) {
    for name in [SINGLE, TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS] {
        to.remove(name);
    }
    let sampled = if span.is_sampled() { "1" } else { "0" };
    let (trace_id, span_id) = (span.trace_id(), span.span_id());
    let mut write = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            to.insert(name, value);
        }
    };
    match (form, parent) {
        (B3::Single, None) => write(SINGLE, format!("{trace_id}-{span_id}-{sampled}")),
        (B3::Single, Some(parent)) => {
            write(SINGLE, format!("{trace_id}-{span_id}-{sampled}-{parent}"));
        }
        (B3::Multi, parent) => {
            write(TRACE_ID, trace_id.to_string());
            write(SPAN_ID, span_id.to_string());
            if let Some(parent) = parent {
                write(PARENT_ID, parent.to_string());
            }
            write(SAMPLED, sampled.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU64;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn ids() -> Option<(TraceId, SpanId)> {
        Some((TRACE.parse().unwrap(), SPAN.parse().unwrap()))
    }

    #[test]
    fn the_single_header_is_read_in_all_its_lengths() {
        for (tail, sampled) in [
            ("", None),
            ("-1", Some(true)),
            ("-0", Some(false)),
            ("-d", Some(true)),
            ("-1-05e3ac9a4f6e3b90", Some(true)),
        ] {
            let header = format!("{TRACE}-{SPAN}{tail}");
            assert_eq!(
                said(&headers(&[("b3", &header)])),
                Said { ids: ids(), sampled },
                "{header}"
            );
        }
        for (header, sampled) in [("0", false), ("1", true), ("d", true)] {
            let alone = Said { ids: None, sampled: Some(sampled) };
            assert_eq!(said(&headers(&[("b3", header)])), alone);
        }
    }

    #[test]
    fn a_malformed_single_header_says_nothing_and_the_others_are_asked() {
        let zeros = format!("{}-{SPAN}-1", "0".repeat(32));
        let upper = format!("{}-{SPAN}-1", TRACE.to_uppercase());
        let long = format!("{TRACE}-{SPAN}-1-{SPAN}-1");
        let parent = format!("{TRACE}-{SPAN}-1-x");
        let decided = format!("{TRACE}-{SPAN}-2");
        for bad in ["", "x", TRACE, &zeros, &upper, &long, &parent, &decided] {
            assert_eq!(said(&headers(&[("b3", bad)])), Said::default(), "{bad}");
            let both = [("b3", bad), ("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
            assert_eq!(said(&headers(&both)).ids, ids(), "{bad}");
        }
        let mut twice = headers(&[("b3", "0")]);
        twice.append("b3", HeaderValue::from_static("1"));
        assert_eq!(said(&twice), Said::default());
    }

    #[test]
    fn several_headers_are_read_with_the_words_of_older_senders() {
        let with = |pairs: &[(&'static str, &str)]| {
            let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
            said(&headers(&[&ids[..], pairs].concat()))
        };
        assert_eq!(with(&[]), Said { ids: ids(), sampled: None });
        for (text, sampled) in [
            ("1", Some(true)),
            ("true", Some(true)),
            ("0", Some(false)),
            ("false", Some(false)),
            ("?", None),
        ] {
            assert_eq!(with(&[("x-b3-sampled", text)]).sampled, sampled);
        }
        assert_eq!(with(&[("x-b3-sampled", "0"), ("x-b3-flags", "1")]).sampled, Some(true));
        assert_eq!(said(&headers(&[("x-b3-traceid", TRACE)])), Said::default());
    }

    #[test]
    fn an_identifier_of_64_bits_is_one_of_128_with_zeros_before_it() {
        let read = said(&headers(&[("b3", &format!("{SPAN}-{SPAN}"))])).ids.unwrap();
        assert_eq!(read.0.to_string(), format!("0000000000000000{SPAN}"));
    }

    #[test]
    fn what_is_written_replaces_all_that_was_there() {
        let span = TraceContext::new(ids().unwrap().0, ids().unwrap().1, true);
        let stale = [("b3", "0"), ("x-b3-flags", "1"), ("x-b3-parentspanid", SPAN)];
        for form in [B3::Single, B3::Multi] {
            let mut to = headers(&stale);
            inject(form, span, None, &mut to);
            assert_eq!(said(&to), Said { ids: ids(), sampled: Some(true) });
            assert_eq!(to.len(), if form == B3::Single { 1 } else { 3 });
            inject(form, span.with_sampled(false), Some(span.span_id()), &mut to);
            assert_eq!(said(&to).sampled, Some(false));
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[0-9a-fd-]{0,80}|\\PC{0,80}") {
            let _ = single(&text);
        }

        #[test]
        fn what_is_written_can_be_read(trace in 1u128.., span in 1u64.., sampled: bool, single: bool) {
            let trace = TraceId::new(NonZeroU128::new(trace).unwrap());
            let span = SpanId::new(NonZeroU64::new(span).unwrap());
            let mut to = HeaderMap::new();
            let form = if single { B3::Single } else { B3::Multi };
            inject(form, TraceContext::new(trace, span, sampled), Some(span), &mut to);
            prop_assert_eq!(said(&to), Said { ids: Some((trace, span)), sampled: Some(sampled) });
        }
    }
}
