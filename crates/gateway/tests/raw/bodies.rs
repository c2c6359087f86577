//! Where a body ends: what two readers could see at two places is refused, or goes on in one way.

use crate::client::{Front, SOON, said};

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

/// Answered with one of these statuses, the connection over, and nothing whole at the instance.
async fn refused(front: &Front, statuses: &[u16], request: &str) {
    let said = front.says(request).await;
    assert!(
        matches!(said.statuses()[..], [one] if statuses.contains(&one)),
        "{request:?} {said:?}"
    );
    assert!(said.ended && said.rest.is_empty(), "{request:?} {said:?}");
    assert!(front.instance.requests().is_empty(), "{request:?}");
}

#[tokio::test]
async fn a_length_is_digits_and_said_once() {
    let front = Front::new().await;
    for length in [
        "+2",
        "-2",
        "0x2",
        "2 2",
        "1e1",
        "2,",
        "2;",
        "",
        "two",
        "2.0",
        "2, 3",
        "18446744073709551616",
        "99999999999999999999999",
        "\u{664}",
    ] {
        refused(&front, &[400], &post(&format!("Content-Length: {length}"), "hi")).await;
    }
    for fields in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: x",
        "Content-Length: 2\r\nContent-Length:",
    ] {
        refused(&front, &[400], &post(fields, "hi")).await;
    }
}

#[tokio::test]
async fn a_length_goes_on_in_its_one_spelling_and_is_refused_if_it_is_said_twice() {
    let front = Front::new().await;
    let said = front.says(post("Content-Length: 02", "hi")).await;
    assert_eq!(said.targets(), ["/a", "/next"]);
    let request = &front.instance.requests()[0];
    assert_eq!((&*request.body, request.all("content-length")), (&b"hi"[..], vec!["2"]));
    for fields in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2, 2"] {
        let front = Front::new().await;
        let said = front.says(post(fields, "hi")).await;
        assert_eq!((said.statuses(), front.instance.requests().len()), (vec![400], 0), "{fields}");
    }
}

#[tokio::test]
async fn the_one_transfer_coding_is_chunked() {
    let front = Front::new().await;
    let chunks = "2\r\nhi\r\n0\r\n\r\n";
    for coding in [
        "gzip",
        "identity",
        "xchunked",
        "chunkedx",
        "chun ked",
        "chunked;q=1",
        "chunked, gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        ", chunked",
        "\"chunked\"",
        "",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: gzip",
        "gzip\r\nTransfer-Encoding: chunked",
        "identity\r\nTransfer-Encoding: chunked",
        "chunked\u{b}",
    ] {
        refused(&front, &[400, 501], &post(&format!("Transfer-Encoding: {coding}"), chunks)).await;
    }
    refused(&front, &[400], &post("Transfer-Encoding : chunked", chunks)).await;
    refused(&front, &[400], &post("Transfer-Encoding\u{b}: chunked", chunks)).await;
    refused(
        &front,
        &[400],
        &format!("POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
    )
    .await;
    for coding in ["chunked", "Chunked", "CHUNKED", " \tchunked\t "] {
        let said = front.says(post(&format!("Transfer-Encoding:{coding}"), chunks)).await;
        assert_eq!(said.targets(), ["/a", "/next"], "{coding} {said:?}");
        let request = &front.instance.requests()[0];
        assert_eq!((&*request.body, request.chunked), (&b"hi"[..], true));
    }
}

/// RFC 9112, 6.1: the coding counts, the length does not go on, and the connection is not used again.
#[tokio::test]
async fn a_length_and_a_coding_are_refused_and_nothing_behind_them_is_read() {
    let front = Front::new().await;
    let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive",
    ] {
        let said = front.says(post(fields, &format!("0\r\n\r\n{evil}"))).await;
        assert!(said.ended, "{fields} {said:?}");
        assert_eq!((said.statuses(), front.instance.requests().len()), (vec![400], 0), "{fields}");
    }
}

#[tokio::test]
async fn what_stands_in_a_body_is_no_request() {
    let front = Front::new().await;
    let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    let in_length = post(&format!("Content-Length: {}", evil.len()), evil);
    let in_chunk =
        post("Transfer-Encoding: chunked", &format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len()));
    let of_get = in_length.replacen("POST", "GET", 1);
    let of_options = in_chunk.replacen("POST", "OPTIONS", 1);
    for request in [in_length, in_chunk, of_get, of_options] {
        let said = front.says(&request).await;
        assert_eq!(said.targets(), ["/a", "/next"], "{said:?}");
        assert_eq!(front.instance.requests()[0].body, evil.as_bytes());
    }
}

#[tokio::test]
async fn chunks_that_are_not_well_formed_are_400_and_never_whole() {
    let front = Front::new().await;
    for chunks in [
        "g\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "+2\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        " 2\r\nhi\r\n0\r\n\r\n",
        "\r\n2\r\nhi\r\n0\r\n\r\n",
        ";x\r\nhi\r\n0\r\n\r\n",
        "2_0\r\nhi\r\n0\r\n\r\n",
        "2 2\r\nhi\r\n0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\rhi\r\n0\r\n\r\n",
        "2\r\rhi\r\n0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhi\rx0\r\n\r\n",
        "2\r\nhixx\r\n0\r\n\r\n",
        "1\r\nhi\r\n0\r\n\r\n",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
        "2;a\nb\r\nhi\r\n0\r\n\r\n",
        "2;a\rb\r\nhi\r\n0\r\n\r\n",
        "2\r\nhi\r\n0\r\nX : 1\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: 1\r\n folded\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: a\rb\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: a\0b\r\n\r\n",
        "2\r\nhi\r\n0\r\nX\r\n\r\n",
    ] {
        refused(&front, &[400], &post("Transfer-Encoding: chunked", chunks)).await;
    }
}

#[tokio::test]
async fn what_is_endless_beside_the_data_is_400() {
    let front = Front::new().await;
    for chunks in [
        format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(100_000)),
        format!("0\r\n{}\r\n", "X: 1\r\n".repeat(10_000)),
        format!("0\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
    ] {
        refused(&front, &[400], &post("Transfer-Encoding: chunked", &chunks)).await;
    }
}

#[tokio::test]
async fn extensions_of_chunks_do_not_go_on() {
    let front = Front::new().await;
    for chunks in [
        "2;x=1\r\nhi\r\n0;y\r\n\r\n",
        "2;x=\"a;b\"\r\nhi\r\n0\r\n\r\n",
        "2 ;x\r\nhi\r\n0\r\n\r\n",
        "0002\r\nhi\r\n000\r\n\r\n",
        "2\t\r\nhi\r\n0\r\n\r\n",
    ] {
        let said = front.says(post("Transfer-Encoding: chunked", chunks)).await;
        assert_eq!(said.targets(), ["/a", "/next"], "{chunks} {said:?}");
        assert_eq!(front.instance.requests()[0].body, b"hi");
    }
}

#[tokio::test]
async fn trailers_that_others_would_decide_by_do_not_go_on() {
    let front = Front::new().await;
    let fields = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: evil",
        "Authorization: root",
        "X-Gusset-Subject: root",
        "X_Gusset_Subject: root",
        "X-Forwarded-For: 1.1.1.1",
        "Forwarded: for=1.1.1.1",
        "Connection: close",
        "Cookie: a",
        "Via: x",
        "TE: gzip",
        "Upgrade: websocket",
        "Trailer: x",
        "Content-Type: a",
        "Content-Encoding: gzip",
        "Expect: 100-continue",
        "Keep-Alive: 5",
        "Proxy-Authorization: x",
    ];
    let lines = fields.join("\r\n");
    let said = front
        .says(post(
            "Transfer-Encoding: chunked\r\nTE: trailers",
            &format!("2\r\nhi\r\n0\r\n{lines}\r\nX-Sum: 1\r\n\r\n"),
        ))
        .await;
    assert_eq!(said.targets(), ["/a", "/next"], "{said:?}");
    let request = &front.instance.requests()[0];
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_and_what_is_left_of_it_is_no_request() {
    let front = Front::new().await;
    let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    for (fields, body) in [
        (format!("Content-Length: {}", evil.len()), evil.to_owned()),
        ("Transfer-Encoding: chunked".to_owned(), format!("b\r\n{}\r\n0\r\n\r\n", &evil[..11])),
        ("Content-Length: 18446744073709551614".to_owned(), evil.to_owned()),
    ] {
        let request = post(&fields, &body).replacen("/a", "/small/a", 1);
        let said = front.says(&request).await;
        // A length that is nearly no number is too much head to hyper.
        assert!(matches!(said.statuses()[..], [413 | 431]), "{request:?} {said:?}");
        assert!(said.ended && front.instance.requests().is_empty());
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_whole_at_the_instance() {
    let front = Front::new().await;
    for request in [
        post("Content-Length: 10", "half"),
        post("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
        post("Transfer-Encoding: chunked", "4\r\nhalf\r\n0\r\n"),
        post("Transfer-Encoding: chunked", "4\r\nha"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        drop(stream);
        // The connection of the broken one has gone to nobody else.
        let said = said(
            front.address,
            b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            SOON,
        )
        .await;
        assert_eq!(said.targets(), ["/next"]);
        assert_eq!(front.instance.requests().len(), 1, "{request:?}");
    }
}
