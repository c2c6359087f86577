//! WebSocket through the gateway (RFC 6455): what one end says, the other hears, byte by byte and no sooner.

use std::{net::SocketAddr, time::Duration};

use gusset_gateway::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::client::{SOON, gateway, serve};

const CONTINUED: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;

/// A frame of a client, which are masked, or of a server.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(masked | u8::try_from(short).unwrap()),
        middle @ 126..=0xffff => {
            frame.push(masked | 126);
            frame.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = mask.unwrap_or_default();
    frame.extend_from_slice(if masked == 0 { &[] } else { &mask });
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first byte of a frame, and its payload without the mask. Nothing at the end.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let second = stream.read_u8().await.ok()?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((first, payload))
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

/// Sends back every message as it came, answers pings, and ends as it is told to.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let asked = head(&mut stream).await;
                assert!(asked.contains("\r\nsec-websocket-version: 13\r\n"), "{asked}");
                let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
                // The first frame comes with the head.
                let hello = [switched.as_bytes(), &frame(FINAL | TEXT, b"hello", None)].concat();
                stream.write_all(&hello).await.unwrap();
                while let Some((first, payload)) = read(&mut stream).await {
                    let first = if first == FINAL | PING { FINAL | PONG } else { first };
                    if stream.write_all(&frame(first, &payload, None)).await.is_err()
                        || first == FINAL | CLOSE
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat, other\r\n\r\n";

/// A connection that has become one of WebSocket. `early` is sent with the request.
async fn connected(early: &[u8]) -> TcpStream {
    let front = serve(Server::new(), gateway(echo().await)).await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&[ASK.as_bytes(), early].concat()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for field in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: chat",
    ] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field} in {head}");
    }
    assert_eq!(next(&mut stream).await, Some((FINAL | TEXT, b"hello".to_vec())));
    stream
}

async fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    timeout(SOON, read(stream)).await.unwrap()
}

const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

#[tokio::test]
async fn messages_of_every_length_come_back() {
    let mut stream = connected(&[]).await;
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let sent = frame(FINAL | BINARY, &payload, MASK);
        let (mut reader, mut writer) = stream.split();
        let (written, heard) =
            tokio::join!(writer.write_all(&sent), timeout(SOON, read(&mut reader)));
        written.unwrap();
        assert!(heard.unwrap() == Some((FINAL | BINARY, payload)), "{length} bytes");
    }
}

#[tokio::test]
async fn fragments_stay_fragments_and_control_frames_go_between_them() {
    let mut stream = connected(&[]).await;
    for (first, payload) in [
        (TEXT, &b"one"[..]),
        (FINAL | PING, b"still there?"),
        (CONTINUED, b""),
        (CONTINUED, b" two"),
        (FINAL | CONTINUED, b" three"),
    ] {
        stream.write_all(&frame(first, payload, MASK)).await.unwrap();
        let first = if first == FINAL | PING { FINAL | PONG } else { first };
        assert_eq!(next(&mut stream).await, Some((first, payload.to_vec())));
    }
}

/// What is wrong is for the ends to say: reserved bits, unknown kinds, text that is no UTF-8, frames without a mask.
#[tokio::test]
async fn the_gateway_looks_into_no_frame() {
    let mut stream = connected(&[]).await;
    for (first, payload, mask) in [
        (FINAL | 0x70 | TEXT, &b"bits"[..], MASK),
        (FINAL | 0x0b, b"kind", MASK),
        (FINAL | TEXT, b"\xff\xfe", MASK),
        (FINAL | TEXT, b"bare", None),
        (FINAL | TEXT, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ] {
        stream.write_all(&frame(first, payload, mask)).await.unwrap();
        assert_eq!(next(&mut stream).await, Some((first, payload.to_vec())));
    }
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_the_same_frame() {
    let mut stream = connected(&[]).await;
    for byte in frame(FINAL | TEXT, b"slowly", MASK) {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut stream).await, Some((FINAL | TEXT, b"slowly".to_vec())));
}

#[tokio::test]
async fn a_frame_that_was_sent_with_the_request_is_heard_once() {
    let mut stream = connected(&frame(FINAL | TEXT, b"early", MASK)).await;
    assert_eq!(next(&mut stream).await, Some((FINAL | TEXT, b"early".to_vec())));
    stream.write_all(&frame(FINAL | TEXT, b"then", MASK)).await.unwrap();
    assert_eq!(next(&mut stream).await, Some((FINAL | TEXT, b"then".to_vec())));
}

#[tokio::test]
async fn a_close_is_answered_and_ends_both_connections() {
    let mut stream = connected(&[]).await;
    let payload = [&1000u16.to_be_bytes()[..], b"bye"].concat();
    stream.write_all(&frame(FINAL | CLOSE, &payload, MASK)).await.unwrap();
    assert_eq!(next(&mut stream).await, Some((FINAL | CLOSE, payload)));
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn who_does_not_listen_holds_the_other_back() {
    let mut stream = connected(&[]).await;
    let large = frame(FINAL | BINARY, &vec![7; 1 << 20], MASK);
    let mut sent = 0u64;
    // The echo cannot be taken, so in the end nothing more can be sent.
    while let Ok(written) = timeout(Duration::from_millis(300), stream.write_all(&large)).await {
        written.unwrap();
        sent += 1;
        assert!(sent < 200, "200 MiB went somewhere");
    }
    // As soon as somebody listens, it goes on.
    for _ in 0..sent {
        assert_eq!(next(&mut stream).await.map(|(_, payload)| payload.len()), Some(1 << 20));
    }
}

#[tokio::test]
async fn what_an_instance_says_instead_is_an_ordinary_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let answer = "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let front = serve(Server::new(), gateway(address)).await;
    let said = crate::client::said(
        front,
        ASK.replace("Connection: Upgrade", "Connection: Upgrade, close").as_bytes(),
        SOON,
    )
    .await;
    assert_eq!(said.statuses(), [426], "{said:?}");
    assert_eq!(said.answers[0].all("sec-websocket-version"), ["8"]);
    assert!(said.ended);
}
