use super::*;
use proptest::prelude::*;

fn written(message: &Message, route: &Route) -> HeaderMap {
    write(message, route, nats_id(message, route))
}

fn there_and_back(message: &Message, route: &Route) -> (Message, Route) {
    let map = written(message, route);
    let subject = message.subject().clone();
    read(subject, Some(&map), message.payload().clone(), SOMETIME).unwrap()
}

#[test]
fn a_message_arrives_as_it_was_sent() {
    let message = Message::new("a.b", &b"\0\xff"[..])
        .unwrap()
        .with_header("traceparent", "00-1-2-01")
        .with_header("content-type", "text/plain; x=ü")
        .with_header("b", "")
        .with_header("a", "2");
    let (read, route) = there_and_back(&message, &Route::default());
    assert_eq!((read.id(), read.payload()), (message.id(), message.payload()));
    assert_eq!(read.headers(), message.headers(), "in their order");
    assert_eq!(micros(read.published_at()), micros(message.published_at()));
    assert_eq!(route, Route::default());
}

#[test]
fn a_header_of_a_message_commands_no_server() {
    let message = Message::new("a", "")
        .unwrap()
        .with_header("Nats-Rollup", "all")
        .with_header("nats-msg-id", "mine")
        .with_header("Gusset", "9")
        .with_header("with space", "x")
        .with_header("lines", "one\r\nNats-Rollup: all")
        .with_header("edges", " x ");
    let map = written(&message, &Route::default());
    assert!(map.get("Nats-Rollup").is_none());
    let nats_id = map.get(MESSAGE_ID).unwrap().as_str();
    assert!(nats_id.starts_with(&message.id().to_string()));
    assert_eq!(there_and_back(&message, &Route::default()).0.headers(), message.headers());
}

#[test]
fn a_redriven_message_has_another_id_for_the_server_and_its_own_for_handlers() {
    let message = Message::new("a", "x").unwrap();
    let route = Route { group: Some("g=2E".into()), redrives: 2 };
    let map = written(&message, &route);
    let expected = format!("{}/g=2E/2", message.id());
    assert_eq!(map.get(MESSAGE_ID).unwrap().as_str(), expected);
    let (read, back) = there_and_back(&message, &route);
    assert_eq!((read.id(), back), (message.id(), route));
}

#[test]
fn only_an_id_that_was_given_is_one_that_the_server_knows_again() {
    let message = Message::new("a", "x").unwrap();
    let nats_id = |message: &Message| nats_id(message, &Route::default());
    assert_ne!(nats_id(&message), nats_id(&message));
    let given = message.clone().with_id(message.id());
    assert_eq!(
        (nats_id(&given), nats_id(&given)),
        (message.id().to_string(), message.id().to_string())
    );
}

#[test]
fn delay_and_time_to_live_arrive_but_what_is_redriven_has_had_them() {
    let spans = [Duration::from_millis(1_500), Duration::from_secs(90)];
    let message = Message::new("a", "x").unwrap().with_delay(spans[0]).with_ttl(spans[1]);
    let (read, _) = there_and_back(&message, &Route::default());
    assert_eq!((read.delay(), read.ttl()), (Some(spans[0]), Some(spans[1])));
    let route = Route { group: Some("g".into()), redrives: 1 };
    let (read, _) = there_and_back(&message, &route);
    assert_eq!((read.delay(), read.ttl()), (None, None));
}

#[test]
fn a_newer_format_is_refused() {
    let mut map = HeaderMap::new();
    put(&mut map, GUSSET, "2 whatever".into());
    let subject = Subject::new("a").unwrap();
    let error = read(subject.clone(), Some(&map), Bytes::new(), SOMETIME).unwrap_err();
    assert_eq!(error, Unreadable::Newer(2));
    put(&mut map, GUSSET, "not a number".into());
    assert!(read(subject, Some(&map), Bytes::new(), SOMETIME).is_err());
}

#[test]
fn a_message_of_another_program_has_an_id_that_stays() {
    let subject = Subject::new("a").unwrap();
    let (first, _) = read(subject.clone(), None, "x".into(), SOMETIME).unwrap();
    let again = Delivered { times: 2, ..SOMETIME };
    let (second, _) = read(subject.clone(), None, "x".into(), again).unwrap();
    let (other, _) = read(subject, None, "x".into(), Delivered { seq: 8, ..SOMETIME }).unwrap();
    assert_eq!(first.id(), second.id());
    assert_ne!(first.id(), other.id());
    assert_eq!(micros(first.published_at()), SOMETIME.at / 1_000);
}

#[test]
fn the_subject_for_the_answer_is_read_in_both_its_forms() {
    let short = "$JS.ACK.g.inv=2E.2.6.9.1795287867795177515.0";
    let expected = Delivered { times: 2, seq: 6, at: 1_795_287_867_795_177_515 };
    assert_eq!(Delivered::read(short), Some(expected));
    let long = "$JS.ACK.hub.ACC.g.inv.2.6.9.1795287867795177515.0.xyz";
    assert_eq!(Delivered::read(long), Some(expected));
    for strange in ["", "$JS.ACK", "_INBOX.x", "$JS.ACK.g.c.x.6.9.1.0", "$JS.ACK.g.c.1.2.3.4"] {
        assert_eq!(Delivered::read(strange), None, "{strange}");
    }
}

proptest! {
    #[test]
    fn all_headers_arrive(headers in prop::collection::vec((".{0,12}", ".{0,20}"), 0..6)) {
        let mut message = Message::new("a", "").unwrap();
        for (name, value) in headers {
            message = message.with_header(name, value);
        }
        let (read, _) = there_and_back(&message, &Route::default());
        let sorted = |message: &Message| {
            let mut all: Vec<_> = message.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            all.sort();
            all
        };
        prop_assert_eq!(sorted(&read), sorted(&message));
    }

    #[test]
    fn no_answer_subject_and_no_headers_panic(text in "\\PC{0,60}") {
        let _ = Delivered::read(&text);
        let _ = parse_headers(text.as_bytes());
    }
}
