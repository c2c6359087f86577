//! Runs a service the way a process would: on a socket, with a runtime of its own, registered under its name.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, mpsc},
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use gusset::{
    health::Health,
    registry::{Instance, Registration, Registry},
    shutdown::Shutdown,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

use crate::place::Registries;

/// How long a service that ends waits for what is under way.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a service that leaves goes on to serve after its registry knows: the time until its callers do, and have sent what they were about to. They
/// follow the registry, which takes a few milliseconds.
const GRACE: Duration = Duration::from_millis(200);

/// How long what an instance does [at last](App::at_last) may take. What is not done by then is left as a crash leaves it.
pub(crate) const LAST: Duration = Duration::from_secs(2);

/// What an instance is made of.
pub(crate) struct App {
    pub(crate) router: Router,
    /// What it does as soon as its callers know that it leaves, so that nothing that would go on for long keeps it.
    pub(crate) leaving: Leaving,
    /// What it does when it has given its last answer.
    pub(crate) at_last: AtLast,
}

/// See [`App::leaving`].
pub(crate) type Leaving = Box<dyn FnOnce() + Send>;

/// See [`App::at_last`].
pub(crate) type AtLast = Pin<Box<dyn Future<Output = ()> + Send>>;

impl From<Router> for App {
    fn from(router: Router) -> Self {
        let at_last = Box::pin(std::future::ready(()));
        Self { router, leaving: Box::new(|| ()), at_last }
    }
}

/// One instance of a service. It has a runtime and a thread of its own, so that [`Running::kill`] takes it away as `kill -9` takes a
/// process: its sockets close, its heartbeats stop, nobody is told.
pub struct Running {
    instance: Instance,
    addr: SocketAddr,
    shutdown: Shutdown,
    runtime: Own,
    server: JoinHandle<io::Result<()>>,
    /// While its only thread is blocked: dropped, it goes on.
    frozen: Option<mpsc::Sender<()>>,
}

/// A runtime that ends with its owner, and may be dropped by a task of another one.
struct Own(Option<Runtime>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Running {
    /// Starts it on any free port and waits until the registry knows it under `service`. `app` runs within its runtime.
    ///
    /// # Errors
    ///
    /// If there is no port or no thread to be had.
    pub(crate) async fn start<F>(
        registries: &Registries,
        service: &str,
        number: usize,
        app: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = App> + Send,
    {
        let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        let instance = Instance::new(service, addr.ip().to_string(), addr.port())
            .with_id(format!("{service}-{number}"));

        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&*instance.id)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let runtime = Own(Some(runtime));
        let shutdown = Shutdown::new(Duration::ZERO);
        let (ready, registered) = oneshot::channel();
        let (told, leave, registries) = (instance.clone(), shutdown.clone(), registries.clone());
        let server = handle.spawn(async move {
            let registry = registries.connect()?;
            let mut app = app().await;
            app.router = app.router.merge(Health::new(&leave).router());
            serve(socket, app, registry, told, leave, ready).await
        });
        if registered.await.is_err() {
            let failed = server.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            return Err(failed.err().unwrap_or_else(|| io::Error::other("it ended at once")));
        }
        Ok(Self { instance, addr, shutdown, runtime, server, frozen: None })
    }

    /// Name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.instance.service
    }

    /// Id of the instance.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.instance.id
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes it away without a word.
    pub fn kill(self) {
        // One that stands still does not get a step further.
        drop(self.runtime);
        drop(self.frozen);
    }

    /// Lets it stand still as `SIGSTOP` does a process: its sockets stay open, nothing is answered, no heartbeat goes out; or lets it go on.
    pub fn freeze(&mut self, still: bool) {
        if !still {
            self.frozen = None;
        } else if let (None, Some(runtime)) = (&self.frozen, &self.runtime.0) {
            let (go_on, wait) = mpsc::channel::<()>();
            // It has one thread, and this blocks it.
            runtime.spawn(async move { wait.recv().is_ok() });
            self.frozen = Some(go_on);
        }
    }

    /// Lets it leave: it drains, serves until its callers know, deregisters, and finishes what is under way.
    ///
    /// # Errors
    ///
    /// If it did not end in time.
    pub async fn stop(mut self) -> io::Result<()> {
        self.freeze(false);
        self.shutdown.begin();
        let ended = tokio::time::timeout(LIMIT, &mut self.server).await;
        ended.map_err(io::Error::other)?.map_err(io::Error::other)?
    }
}

async fn serve(
    socket: std::net::TcpListener,
    app: App,
    registry: Arc<dyn Registry>,
    instance: Instance,
    shutdown: Shutdown,
    ready: oneshot::Sender<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?.tap_io(|connection| {
        // Answers are small and must not wait for the client's acknowledgement of the one before.
        let _ = connection.set_nodelay(true);
    });
    let registration = Registration::spawn(registry, instance);
    registration.registered().await.map_err(io::Error::other)?;
    let _ = ready.send(());

    let leaving = async {
        shutdown.begun().await;
        // Callers are told first, and the door stays open until they know. What the registry says at the end changes nothing here.
        let _ = registration.close_after(GRACE).await;
    };
    let (accepting, closed) = oneshot::channel::<()>();
    let server = axum::serve(listener, app.router).with_graceful_shutdown(async {
        let _ = closed.await;
    });
    let (served, ()) = tokio::join!(server.into_future(), async {
        leaving.await;
        (app.leaving)();
        drop(accepting);
    });
    let _ = tokio::time::timeout(LAST, app.at_last).await;
    served
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("id", &self.id()).field("addr", &self.addr).finish()
    }
}
