use std::time::Duration;

use http::StatusCode;

use super::answer::{Answer, over_grpc, over_http};
use crate::fuzz::fields;

/// A status and fields, a line each, then an empty line and the body: the answer of a collector over HTTP, and over gRPC with the fields before and behind the body.
pub fn collector(data: &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = (&data[..end], data.get(end + 2..).unwrap_or_default());
    let (status, head) = head.split_at_checked(3).unwrap_or((b"200", head));
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    let headers = fields(head);
    for answer in [
        over_http(status, &headers, body),
        over_grpc(status, &headers, None, body),
        over_grpc(status, &headers, Some(&headers), body),
    ] {
        let (words, after) = match answer {
            Answer::Taken { why, .. } | Answer::Refused(why) => (why, None),
            Answer::Later { why, after } => (why, after),
        };
        assert!(words.chars().count() <= 250, "{words:?}");
        assert!(after.is_none_or(|after| after <= Duration::from_secs(300)), "{after:?}");
    }
}
