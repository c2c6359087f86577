//! Instances that answer what is no HTTP/1.1, or more than they were asked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gusset_gateway::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Barrier,
};

use crate::{
    client::{SOON, Said, gateway, said, serve},
    strict,
};

/// Answers `/bad` with `answer` and everything else with `good`; but on a connection on which it was `/bad`, with `evil`.
async fn instance(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream, answer.clone()));
        }
    });
    address
}

async fn talk(mut stream: TcpStream, bad: Vec<u8>) {
    let (mut read, mut was_bad) = (Vec::new(), false);
    loop {
        while let Some((request, length)) = strict::request(&read).unwrap() {
            read.drain(..length);
            let answer = match (request.target(), was_bad) {
                ("/bad", _) => &bad[..],
                (_, false) => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
                (_, true) => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            };
            was_bad |= request.target() == "/bad";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
    }
}

/// What is answered to `/bad`; then nobody else is answered by its connection.
async fn asked(answer: impl AsRef<[u8]>) -> Said {
    let answer = answer.as_ref().to_vec();
    let front = serve(Server::new(), gateway(instance(answer.clone()).await)).await;
    let bad = ask(front, "/bad").await;
    for _ in 0..3 {
        assert_eq!(
            ask(front, "/good").await.targets(),
            ["good"],
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    bad
}

async fn ask(front: SocketAddr, target: &str) -> Said {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    said(front, request.as_bytes(), SOON).await
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_502() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3",
        "HTTP/1.1 200 OK\r\nContent-Length: +2",
        "HTTP/1.1 200 OK\r\nContent-Length: -2",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2",
        "HTTP/1.1 200 OK\r\nContent-Length: ",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nContent-Length : 2",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2",
        "HTTP/1.1 99 OK\r\nContent-Length: 2",
        "HTTP/1.1 1000 OK\r\nContent-Length: 2",
        "HTTP/1.1 two OK\r\nContent-Length: 2",
        "HTTP/2.0 200 OK\r\nContent-Length: 2",
        "HTTP/1.1  200 OK\r\nContent-Length: 2",
        "200 OK\r\nContent-Length: 2",
        "SSH-2.0-OpenSSH_9.2",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket",
    ] {
        let said = asked(format!("{head}\r\n\r\nhi")).await;
        assert_eq!(said.statuses(), [502], "{head:?} {said:?}");
        assert!(!String::from_utf8_lossy(&said.answers[0].body).contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn an_answer_with_too_much_head_is_502() {
    for fields in [format!("X: {}", "a".repeat(100_000)), vec!["X: a"; 200].join("\r\n")] {
        let said =
            asked(format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\nhi")).await;
        assert_eq!(said.statuses(), [502]);
    }
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    assert_eq!(asked(interim).await.statuses().last(), Some(&502));
}

#[tokio::test]
async fn what_an_instance_says_beyond_its_answer_is_nobody_s() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (answer, body) in [
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi{evil}"), "hi"),
        (
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{evil}"
            ),
            "hi",
        ),
        (format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"), ""),
        (format!("HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n{evil}"), ""),
        (format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n{evil}"), ""),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}"), ""),
        (
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi{evil}"
            ),
            "hi",
        ),
    ] {
        let said = asked(&answer).await;
        let last = said.answers.last().unwrap();
        assert_eq!(String::from_utf8_lossy(&last.body), body, "{answer:?} {said:?}");
        assert!(said.rest.is_empty(), "{said:?}");
    }
}

#[tokio::test]
async fn a_body_that_goes_wrong_breaks_off_and_does_not_end() {
    for chunks in [
        "2\r\nhi\r\nx\r\n",
        "2\r\nhixx",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhi\r\n0\r\nX : 1\r\n\r\n",
        "2\r\nhi\r\n10000000000000000\r\n",
        "2\r\nhi\r\n0\r\nX: a\r\n b\r\n\r\n",
    ] {
        let said =
            asked(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        // It broke before anything of it was passed on, or in the middle.
        assert!(
            said.answers.is_empty() && said.ended && !said.rest.contains("\r\n0\r\n"),
            "{chunks:?} {said:?}"
        );
    }
}

#[tokio::test]
async fn fields_that_an_instance_names_in_connection_do_not_go_on() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: x-inner, close\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: a\r\nUpgrade: h2c\r\n\
                  X-Outer: 2\r\nContent-Length: 2\r\n\r\nhi";
    let said = asked(answer).await;
    let answer = &said.answers[0];
    for gone in ["x-inner", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert!(!answer.has(gone), "{gone} {answer:?}");
    }
    assert_eq!(answer.all("x-outer"), ["2"]);
}

/// Without a length and without chunks the end of the connection is the end; for HTTP/1.0 there is no other way.
#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection_or_in_chunks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall there is").await;
        }
    });
    let front = serve(Server::new(), gateway(address)).await;
    for (version, chunked) in [("1.1", true), ("1.0", false)] {
        let request = format!("GET /a HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        let said = said(front, request.as_bytes(), SOON).await;
        assert_eq!(said.targets(), ["all there is"], "{said:?}");
        assert_eq!(said.answers[0].chunked, chunked);
    }
}

/// POSTs that fail by them are not sent again. But the instance is well, and its circuit stays closed.
#[tokio::test]
async fn idle_connections_that_were_closed_do_not_open_a_circuit() {
    const AT_ONCE: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let all_there = Arc::new(Barrier::new(AT_ONCE));
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            count += 1;
            let all_there = (count <= AT_ONCE).then(|| all_there.clone());
            tokio::spawn(async move {
                let mut read = [0; 4096];
                let _ = stream.read(&mut read).await;
                if let Some(all_there) = all_there {
                    all_there.wait().await;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
                // The next request finds it closed.
                let _ = stream.read(&mut read).await;
            });
        }
    });
    let front = serve(Server::new(), gateway(address)).await;
    let request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let first = (0..AT_ONCE).map(|_| tokio::spawn(said(front, request, SOON)));
    for first in first.collect::<Vec<_>>() {
        assert_eq!(first.await.unwrap().statuses(), [200]);
    }
    let mut statuses = Vec::new();
    for _ in 0..=AT_ONCE {
        statuses.extend(said(front, request, SOON).await.statuses());
    }
    assert!(!statuses.contains(&503) && statuses.last() == Some(&200), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 502).count() > 5, "{statuses:?}");
}

/// An instance that closes idle connections without notice costs no GET.
#[tokio::test]
async fn an_instance_that_closes_what_is_idle_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0u64;
        while let Ok((mut stream, _)) = listener.accept().await {
            count += 1;
            let pause = Duration::from_micros(count * 37 % 2000);
            tokio::spawn(async move {
                let mut read = Vec::new();
                loop {
                    let reading = async {
                        while !read.ends_with(b"\r\n\r\n") {
                            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                                return false;
                            }
                        }
                        true
                    };
                    match tokio::time::timeout(pause, reading).await {
                        Ok(true) => read.clear(),
                        _ => return,
                    }
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
                }
            });
        }
    });
    let front = serve(Server::new(), gateway(address)).await;
    let clients = (0..8).map(|client: u64| {
        tokio::spawn(async move {
            for round in 0..50 {
                tokio::time::sleep(Duration::from_micros((client * 131 + round * 71) % 2500)).await;
                // Connections that are refused in their first microseconds as well are another matter.
                assert_eq!(ask(front, "/good").await.targets(), ["good"]);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}
