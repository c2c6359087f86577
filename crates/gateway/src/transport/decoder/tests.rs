use super::*;
use proptest::prelude::*;

/// A body, its trailers, and what follows it.
type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// The body in `bytes` when they come in pieces of these sizes, in turn.
fn decoded(mut decoder: Decoder, bytes: &[u8], pieces: &[usize]) -> Result<Read, TransportError> {
    let (mut body, mut trailers, mut read) = (Vec::new(), None, BytesMut::new());
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().cycle();
    loop {
        match decoder.decode(&mut read)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty(), "data that is none");
                body.extend_from_slice(&data);
            }
            Decoded::Trailers(fields) => trailers = Some(fields),
            Decoded::Over => {
                let left = [&read[..], rest].concat();
                return Ok((body, trailers, left));
            }
            Decoded::Nothing if rest.is_empty() => {
                return if decoder.may_end() {
                    Ok((body, trailers, Vec::new()))
                } else {
                    Err(TransportError::ended_early())
                };
            }
            Decoded::Nothing => {
                let (piece, left) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
                read.extend_from_slice(piece);
                rest = left;
            }
        }
    }
}

fn chunked(bytes: &str) -> Result<Read, TransportError> {
    decoded(Decoder::chunked(), bytes.as_bytes(), &[usize::MAX])
}

#[test]
fn a_length_is_the_length() {
    let (body, _, left) = decoded(Decoder::of_length(3), b"abcde", &[5]).unwrap();
    assert_eq!((&body[..], &left[..]), (&b"abc"[..], &b"de"[..]));
    assert!(decoded(Decoder::of_length(6), b"abcde", &[5]).is_err());
    assert_eq!(Decoder::of_length(0), Decoder::Over);
}

#[test]
fn trailers_are_told_but_for_those_that_decide_about_the_body() {
    let end = "3\r\nabc\r\n0\r\nx-sum: 7\r\nContent-Length: 9\r\nset-cookie: a\r\n\r\nnext";
    let (body, trailers, left) = chunked(end).unwrap();
    assert_eq!((&body[..], &left[..]), (&b"abc"[..], &b"next"[..]));
    let trailers = trailers.unwrap();
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("7")));
}

#[test]
fn what_breaks_the_rules_of_chunks_is_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
        "1\na\r\n",
        "1 1\r\na\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1\r\na\rb",
        "1;a\rb\r\na\r\n",
        "1\u{0}\r\na",
        "00000000000000001\r\na\r\n",
        "0\r\nno trailer\r\n\r\n",
        "0\r\n: x\r\n\r\n",
    ] {
        assert!(matches!(chunked(body), Err(TransportError::Malformed(_))), "{body:?}");
    }
    for body in
        ["", "1", "1\r", "1\r\n", "1\r\na", "1\r\na\r", "1\r\na\r\n", "0\r\n", "0\r\nx: 1\r\n"]
    {
        assert!(matches!(chunked(body), Err(TransportError::Broken(_))), "{body:?} is cut");
    }
}

#[test]
fn extensions_and_capitals_are_read_over() {
    let (body, ..) = chunked("A;name=value\r\n0123456789\r\n1 ; b\r\nx\r\n000;c\r\n\r\n").unwrap();
    assert_eq!(body, b"0123456789x");
}

#[test]
fn what_is_not_data_has_bounds() {
    let line = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(MAX_SIZE_LINE));
    assert!(matches!(chunked(&line), Err(TransportError::Malformed(_))));
    let trailers = format!("0\r\nx: {}", "a".repeat(MAX_TRAILERS));
    assert!(matches!(chunked(&trailers), Err(TransportError::Malformed(_))));
    let many = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(MAX_TRAILER_FIELDS + 1));
    assert!(matches!(chunked(&many), Err(TransportError::Malformed(_))));
}

proptest! {
    #[test]
    fn chunks_are_the_same_however_they_come(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        pieces in proptest::collection::vec(1usize..9, 1..5),
        trailer in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(if trailer { &b"0\r\nx: 1\r\n\r\nrest"[..] } else { b"0\r\n\r\nrest" });
        let (body, trailers, left) = decoded(Decoder::chunked(), &bytes, &pieces).unwrap();
        prop_assert_eq!(body, chunks.concat());
        prop_assert_eq!(trailers.is_some(), trailer);
        prop_assert_eq!(left, b"rest");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decoded(Decoder::chunked(), &bytes, &[3, 7]);
    }
}
