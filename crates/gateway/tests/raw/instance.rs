//! An instance that writes down what it is sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::strict::{self, Message};

/// Answers each request with its target as the body, and takes none that is not right to the letter.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Message>,
    wrong: Vec<String>,
}

impl Instance {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let of_all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, of_all.clone()));
            }
        });
        Self { address, seen }
    }

    /// The whole requests since it was asked last. Fails if there was anything else.
    pub(crate) fn requests(&self) -> Vec<Message> {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.wrong, [""; 0], "what an instance must not see");
        std::mem::take(&mut seen.requests)
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut read = Vec::new();
    loop {
        match strict::request(&read) {
            Ok(Some((request, length))) => {
                read.drain(..length);
                let (target, length) = (request.target().to_owned(), request.target().len());
                let head = request.line[0] == "HEAD";
                seen.lock().unwrap().requests.push(request);
                let body = if head { "" } else { &target };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(reason) => {
                let text = String::from_utf8_lossy(&read).into_owned();
                seen.lock().unwrap().wrong.push(format!("{reason}: {text:?}"));
                return;
            }
        }
    }
}
