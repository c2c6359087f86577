//! A client that sends what it is told.

use std::{future::pending, net::SocketAddr, time::Duration};

use gusset_gateway::{Gateway, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    instance::Instance,
    strict::{self, Message},
};

/// A gateway before one instance.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) instance: Instance,
}

/// How long anything may take that does happen. What happens at once is not waited for.
pub(crate) const SOON: Duration = Duration::from_secs(60);

impl Front {
    /// All paths lead to the instance; below `/small/` are at most 10 bytes of body taken.
    pub(crate) async fn new() -> Self {
        Self::by(Server::new()).await
    }

    pub(crate) async fn by(server: Server) -> Self {
        let instance = Instance::new().await;
        let address = serve(server, gateway(instance.address)).await;
        Self { address, instance }
    }

    /// What is answered to `bytes` and then to a request for `/next` that says it is the last.
    pub(crate) async fn says(&self, bytes: impl AsRef<[u8]>) -> Said {
        let next = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        said(self.address, &[bytes.as_ref(), next].concat(), SOON).await
    }
}

pub(crate) fn gateway(address: SocketAddr) -> Gateway {
    let to = || Upstream::fixed([address]);
    Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/").to(to()))
        .route(Route::new("/{*rest}").to(to()))
        .route(Route::new("/small/{*rest}").to(to()).body_limit(10))
        .route(Route::new("/chat").to(to()).upgrades(["websocket"]))
        .build()
        .unwrap()
}

pub(crate) async fn serve(server: Server, gateway: Gateway) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.run(listener, gateway, pending()));
    address
}

/// What came back on a connection.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) answers: Vec<Message>,
    /// Whether the other side has ended it.
    pub(crate) ended: bool,
    /// What is no whole answer.
    pub(crate) rest: String,
}

impl Said {
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(Message::status).collect()
    }

    /// The bodies of the answers of instances, which say what was asked.
    pub(crate) fn targets(&self) -> Vec<String> {
        let ok = self.answers.iter().filter(|answer| answer.status() == 200);
        ok.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).collect()
    }
}

/// Sends `bytes` and reads until the connection ends, or says nothing for as long as `quiet`.
pub(crate) async fn said(address: SocketAddr, bytes: &[u8], quiet: Duration) -> Said {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        // It may have enough before it has all.
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let (mut read, mut ended) = (Vec::new(), false);
    while !ended {
        match timeout(quiet, reader.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => ended = true,
            Err(_) => break,
        }
    }
    writing.abort();
    let mut answers = Vec::new();
    loop {
        let wrong = |why| format!("{why}: {}", String::from_utf8_lossy(&read));
        match strict::answer(&read, "", ended).map_err(wrong).unwrap() {
            Some((answer, length)) if length > 0 => {
                answers.push(answer);
                read.drain(..length);
            }
            _ => break,
        }
    }
    Said { answers, ended, rest: String::from_utf8_lossy(&read).into_owned() }
}
