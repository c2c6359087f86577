use bytes::Bytes;

use super::{
    layout::{Layout, check_format, group_of, order_in, token_of},
    wire::{Delivered, Route, nats_id, parse_headers, read, write},
};
use crate::Message;

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Where a message lies, where its acknowledgement goes, what describes its stream, and behind an empty line its headers as they lie there.
pub fn nats(data: &[u8]) {
    let at = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (names, headers) = (&data[..at], data.get(at + 2..).unwrap_or_default());
    let names = String::from_utf8_lossy(names);
    let mut names = names.split('\n');
    let (place, reply) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let description = names.next().unwrap_or_default();
    let _ = check_format("a stream", description);
    let _ = order_in(description);
    assert_eq!(group_of(&token_of(description)).as_deref(), Some(description));
    let layout = Layout::new("shop");
    let _ =
        (layout.subject_of_dead(place), layout.subject_of_answer(place), layout.pattern_of(place));
    let some = Delivered { times: 1, seq: 7, at: 1_795_287_867_619_251_643 };
    let delivered = Delivered::read(reply).unwrap_or(some);
    let Some(subject) = layout.subject_of(place) else { return };
    assert_eq!(layout.message(subject.as_str()), place);
    let map = parse_headers(headers);
    let payload = Bytes::from_static(b"x");
    let Ok((message, route)) = read(subject.clone(), Some(&map), payload.clone(), delivered) else {
        return;
    };
    // Only a message that goes on to all of its groups has its times again.
    let to_all = Route::default();
    let again = write(&message, &to_all, nats_id(&message, &to_all));
    let Ok((again, _)) = read(subject, Some(&again), payload, delivered) else {
        unreachable!("{message:?} is not read again")
    };
    // Those that are no headers of NATS come last then.
    let sorted = |message: &Message| {
        let mut headers: Vec<_> = message.headers().iter().map(owned).collect();
        headers.sort();
        headers
    };
    assert_eq!(sorted(&again), sorted(&message), "{route:?}");
    assert_eq!((again.id(), again.ttl()), (message.id(), message.ttl()), "{route:?}");
}
