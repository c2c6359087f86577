//! Between a registry and its etcd: cut, or open in one direction only.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Open,
    /// Connections end, new ones are ended at once.
    Cut,
    /// What the server says is thrown away, and new connections wait for ever.
    Deaf,
}

pub(crate) struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let modes = mode.clone();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, to, modes.subscribe()));
            }
        });
        Self { port, mode, task }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub(crate) fn swallow_answers(&self) {
        self.mode.send_replace(Mode::Deaf);
    }

    /// For new connections. Those that were cut or deaf stay so.
    pub(crate) fn mend(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, to: u16, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() != Mode::Open {
        let _ = mode.wait_for(|mode| *mode != Mode::Deaf).await;
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let deaf = mode.clone();
    let both = async {
        tokio::join!(pump(from_client, to_server, None), pump(from_server, to_client, Some(deaf)))
    };
    tokio::select! {
        _ = both => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    deaf: Option<watch::Receiver<Mode>>,
) {
    let (mut buffer, mut swallowing) = (vec![0; 16 << 10], false);
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        swallowing |= deaf.as_ref().is_some_and(|mode| *mode.borrow() == Mode::Deaf);
        if !swallowing && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
