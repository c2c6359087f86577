use http_body_util::{Empty, Full};

use super::*;

struct Unknown;

impl Body for Unknown {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Ready(None)
    }
}

fn written(
    asked: &Asked,
    answer: http::response::Builder,
    body: &impl Body,
    keep: bool,
) -> (String, Framing, bool) {
    let (head, ()) = answer.header("date", "now").body(()).unwrap().into_parts();
    let mut out = BytesMut::new();
    let (framing, keep) = asked.write(&mut out, &head, body, keep);
    (String::from_utf8(out.to_vec()).unwrap().replace("date: now\r\n", ""), framing, keep)
}

fn answer(status: u16) -> http::response::Builder {
    http::Response::builder().status(status)
}

#[test]
fn the_end_of_a_body_is_told_in_one_way() {
    let get = Asked::by(&Method::GET, Version::HTTP_11);
    let full = Full::new(bytes::Bytes::from_static(b"four"));
    let lies = answer(200)
        .header("content-length", "7")
        .header("transfer-encoding", "gzip")
        .header("connection", "x");
    let (head, framing, _) = written(&get, lies, &full, true);
    assert_eq!(
        (&*head, framing),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", Framing::Length(4))
    );
    let (head, framing, _) = written(&get, answer(200), &Unknown, true);
    assert_eq!(
        (&*head, framing),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Chunked)
    );
    let (head, framing, _) =
        written(&get, answer(200).header("content-length", "7"), &Unknown, true);
    assert_eq!(
        (&*head, framing),
        ("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", Framing::Length(7))
    );
    let (head, framing, _) = written(&get, answer(200), &Empty::<bytes::Bytes>::new(), true);
    assert_eq!((&*head, framing), ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::Empty));
}

#[test]
fn where_no_body_may_be_none_is_sent_and_its_length_told_only_where_it_would_have_one() {
    let head = Asked::by(&Method::HEAD, Version::HTTP_11);
    let get = Asked::by(&Method::GET, Version::HTTP_11);
    let full = Full::new(bytes::Bytes::from_static(b"four"));
    for (asked, status, length) in
        [(&head, 200, true), (&get, 204, false), (&get, 304, true), (&head, 204, true)]
    {
        let (text, framing, _) =
            written(asked, answer(status).header("content-length", "4"), &full, true);
        assert_eq!(framing, Framing::Empty);
        assert_eq!(text.contains("content-length: 4\r\n"), length, "{status}: {text}");
        assert!(!text.contains("chunked"));
    }
}

#[test]
fn to_http_1_0_a_body_without_a_length_ends_with_the_connection() {
    let old = Asked::by(&Method::GET, Version::HTTP_10);
    let (text, framing, keep) = written(&old, answer(200), &Unknown, true);
    assert_eq!(
        (&*text, framing, keep),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", Framing::UntilClose, false)
    );
    let (text, _, keep) = written(&old, answer(200), &Empty::<bytes::Bytes>::new(), true);
    assert!(keep && text.contains("connection: keep-alive\r\n"), "{text}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it is the clock that is told")]
fn a_service_can_end_the_connection_and_an_answer_without_a_date_gets_one() {
    let get = Asked::by(&Method::GET, Version::HTTP_11);
    let empty = Empty::<bytes::Bytes>::new();
    let (text, _, keep) = written(&get, answer(200).header("connection", "close"), &empty, true);
    assert!(!keep && text.contains("connection: close\r\n"));
    let (head, ()) = answer(200).body(()).unwrap().into_parts();
    let mut out = BytesMut::new();
    let _ = get.write(&mut out, &head, &empty, true);
    let text = String::from_utf8(out.to_vec()).unwrap();
    let date = text.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
    let age = std::time::SystemTime::now().duration_since(httpdate::parse_http_date(date).unwrap());
    assert!(age.unwrap() < std::time::Duration::from_secs(60));
}
