//! What a plain request through the gateway takes from the heap.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use bytes::Bytes;
use gusset_gateway::{Gateway, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

/// An instance in threads of its own, whose memory does not count.
fn instance() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let head = "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
                    let answer = format!("{head}{}", "x".repeat(1024));
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_plain_request_takes_few_places_on_the_heap() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = runtime.block_on(async {
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/{*rest}").to(Upstream::fixed([instance()])))
            .build()
            .unwrap()
    });
    let request = || {
        Request::get("http://gateway/a/b?c=d")
            .header("accept", "*/*")
            .header("user-agent", "curl")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let ask = {
        let (gateway, runtime) = (gateway.clone(), &runtime);
        move |request| {
            let mut gateway = gateway.clone();
            runtime.block_on(async move {
                let answer = gateway.call(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                let mut body = answer.into_body();
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    length += frame.unwrap().data_ref().map_or(0, Bytes::len);
                }
                assert_eq!(length, 1024);
            });
        }
    };
    for _ in 0..200 {
        ask(request());
    }
    const CALLS: u64 = 500;
    let mut requests: Vec<_> = (0..CALLS).map(|_| request()).collect();
    let made = allocation_counter::measure(|| {
        for request in requests.drain(..) {
            ask(request);
        }
    });
    let each = made.count_total.div_ceil(CALLS);
    println!("{each} places, {} bytes", made.bytes_total / CALLS);
    assert!(each <= 15, "{each}");
}
