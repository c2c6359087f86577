use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

const LENGTH: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

/// Appends the time of an answer (RFC 9110, 6.6.1). It is written once a second.
#[allow(clippy::disallowed_methods, reason = "it is told, and nothing is decided by it")]
pub(super) fn put(out: &mut impl bytes::BufMut) {
    thread_local! {
        static LAST: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [0; LENGTH])) };
    }
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut second, mut text) = LAST.get();
    if second != now {
        // Beyond the year 9999 it would stay what it was.
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        if let Ok(date) = date.as_bytes().try_into() {
            (second, text) = (now, date);
            LAST.set((second, text));
        }
    }
    out.put_slice(&text);
}
