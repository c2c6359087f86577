use super::*;

fn taken(text: &str) -> Result<Option<RequestHead>, Refusal> {
    take(&mut BytesMut::from(text))
}

fn head(text: &str) -> RequestHead {
    taken(text).unwrap().unwrap()
}

fn refused(text: &str) -> Refusal {
    taken(text).expect_err(text)
}

#[test]
fn a_head_is_taken_as_a_whole_and_what_follows_is_left() {
    let mut read = BytesMut::from(
        "\r\nPOST /a?b HTTP/1.1\r\nHost: shop\r\nX-Empty:\r\nX-Space: \t v \t\r\ncontent-length: 4\r\n\r\nbody",
    );
    let head = take(&mut read).unwrap().unwrap();
    assert_eq!(&read[..], b"body");
    assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::POST, "/a?b".into()));
    let fields = [("host", "shop"), ("x-empty", ""), ("x-space", "v"), ("content-length", "4")];
    for (name, value) in fields {
        assert_eq!(head.parts.headers[name], value);
    }
    assert_eq!(head.body, Decoder::of_length(4));
    assert!(head.keep && !head.upgrade && !head.expects);
}

#[test]
fn of_every_beginning_nothing_is_taken_and_nothing_refused() {
    let text = "POST http://shop/a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n";
    for end in 0..text.len() {
        let mut read = BytesMut::from(&text[..end]);
        assert!(take(&mut read).unwrap().is_none(), "{end}");
        assert_eq!(read, text[..end]);
    }
    let head = head(text);
    assert!(head.expects && head.body == Decoder::chunked());
}

#[test]
fn targets_have_one_of_the_four_forms() {
    for line in
        ["GET /", "OPTIONS *", "GET http://a/b", "GET HTTPS://a", "CONNECT a:443", "GET /a:b"]
    {
        head(&format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n"));
    }
    for line in [
        "GET *",
        "GET a",
        "GET a:80",
        "GET ftp://a/",
        "GET ",
        "CONNECT /",
        "GET /a#b",
        "GET /\u{7f}",
        "GET  /",
        " GET /",
    ] {
        assert!(
            matches!(
                refused(&format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n")),
                Refusal::Malformed(_)
            ),
            "{line}"
        );
    }
}

#[test]
fn what_others_may_read_in_another_way_is_refused() {
    for fields in [
        "content-length: 1\r\ntransfer-encoding: chunked\r\n",
        "content-length: 1\r\ncontent-length: 1\r\n",
        "content-length: 1, 1\r\n",
        "content-length: +1\r\n",
        "content-length: 0x1\r\n",
        "content-length: 1 1\r\n",
        "content-length:\r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length : 1\r\n",
        " content-length: 1\r\n",
        "x: a\r\n folded\r\n",
        "x: a\n",
        "x: a\ny: b\r\n",
        "x:\n",
        "x: a\rb\r\n",
        "x: a\0b\r\n",
        "x\0: a\r\n",
        "(x): a\r\n",
        ": a\r\n",
        "x\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert!(matches!(refused(&text), Refusal::Malformed(_)), "{fields:?}");
    }
    for text in [
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\n",
        "GET / HTTP/1.1\r\nhost: a\n\n",
        "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET /\r\n\r\n",
        "\u{1}\u{2}",
    ] {
        assert!(matches!(refused(text), Refusal::Malformed(_)), "{text:?}");
    }
}

#[test]
fn other_codings_are_not_guessed() {
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "\"chunked\"",
        "chunked;a",
        "x chunked",
        "",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: {coding}\r\n\r\n");
        assert_eq!(refused(&text), Refusal::Coding, "{coding}");
    }
    let twice =
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(refused(twice), Refusal::Coding);
}

#[test]
fn other_versions_are_named() {
    for version in ["HTTP/3", "HTTP/1.10", "http/1.1", "X"] {
        let text = format!("GET / {version}\r\nhost: a\r\n\r\n");
        assert!(matches!(refused(&text), Refusal::Malformed(_)), "{version}");
    }
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(
            refused(&format!("GET / {version}\r\nhost: a\r\n\r\n")),
            Refusal::Version,
            "{version}"
        );
    }
}

#[test]
fn a_head_is_bounded_in_bytes_in_fields_and_in_its_target() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(count));
    assert!(taken(&fields(MAX_FIELDS)).is_ok());
    assert_eq!(refused(&fields(MAX_FIELDS + 1)), Refusal::HeadTooLarge);
    let long = "x".repeat(MAX_BYTES);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nx: {long}")), Refusal::HeadTooLarge);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")), Refusal::HeadTooLarge);
    assert_eq!(refused(&format!("GET /{long}")), Refusal::TargetTooLong);
    let target = "x".repeat(MAX_TARGET);
    assert_eq!(refused(&format!("GET /{target} HTTP/1.1\r\n\r\n")), Refusal::TargetTooLong);
}

#[test]
fn connections_are_kept_as_versions_and_options_say() {
    for (version, option, keep) in [
        ("1.1", "", true),
        ("1.1", "connection: x, Close\r\n", false),
        ("1.1", "connection: keep-alive\r\n", true),
        ("1.0", "", false),
        ("1.0", "connection: Keep-Alive\r\n", true),
    ] {
        assert_eq!(
            head(&format!("GET / HTTP/{version}\r\n{option}\r\n")).keep,
            keep,
            "{version} {option}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_what_is_taken_has_one_reading(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "GET ", "POST ", "/", "*", "http://a", " HTTP/1.1", " HTTP/1.0", "\r\n", "\n", "\r", " ", "\t", ":", "x: ", "host: a",
                "content-length: 3", "transfer-encoding: chunked", "\0", "\u{80}", "abc", "0", "#",
            ]),
            0..24,
        ),
    ) {
        let text = pieces.concat();
        let whole = take(&mut BytesMut::from(&*text));
        if let Ok(Some(head)) = &whole {
            let framed = [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING];
            let said = framed.iter().map(|name| head.parts.headers.get_all(name).iter().count()).sum::<usize>();
            proptest::prop_assert!(said <= 1);
            let lines = head.bytes.split(|byte| *byte == b'\n');
            let lines: Vec<_> = lines.collect();
            proptest::prop_assert!(lines[..lines.len() - 1].iter().all(|line| line.ends_with(b"\r")));
        }
    }
}
