//! Connections that become another protocol's, as WebSocket does.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

#[cfg(feature = "http2")]
use std::future::Future;
use std::{net::SocketAddr, time::Duration};

use common::*;
use gusset_gateway::{Gateway, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Writes `answer` to each request, with the first bytes of the protocol behind it, and then sends back what comes. Tells the heads of the requests, and how it ended.
async fn instance(
    answer: &'static str,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>, mpsc::UnboundedReceiver<std::io::Result<u64>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((seen, heads), (ended, ends)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, ended) = (seen.clone(), ended.clone());
            tokio::spawn(async move {
                seen.send(head(&mut stream).await).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let copied = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
                let _ = ended.send(copied);
            });
        }
    });
    (address, heads, ends)
}

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst";

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

async fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    timeout(Duration::from_secs(60), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

fn gateway(address: SocketAddr) -> Gateway {
    let chat = Route::new("/chat").to(Upstream::fixed([address])).upgrades(["websocket"]);
    let plain = Route::new("/plain").to(Upstream::fixed([address]));
    Gateway::builder(MemoryRegistry::default()).route(chat).route(plain).build().unwrap()
}

async fn switched(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert_eq!(&read::<5>(&mut stream).await, b"first", "what came with the answer");
    stream
}

#[tokio::test]
async fn both_sides_talk_as_they_agreed_and_either_may_end_first() {
    let (address, mut heads, mut ends) = instance(SWITCHES).await;
    let front = front_by(Server::new(), gateway(address)).await;
    let mut stream = switched(&front).await;
    let asked = heads.recv().await.unwrap();
    assert!(asked.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{asked}");
    assert!(asked.contains("\r\nsec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n"), "{asked}");
    for round in 0..100u8 {
        stream.write_all(&[round; 5000]).await.unwrap();
        assert_eq!(read::<5000>(&mut stream).await, [round; 5000]);
    }
    // The client has said all, and hears the rest.
    stream.write_all(b"last").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
    assert_eq!(ends.recv().await.unwrap().unwrap(), 500_004);
}

#[tokio::test]
async fn only_what_a_route_allows_is_passed_on() {
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (address, mut heads, _ends) = instance(plain).await;
    let front = front_by(Server::new(), gateway(address)).await;
    for request in [
        // Another route, another protocol, a body, two protocols, and no word of it in `Connection`.
        ASK.replace("/chat", "/plain"),
        ASK.replace("websocket\r\n", "h2c\r\n"),
        ASK.replace("Host: a", "Host: a\r\nContent-Length: 2") + "hi",
        ASK.replace("websocket\r\n", "websocket\r\nUpgrade: h2c\r\n"),
        ASK.replace("keep-alive, Upgrade", "keep-alive"),
    ] {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        let asked = heads.recv().await.unwrap();
        assert!(!asked.contains("upgrade"), "{asked}");
    }
}

#[tokio::test]
async fn an_instance_that_switches_to_something_else_is_a_bad_one() {
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: smtp\r\n\r\n";
    let (address, _heads, _ends) = instance(other).await;
    for request in [ASK.to_owned(), ASK.replace("Upgrade", "X").replace("/chat", "/plain")] {
        let front = front_by(Server::new(), gateway(address)).await;
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("http/1.1 502 "), "{answer}");
    }
}

#[tokio::test]
async fn who_breaks_off_is_told_to_the_other_side() {
    let (address, _heads, mut ends) = instance(SWITCHES).await;
    let front = front_by(Server::new(), gateway(address)).await;
    let stream = switched(&front).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let ended = timeout(Duration::from_secs(60), ends.recv()).await.unwrap().unwrap();
    assert!(ended.is_err(), "a reset, and no regular end");
}

/// Reads the client's frame that closes, and gives its code.
async fn closing(stream: &mut TcpStream) -> u16 {
    let [head, length, mask @ .., one, two] = read::<8>(stream).await;
    assert_eq!((head, length), (0x88, 0x82), "one that closes, masked");
    u16::from_be_bytes([one ^ mask[0], two ^ mask[1]])
}

#[tokio::test]
async fn who_speaks_websocket_is_told_on_both_sides_that_the_server_leaves_and_it_waits_for_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let instance = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        head(&mut stream).await;
        stream.write_all(SWITCHES.as_bytes()).await.unwrap();
        // The first bytes behind the answer read as those of a frame of 105; this is its rest.
        stream.write_all(&[b'.'; 102]).await.unwrap();
        let code = closing(&mut stream).await;
        // The rest of a message that nobody waits for, and its own goodbye.
        stream.write_all(b"\x81\x02hi\x88\x02\x03\xe9").await.unwrap();
        code
    });
    let server = Server::new().linger(Duration::ZERO).drain_limit(Duration::from_secs(60));
    let front = front_by(server, gateway(address)).await;
    let mut stream = switched(&front).await;
    read::<102>(&mut stream).await;
    front.stop.send(()).unwrap();
    let mut said = read(&mut stream).await;
    // The two sides are told within a tick of the clock, and not at once: what the instance says in between still passes.
    if said == *b"\x81\x02hi" {
        said = read(&mut stream).await;
    }
    assert_eq!(said, [0x88, 2, 0x03, 0xe9]);
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    assert_eq!(instance.await.unwrap(), 1001);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    drop(stream);
    front.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_and_is_cut_when_the_drain_takes_too_long() {
    let (address, _heads, _ends) = instance(SWITCHES).await;
    let server = Server::new()
        .max_connections(1)
        .linger(Duration::ZERO)
        .drain_limit(Duration::from_millis(100));
    let front = front_by(server, gateway(address)).await;
    let mut stream = switched(&front).await;
    let mut other = TcpStream::connect(front.address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(100), other.read_u8()).await.is_err(), "no place");
    drop(other);
    front.stop.send(()).unwrap();
    let undrained = front.ended.await.unwrap().unwrap_err();
    assert_eq!(undrained.connections(), 1);
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "it is cut");
}

/// A client of HTTP/2 that asks for WebSocket: the answer, and both halves of the stream.
#[cfg(feature = "http2")]
async fn by_http_2(
    front: &Front,
    path: &str,
) -> (http::Response<h2::RecvStream>, h2::SendStream<bytes::Bytes>) {
    let stream = TcpStream::connect(front.address).await.unwrap();
    let (send, mut connection) = h2::client::handshake(stream).await.unwrap();
    // The settings of the server come first.
    let ready = async {
        while !send.is_extended_connect_protocol_enabled() {
            let polled = std::future::poll_fn(|cx| {
                let _ = std::pin::Pin::new(&mut connection).poll(cx);
                std::task::Poll::Ready(())
            });
            polled.await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), ready).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::connect(front.url(path))
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let mut send = send.ready().await.unwrap();
    let (answer, body) = send.send_request(request, false).unwrap();
    (timeout(Duration::from_secs(60), answer).await.unwrap().unwrap(), body)
}

#[cfg(feature = "http2")]
async fn heard(body: &mut h2::RecvStream, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let data = timeout(Duration::from_secs(60), body.data()).await.unwrap().unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    bytes
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn websocket_by_http_2_is_spoken_with_an_instance_of_http_1() {
    let (address, mut heads, mut ends) = instance(SWITCHES).await;
    let server = Server::new().linger(Duration::ZERO).drain_limit(Duration::from_secs(60));
    let front = front_by(server, gateway(address)).await;
    let (answer, mut send) = by_http_2(&front, "/chat").await;
    assert_eq!(answer.status(), 200);
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let asked = heads.recv().await.unwrap();
    assert!(asked.starts_with("get /chat http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{asked}");
    assert!(asked.contains("\r\nsec-websocket-key: "), "{asked}");
    let mut body = answer.into_body();
    assert_eq!(heard(&mut body, 5).await, b"first");
    for round in 0..20u8 {
        send.send_data(vec![round; 2_000].into(), false).unwrap();
        assert_eq!(heard(&mut body, 2_000).await, [round; 2_000]);
    }
    send.send_data("last".into(), true).unwrap();
    assert_eq!(heard(&mut body, 4).await, b"last");
    while let Some(rest) = timeout(Duration::from_secs(60), body.data()).await.unwrap() {
        assert!(rest.unwrap().is_empty(), "it ends, and says no more");
    }
    assert_eq!(ends.recv().await.unwrap().unwrap(), 40_004);
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn an_instance_that_does_not_switch_is_no_success_by_http_2() {
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (address, _heads, _ends) = instance(plain).await;
    let front = front_by(Server::new(), gateway(address)).await;
    for (path, status) in [("/chat", 502), ("/plain", 502), ("/nowhere", 404)] {
        assert_eq!(by_http_2(&front, path).await.0.status(), status, "{path}");
    }
}
