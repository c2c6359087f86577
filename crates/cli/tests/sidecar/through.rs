use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
};

use crate::harness::*;

#[test]
fn an_app_is_reached_through_its_sidecar_and_reaches_others_by_their_names() {
    let registry = Registry::start();
    let cart = App::start(|_| "three items".into());
    let shop = App::start(|_| String::new());
    let cart_side = Sidecar::start("cart", cart.address, &registry, &[]);
    let shop_side = Sidecar::start("shop", shop.address, &registry, &["--cores", "2"]);
    registry.wait_for("cart", 1);

    assert_eq!(get(cart_side.inbound, "anything", "/"), (200, "three items".into()));
    assert_eq!(shop_side.found("cart", "/items"), (200, "three items".into()));
    let request = "GET http://cart/items HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
    let by_proxy = http(shop_side.outbound, request);
    assert_eq!(parted(&by_proxy), (200, "three items".into()));

    let (status, problem) = get(shop_side.outbound, "nobody", "/");
    assert_eq!(status, 503);
    let why = "no healthy instance of nobody";
    assert!(problem.contains("trace_id") && problem.contains(why), "{problem}");
    let tunnel = http(shop_side.outbound, "CONNECT cart:443 HTTP/1.1\r\nHost: cart:443\r\n\r\n");
    assert!(tunnel.starts_with("HTTP/1.1 4"), "{tunnel}");
}

#[test]
fn a_request_arrives_as_it_was_sent_but_for_its_trace() {
    let registry = Registry::start();
    let (seen, heads) = mpsc::channel();
    let cart = App::start(move |head| {
        seen.send(head.to_owned()).unwrap();
        String::new()
    });
    let side = Sidecar::start("cart", cart.address, &registry, &[]);
    registry.wait_for("cart", 1);
    let request = "GET /a%2Fb/../c?d=%2f HTTP/1.1\r\nHost: cart:80\r\nConnection: close, x-mine\r\nX-Mine: 1\r\nX-Forwarded-For: 203.0.113.9\r\n\
                   X-Gusset-Subject: ann\r\ntraceparent: 00-12345678901234567890123456789012-1234567890123456-01\r\n\r\n";
    // Health is asked by connections without a request.
    let answer = http(side.inbound, request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET /a%2Fb/../c?d=%2f HTTP/1.1\r\n"), "{head}");
    for line in ["host: cart:80", "x-forwarded-for: 203.0.113.9", "x-gusset-subject: ann"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    assert!(head.contains("\r\ntraceparent: 00-12345678901234567890123456789012-"), "{head}");
    for gone in ["1234567890123456-01\r\n", "x-mine", "connection", "x-forwarded-host"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    let left = head.split("x-request-timeout-ms: ").nth(1).unwrap();
    assert!(left.split('\r').next().unwrap().parse::<u32>().unwrap() <= 30_000, "{head}");
}

#[test]
fn an_app_that_fails_is_not_left_alone_and_not_asked_twice() {
    let registry = Registry::start();
    // Answers nonsense: nothing that HTTP/1.1 has.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut read) = (stream.unwrap(), [0; 1024]);
            if stream.read(&mut read).is_ok_and(|read| read > 0) {
                let _ = seen.send(());
                let _ = stream.write_all(b"nonsense\r\n\r\n");
            }
        }
    });
    let side = Sidecar::start("cart", address, &registry, &[]);
    registry.wait_for("cart", 1);
    for _ in 0..12 {
        assert_eq!(get(side.inbound, "cart", "/").0, 502);
    }
    assert_eq!(asked.try_iter().count(), 12);
}

#[test]
fn above_the_limit_requests_are_refused_at_once() {
    let registry = Registry::start();
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let cart = App::start(move |_| {
        begun.send(()).unwrap();
        let () = wait.lock().unwrap().recv().unwrap();
        "slow".into()
    });
    let log = std::env::temp_dir().join(format!("gusset-in-flight-{}", std::process::id()));
    let more = ["--in-flight", "1", "--access-log", log.to_str().unwrap()];
    let side = Sidecar::start("cart", cart.address, &registry, &more);
    registry.wait_for("cart", 1);
    let inbound = side.inbound;
    let first = std::thread::spawn(move || get(inbound, "cart", "/"));
    begins.recv_timeout(PATIENCE).unwrap();
    let refused = http(inbound, "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    go.send(()).unwrap();
    assert_eq!(first.join().unwrap(), (200, "slow".into()));
    go.send(()).unwrap();
    assert_eq!(get(inbound, "cart", "/").0, 200, "the place is free again");
    let (_, metrics) = side.admin("/metrics");
    assert!(metrics.contains("gusset_sidecar_refused_total 1\n"), "{metrics}");
    let lines = eventually("all three are logged", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 3)
    });
    let _ = std::fs::remove_file(&log);
    assert_eq!(lines.matches("\"status\":503").count(), 1, "{lines}");
}

#[test]
fn an_instance_that_keeps_failing_is_left_alone_and_whoever_asks_is_refused_at_once() {
    let registry = Registry::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bank = listener.local_addr().unwrap();
    let (tell, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), Vec::new());
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            tell.send(()).unwrap();
            let answer =
                "HTTP/1.1 503 No\r\nX-Of: bank\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let app = App::start(|_| String::new());
    let side = Sidecar::start("shop", app.address, &registry, &["--circuit-open", "1m"]);
    registry.register("bank", bank);
    // A payment is not made twice, so each is one call.
    let pay = "POST /pay HTTP/1.1\r\nHost: bank\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let ask = || http(side.outbound, pay).to_ascii_lowercase();
    eventually("the bank is found", || ask().contains("x-of: bank").then_some(()));
    // Five times, and for 20 ms at least.
    eventually("the circuit opens", || (!ask().contains("x-of: bank")).then_some(()));
    let before = asked.try_iter().count();
    assert!(before >= 5, "{before}");
    for _ in 0..3 {
        let refused = ask();
        assert!(refused.starts_with("http/1.1 503") && !refused.contains("x-of"), "{refused}");
        assert!(refused.contains("\r\nretry-after: "), "{refused}");
    }
    assert_eq!(asked.try_iter().count(), 0);
    let (_, metrics) = side.admin("/metrics");
    let open = metrics
        .lines()
        .find(|line| line.contains("upstream=\"bank\"") && line.contains("state=\"open\""));
    assert!(open.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

#[test]
fn a_websocket_passes_both_ways() {
    let registry = Registry::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || echo(stream.unwrap()));
        }
    });
    let chat = Sidecar::start("chat", address, &registry, &[]);
    let shop = Sidecar::start("shop", address, &registry, &[]);
    registry.wait_for("chat", 1);
    for way in [chat.inbound, shop.outbound] {
        let (mut stream, head) = eventually("the service is found", || {
            let (stream, head) = upgraded(way);
            (!head.starts_with("HTTP/1.1 503")).then_some((stream, head))
        });
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        for word in ["hello", "world"] {
            stream.write_all(word.as_bytes()).unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, word.as_bytes());
        }
    }
}

/// A connection that asked to speak another protocol, and the head of the answer.
fn upgraded(way: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(way).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /chat HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Switches protocols and says what it hears.
fn echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(switched).unwrap();
    let mut read = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut read) {
        stream.write_all(&read[..count]).unwrap();
    }
}
