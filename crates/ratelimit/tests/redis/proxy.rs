//! A network that breaks in halves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Stands between a limiter and its server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Of those that are open, nothing comes back any more.
    swallows: Arc<std::sync::Mutex<Arc<AtomicBool>>>,
    delay: Arc<std::sync::Mutex<Duration>>,
    task: AbortHandle,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let swallows = Arc::new(std::sync::Mutex::new(Arc::new(AtomicBool::new(false))));
        let delay = Arc::new(std::sync::Mutex::new(Duration::ZERO));
        let (swallow, delayed) = (swallows.clone(), delay.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let swallowed = swallow.lock().unwrap().clone();
                tokio::spawn(pass(client, server, swallowed, delayed.clone()));
            }
        });
        Self { port: own, swallows, delay, task: task.abort_handle() }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Answers on the connections of now are lost; new connections work.
    pub(crate) fn swallow(&self) {
        let fresh = Arc::new(AtomicBool::new(false));
        std::mem::replace(&mut *self.swallows.lock().unwrap(), fresh).store(true, SeqCst);
    }

    /// Answers come this much later.
    pub(crate) fn delay(&self, by: Duration) {
        *self.delay.lock().unwrap() = by;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    swallowed: Arc<AtomicBool>,
    delay: Arc<std::sync::Mutex<Duration>>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let questions = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answers = async {
        let mut buffer = vec![0; 4_096];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let by = *delay.lock().unwrap();
            if !by.is_zero() {
                tokio::time::sleep(by).await;
            }
            if !swallowed.load(SeqCst) && to_client.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}
