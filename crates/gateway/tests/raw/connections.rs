//! Several requests on a connection, and its end.

use std::time::Duration;

use gusset_gateway::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::{Front, SOON, said},
    strict,
};

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let front = Front::new().await;
    let asked: String = (0..50).map(|n| get(&format!("/{n}"), "")).collect();
    let said = front.says(asked).await;
    let expected: Vec<_> = (0..50).map(|n| format!("/{n}")).chain(["/next".to_owned()]).collect();
    assert_eq!(said.targets(), expected);
    assert_eq!(front.instance.requests().len(), 51);
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_the_same_request() {
    let front = Front::new().await;
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;x\r\nhi\r\n0\r\nX: 1\r\n\r\n";
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in request.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut read = Vec::new();
    timeout(SOON, stream.read_to_end(&mut read)).await.unwrap().unwrap();
    assert_eq!(strict::answer(&read, "POST", true).unwrap().unwrap().0.body, b"/a");
    let requests = front.instance.requests();
    assert_eq!((requests.len(), &*requests[0].body), (1, &b"hi"[..]));
    assert_eq!(requests[0].trailers, [("x".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn behind_a_close_nothing_is_read() {
    let front = Front::new().await;
    for close in [
        "Connection: close\r\n",
        "Connection: Close\r\n",
        "Connection: keep-alive, close\r\n",
        "Connection: close\r\nConnection: keep-alive\r\n",
        "Connection: keep-alive\r\nConnection: close\r\n",
    ] {
        let said = front.says(get("/a", close) + &get("/evil", "")).await;
        assert_eq!(said.targets(), ["/a"], "{close}");
        assert!(said.ended);
        let requests = front.instance.requests();
        assert_eq!(requests.len(), 1, "{close}");
        assert!(!requests[0].has("connection"));
    }
}

#[tokio::test]
async fn http_1_0_is_one_request_a_connection_unless_it_asks_for_more() {
    let front = Front::new().await;
    let old = |fields: &str| format!("GET /a HTTP/1.0\r\nHost: a\r\n{fields}\r\n");
    let once = front.says(old("")).await;
    assert_eq!((once.targets(), once.ended), (vec!["/a".to_owned()], true));
    let kept = front.says(old("Connection: keep-alive\r\n")).await;
    assert_eq!(kept.targets(), ["/a", "/next"]);
    assert!(
        kept.answers[0]
            .all("connection")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("keep-alive")),
        "{kept:?}"
    );
    for request in front.instance.requests() {
        assert_eq!(request.line[2], "HTTP/1.1");
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_send_is_not_left_with_half_a_connection() {
    let front = Front::new().await;
    let expects = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n"
        )
    };
    // Refused before its body was asked for: the body may come or not, so the connection cannot go on.
    let said = said(front.address, expects("/small/a").as_bytes(), SOON).await;
    assert_eq!((said.statuses(), said.ended), (vec![413], true));
    assert!(front.instance.requests().is_empty());
}

#[tokio::test]
async fn an_expectation_goes_on_and_is_answered_once() {
    let front = Front::new().await;
    let said = front
        .says("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert!(matches!(said.statuses()[..], [100, 200, 200] | [200, 200]), "{said:?}");
    let expected = front.instance.requests().iter().filter(|seen| seen.has("expect")).count();
    assert_eq!(expected, 1, "of the one request that had it");
}

#[tokio::test]
async fn head_has_no_body_and_the_next_request_is_its_own() {
    let front = Front::new().await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let both = get("/a", "").replacen("GET", "HEAD", 1) + &get("/b", "Connection: close\r\n");
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    timeout(SOON, stream.read_to_end(&mut read)).await.unwrap().unwrap();
    let (head, length) = strict::answer(&read, "HEAD", true).unwrap().unwrap();
    assert_eq!(head.all("content-length"), ["2"]);
    assert_eq!(strict::answer(&read[length..], "GET", true).unwrap().unwrap().0.body, b"/b");
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_an_ordinary_request() {
    let front = Front::new().await;
    let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for request in [
        format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\n{ask}\r\nContent-Length: {}\r\n\r\n{evil}",
            evil.len()
        ),
        format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\n{ask}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{evil}\r\n0\r\n\r\n",
            evil.len()
        ),
    ] {
        let said = front.says(request).await;
        assert_eq!(said.targets(), ["/chat", "/next"], "{said:?}");
        let requests = front.instance.requests();
        assert!(requests.len() == 2 && !requests[0].has("upgrade"), "{requests:?}");
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_that_was_not_granted_are_a_request_like_any_other() {
    let front = Front::new().await;
    // Sent before the answer, in the hope that the next hop takes it for the tunnel's.
    let said = front
        .says(get("/chat", "Connection: Upgrade\r\nUpgrade: websocket\r\n") + &get("/b", ""))
        .await;
    assert_eq!(said.targets(), ["/chat", "/b", "/next"], "{said:?}");
    let requests = front.instance.requests();
    assert_eq!((requests.len(), requests[1].target()), (3, "/b"));
}

/// Another codec reads from there on. It may be less strict, and still nothing goes on that can be read in two ways.
#[tokio::test]
async fn behind_an_upgrade_that_was_not_granted_no_request_can_be_read_in_two_ways() {
    let front = Front::new().await;
    let ask = get("/chat", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let evil = get("/evil", "");
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding : chunked",
        "X: a\r\n Content-Length: 5",
        "X: a\rContent-Length: 5",
    ] {
        let bad = format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{evil}");
        let said = front.says(ask.clone() + &bad).await;
        assert!(said.ended && said.targets()[0] == "/chat", "{fields} {said:?}");
        for request in front.instance.requests() {
            assert!(matches!(request.target(), "/chat" | "/a"), "{fields} {request:?}");
        }
    }
}

#[tokio::test]
async fn upgrades_to_http_2_and_settings_for_it_do_not_go_on() {
    let front = Front::new().await;
    let said = front.says(get("/chat", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")).await;
    assert_eq!(said.targets(), ["/chat", "/next"]);
    let request = &front.instance.requests()[0];
    assert!(!request.has("upgrade") && !request.has("http2-settings"), "{request:?}");
}

#[tokio::test]
async fn silence_in_a_head_and_between_requests_ends_a_connection() {
    let front = Front::by(Server::new().head_timeout(Duration::from_millis(200))).await;
    for (bytes, answers) in [
        ("", 0),
        ("GET", 0),
        ("GET /a HTTP/1.1\r\nHost: a\r\n", 0),
        ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET", 1),
        ("\r\n", 0),
    ] {
        let said = said(front.address, bytes.as_bytes(), SOON).await;
        let ok = said.targets().len();
        assert!(said.ended && ok == answers, "{bytes:?} {said:?}");
    }
}
