use http::{Request, StatusCode};

use super::request::Ask;
use crate::telemetry::Filter;

/// What somebody asks the store for, path and query in the first line, and directives of a log filter behind it.
pub fn question(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, directives) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(filter) = Filter::new(directives) {
        assert!(filter.get() == directives && directives.len() <= Filter::MAX_BYTES);
    }
    let Ok(request) = Request::get(target).body(()) else { return };
    match Ask::of(&request) {
        Ok(Ask::Traces(query) | Ask::FollowSpans(query)) => assert!(query.limit <= 1_000),
        Ok(Ask::Logs(query) | Ask::FollowLogs(query, _)) => assert!(query.limit <= 1_000),
        Ok(Ask::Trace(_)) => {}
        Err((status, words)) => {
            let known = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
            assert!(known.contains(&status) && (1..300).contains(&words.len()), "{words:?}");
        }
    }
}
