use super::*;
use proptest::prelude::*;

fn taken(bytes: &[u8]) -> Result<Option<AnswerHead>, TransportError> {
    take(&mut BytesMut::from(bytes), false)
}

fn head(text: &str) -> AnswerHead {
    taken(text.as_bytes()).unwrap().unwrap()
}

/// Why an answer with these fields is refused.
fn refusal(fields: &str) -> &'static str {
    match taken(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()) {
        Err(TransportError::Malformed(reason)) => reason,
        Ok(_) => "taken",
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_head_is_taken_and_what_follows_stays() {
    let mut read =
        BytesMut::from("HTTP/1.1 201 Made\r\nX-A: 1\r\nx-a:2\r\nContent-Length: 3\r\n\r\nabcHTTP");
    let head = take(&mut read, false).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.version), (201, Version::HTTP_11));
    let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(head.body, Decoder::Length(3));
    assert!(head.reuse);
    assert_eq!(read, "abcHTTP");
}

#[test]
fn the_end_of_a_body_is_told_in_one_of_the_ways_of_the_standard() {
    let body = |text: &str| head(text).body;
    assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n"), Decoder::UntilClose);
    assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Decoder::Over);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
    assert_eq!(body(chunked), Decoder::chunked());
    for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
        assert_eq!(body(&format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\n")), Decoder::Over);
    }
    let to_head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    let head = take(&mut BytesMut::from(to_head), true).unwrap().unwrap();
    assert_eq!(head.body, Decoder::Over);
    assert_eq!(head.headers["content-length"], "9", "which the client is told");
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_refused() {
    assert_eq!(
        refusal("content-length: 3\r\ntransfer-encoding: chunked"),
        "it has a length and a transfer coding"
    );
    assert_eq!(refusal("content-length: 3\r\ncontent-length: 4"), "it has several lengths");
    assert_eq!(refusal("content-length: 3, 4"), "it has several lengths");
    for length in ["+3", "-1", "0x3", "", "3 3", "18446744073709551616"] {
        assert_eq!(refusal(&format!("content-length: {length}")), "its length is no number");
    }
    for coding in ["gzip", "gzip, chunked", "chunked, chunked", "x", "chunked;q=1"] {
        let fields = format!("transfer-encoding: {coding}");
        assert_eq!(refusal(&fields), "a transfer coding other than chunked");
    }
    let twice = "transfer-encoding: chunked\r\ntransfer-encoding: chunked";
    assert_eq!(refusal(twice), "a transfer coding other than chunked");
    for fields in ["a b: 1", "a : 1", "a: 1\r\n b", "a: 1\rb: 2", "a: \0", ": 1", "a"] {
        assert_ne!(refusal(fields), "taken", "{fields:?}");
    }
}

#[test]
fn equal_lengths_become_one() {
    for fields in ["content-length: 3\r\ncontent-length: 3", "content-length: 3, 3"] {
        let head = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
        let lines: Vec<_> = head.headers.get_all("content-length").iter().collect();
        assert_eq!(lines, ["3"]);
    }
}

#[test]
fn a_connection_is_kept_as_its_version_and_the_instance_say() {
    let kept = |version, line: &str| head(&format!("HTTP/{version} 200 OK\r\n{line}\r\n")).reuse;
    assert!(kept("1.1", ""));
    assert!(!kept("1.1", "Connection: Keep-Alive, Close\r\n"));
    assert!(!kept("1.0", ""));
    assert!(kept("1.0", "connection: keep-alive\r\n"));
    assert!(!kept("1.0", "connection: keep-alive\r\nconnection: close\r\n"));
}

#[test]
fn an_instance_may_say_how_long_it_keeps_a_connection() {
    let keeps = |line: &str| head(&format!("HTTP/1.1 200 OK\r\nkeep-alive: {line}\r\n\r\n")).keeps;
    assert_eq!(keeps("timeout=5"), Some(Duration::from_secs(5)));
    assert_eq!(keeps("max=100, timeout=2"), Some(Duration::from_secs(2)));
    assert_eq!(keeps("timeout=99999999999"), Some(Duration::from_secs(3600)));
    assert_eq!(keeps("timeout=-1"), None);
}

#[test]
fn a_head_has_bounds() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(MAX_BYTES));
    let Err(TransportError::Malformed(reason)) = taken(long.as_bytes()) else { panic!("taken") };
    assert_eq!(reason, "its head is too long");
    let many = "x: 1\r\n".repeat(MAX_FIELDS + 1);
    assert_eq!(refusal(many.trim_end()), "its head has too many fields");
    assert_eq!(refusal("x: 1\r\n".repeat(MAX_FIELDS).trim_end()), "taken");
}

#[test]
fn what_is_no_http_1_is_refused() {
    for line in ["HTTP/2 200 OK", "HTTP/1.2 200 OK", "ICY 200 OK", "HTTP/1.1 99 X", "HTTP/1.1 2000"]
    {
        assert!(taken(format!("{line}\r\n\r\n").as_bytes()).is_err(), "{line}");
    }
}

proptest! {
    #[test]
    fn a_head_in_pieces_is_the_head(at in 0usize..70) {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-long-name: a, b, c\r\n\r\n";
        let at = at.min(whole.len());
        let mut read = BytesMut::from(&whole[..at]);
        let first = take(&mut read, false).unwrap();
        prop_assert_eq!(first.is_some(), at == whole.len());
        if first.is_none() {
            read.extend_from_slice(&whole[at..]);
            let head = take(&mut read, false).unwrap().unwrap();
            prop_assert_eq!(&head.headers["x-long-name"], "a, b, c");
            prop_assert!(read.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = taken(&bytes);
        let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
        answer.extend(bytes);
        let _ = taken(&answer);
    }
}
