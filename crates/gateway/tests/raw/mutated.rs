//! Requests that were right, changed at random in the ways that tell readers apart.
//!
//! Bounded in `./test`; `GUSSET_DEEP=1` runs ten times as many. A failure prints the bytes; put them into `CORPUS`.

use std::time::Duration;

use gusset_engines::Chance;

use crate::client::{Front, SOON, said};

/// What the changes begin with. Also those that once went wrong.
const CORPUS: [&str; 12] = [
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a?b=c HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, TE\r\nTE: trailers\r\n\r\n",
    "GET http://shop/a HTTP/1.1\r\nHost: shop:80\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 43\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
    "POST /small/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1f\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "OPTIONS /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "GET /a/%2e%2e//b/./;c HTTP/1.1\r\nHost: [::1]:80\r\nCookie: a=b\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Gusset-Subject: b\r\nVia: 1.0 c\r\n\r\n",
];

/// What is put in.
const ODD: [&[u8]; 28] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b",",
    b";",
    b"0",
    b"-",
    b"+",
    b"%",
    b"%2f",
    b"..",
    b"Content-Length: 4\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Host: b\r\n",
    b"0\r\n\r\n",
    b"GET /evil HTTP/1.1\r\n",
    b"chunked, ",
];

fn mutated(chance: &mut Chance) -> Vec<u8> {
    let mut bytes = CORPUS[chance.below(CORPUS.len())].as_bytes().to_vec();
    if chance.below(4) == 0 {
        bytes.extend_from_slice(CORPUS[chance.below(CORPUS.len())].as_bytes());
    }
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len());
        match chance.below(5) {
            0 => drop(bytes.remove(at)),
            1 => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
            2 => {
                // A line twice.
                let from = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
                let to = bytes[at..]
                    .iter()
                    .position(|b| *b == b'\n')
                    .map_or(bytes.len(), |n| at + n + 1);
                let line = bytes[from..to].to_vec();
                bytes.splice(from..from, line);
            }
            _ => drop(bytes.splice(at..at, ODD[chance.below(ODD.len())].iter().copied())),
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

/// What the instance may see of it, it checks itself; whom the answers belong to, a second client does.
#[tokio::test]
async fn no_change_makes_a_request_ambiguous_or_moves_an_answer_to_somebody_else() {
    let rounds = if std::env::var_os("GUSSET_DEEP").is_some() { 20_000 } else { 2_000 };
    let front = Front::new().await;
    let mut chance = Chance(8);
    for round in 0..rounds {
        let bytes = mutated(&mut chance);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let sent =
            [&bytes[..], b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
        // Where the change makes it wait for more, that is not waited for.
        let answers = said_mixed(&front, &sent, &text).await;
        for status in answers {
            let fine = matches!(
                status,
                100 | 200 | 400 | 404 | 405 | 408 | 413 | 414 | 417 | 431 | 501 | 505
            );
            assert!(fine, "{status} to {text:?}");
        }
        let victim =
            format!("GET /victim/{round} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let victim = said(front.address, victim.as_bytes(), SOON).await;
        assert_eq!(victim.targets(), [format!("/victim/{round}")], "after {text:?}");
        for request in front.instance.requests() {
            let framing = ["content-length", "transfer-encoding", "host", "connection"];
            let evil = request.trailers.iter().any(|(name, _)| framing.contains(&name.as_str()));
            assert!(!evil, "{request:?} of {text:?}");
            assert!(
                !request.has("x-gusset-subject")
                    && !request.all("x-forwarded-for").contains(&"1.1.1.1"),
                "{request:?} of {text:?}"
            );
        }
    }
}

/// The statuses of what came back within a moment. The answers to HEAD have lengths without bodies, so they are only looked for.
async fn said_mixed(front: &Front, sent: &[u8], text: &str) -> Vec<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
    let _ = stream.write_all(sent).await;
    let mut read = Vec::new();
    let reading = async { while matches!(stream.read_buf(&mut read).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(Duration::from_millis(20), reading).await;
    let read = String::from_utf8_lossy(&read).into_owned();
    assert!(read.is_empty() || read.starts_with("HTTP/1."), "{read:?} to {text:?}");
    let heads = read.split("HTTP/1.").skip(1);
    heads.filter_map(|head| head.get(2..5)?.parse().ok()).collect()
}
