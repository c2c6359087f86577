//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    deadline::timeout::{announce, timeout_in},
    retry::wait::{pushback, retry_after},
};

#[cfg(feature = "otlp-grpc")]
pub use crate::telemetry::otlp::fuzz::collector;
#[cfg(feature = "telemetry")]
pub use crate::telemetry::store::fuzz::question;
pub use crate::trace::fuzz::propagation;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Fields, a line each, that say how long somebody waits: no service is told of more time than there is.
pub fn waits(data: &[u8]) {
    let headers = fields(data);
    let (_, _) = (pushback(&headers), retry_after(&headers));
    let told = timeout_in(&headers);
    for left in [Duration::ZERO, Duration::from_micros(1_500), Duration::from_secs(7), YEAR] {
        let mut passed_on = headers.clone();
        announce(left, &mut passed_on);
        let read = timeout_in(&passed_on);
        assert!(read.is_some_and(|read| read <= left), "{left:?} became {read:?} in {headers:?}");
        if let (Some(told), Some(read)) = (told, read) {
            let both = read <= told.max(left);
            assert!(both, "{told:?} and {left:?} became {read:?} in {headers:?}");
        }
    }
}

/// The fields in lines of `name: value`, as many as a head may have.
pub(crate) fn fields(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use gusset_engines::holds;

    #[test]
    fn nobody_is_told_of_more_time_than_there_is() {
        holds("waits", super::waits);
    }

    #[test]
    fn what_a_call_says_of_its_trace_is_well_formed_whatever_came_in() {
        holds("propagation", super::propagation);
    }

    #[cfg(feature = "otlp-grpc")]
    #[test]
    fn whatever_a_collector_says_is_short_and_silences_for_five_minutes_at_most() {
        holds("collector", super::collector);
    }

    #[cfg(feature = "telemetry")]
    #[test]
    fn whatever_is_asked_of_the_store_is_bounded_or_refused_with_words() {
        holds("question", super::question);
    }
}
