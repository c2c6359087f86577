//! Something between client and server that may fail in halves.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
};

/// What becomes of bytes that come to the proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// What clients send is swallowed: the connection stays, and nothing arrives.
    pub(crate) deaf: bool,
    /// What the server sends is swallowed.
    pub(crate) mute: bool,
    /// As soon as a client sends this, nothing of it arrives any more, nor of any other connection.
    pub(crate) until: Option<&'static [u8]>,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    /// Those of connections that are there, and those of connections to come.
    rules: Arc<Mutex<(Arc<Mutex<Rules>>, bool)>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Arc::new(Mutex::new((Arc::<Mutex<Rules>>::default(), true)));
        let given = rules.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (rules, open) = given.lock().unwrap().clone();
                let server = TcpStream::connect(("127.0.0.1", port)).await;
                let (true, Ok(server)) = (open, server) else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                connections.spawn(carry(from_client, to_server, rules.clone(), true));
                connections.spawn(carry(from_server, to_client, rules, false));
            }
        });
        Self { address, rules, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// For the connections that are there now; later ones pass.
    pub(crate) fn set(&self, rules: Rules) {
        let mut all = self.rules.lock().unwrap();
        *all.0.lock().unwrap() = rules;
        all.0 = Arc::default();
    }

    /// For the connections that are there now and for all later ones.
    pub(crate) fn set_for_all(&self, rules: Rules) {
        *self.rules.lock().unwrap().0.lock().unwrap() = rules;
    }

    /// Whether later connections are accepted.
    pub(crate) fn open(&self, open: bool) {
        self.rules.lock().unwrap().1 = open;
    }

    /// Whether what was waited for has come.
    pub(crate) fn has_cut(&self) -> bool {
        self.rules.lock().unwrap().0.lock().unwrap().deaf
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rules: Arc<Mutex<Rules>>,
    is_client: bool,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let swallowed = {
            let mut rules = rules.lock().unwrap();
            if let (true, Some(word)) = (is_client, rules.until) {
                rules.deaf |= bytes[..read].windows(word.len()).any(|part| part == word);
            }
            if is_client { rules.deaf } else { rules.mute }
        };
        if !swallowed && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
