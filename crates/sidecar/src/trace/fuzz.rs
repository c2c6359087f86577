use gusset_call::{Ambient, TraceContext};

use super::{
    B3, Propagation, Recorder, SpanKind,
    propagate::{Seen, inject, span_below},
    settings::Settings,
};
use crate::{Ratio, fuzz::fields};

/// Fields, a line each: what a call says of its trace is one well-formed context, below the one that came in if one did.
pub fn propagation(data: &[u8]) {
    let headers = fields(data);
    let seen = Seen::of(&headers);
    for form in [None, Some(B3::Single), Some(B3::Multi)] {
        let mut settings = Settings::new(Recorder::new("fuzz"), SpanKind::Client);
        settings.propagation = Propagation::new().request_ids();
        if let Some(form) = form {
            settings.propagation = settings.propagation.b3(form);
        }
        let (above, state) = seen.above_call(&settings, &Ambient::default());
        let (span, parent) = span_below(above, Ratio::ALL);
        if let Some(above) = above.parent {
            assert_eq!(span.trace_id(), above.trace_id(), "{headers:?}");
            assert_eq!(parent, Some(above.span_id()), "{headers:?}");
        }
        let _ = (seen.attempt(), seen.baggage(&settings));
        let id = seen.request_id(&settings, span.trace_id());
        assert!(id.is_some_and(|id| !id.as_str().is_empty()), "{headers:?}");
        let mut told = headers.clone();
        state.write(&mut told);
        inject(&settings, (span, parent), seen.has_one_parent(), &Ambient::default(), &mut told);
        let said: Vec<_> = told.get_all("traceparent").iter().collect();
        assert_eq!(said.len(), 1, "{told:?}");
        assert_eq!(TraceContext::from_header(said[0].as_bytes()), Ok(span), "{told:?}");
        if form.is_some() {
            let heard = super::b3::said(&told);
            assert_eq!(heard.ids, Some((span.trace_id(), span.span_id())), "{told:?}");
            assert_eq!(heard.sampled, Some(span.is_sampled()), "{told:?}");
        }
    }
}
