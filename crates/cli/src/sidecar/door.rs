//! Where is listened, and what serves there.

use std::{convert::Infallible, net::SocketAddr, num::NonZeroUsize};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_gateway::{ClientBody, Listeners, Server};
use http::{Request, Response};
use http_body::Body;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tower_service::Service;

/// A place where is listened.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    listening: Listening,
}

enum Listening {
    /// Of the runtime of everything else.
    Here(TcpListener),
    OnCores(Listeners),
}

impl Door {
    pub(super) async fn open(
        option: &str,
        address: SocketAddr,
        cores: NonZeroUsize,
    ) -> Result<Self, String> {
        let wrong = |error| format!("{option}: cannot listen on {address}: {error}");
        let (address, listening) = if cores > NonZeroUsize::MIN {
            let listeners = Listeners::bind(address, cores).map_err(wrong)?;
            (listeners.local_addr(), Listening::OnCores(listeners))
        } else {
            let listener = TcpListener::bind(address).await.map_err(wrong)?;
            (listener.local_addr(), Listening::Here(listener))
        };
        Ok(Self { address: address.map_err(wrong)?, listening })
    }

    pub(super) fn serve<S, B>(self, server: Server, service: S) -> Served
    where
        S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (stop, mut stopped) = watch::channel(false);
        let shutdown = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let task = tokio::spawn(async move {
            match self.listening {
                Listening::Here(listener) => {
                    let ended = server.run(listener, service, shutdown).await;
                    ended.map_err(|error| error.to_string())
                }
                Listening::OnCores(listeners) => {
                    let ended = server.run_on(listeners, service, shutdown).await;
                    ended.map_err(|error| error.to_string())
                }
            }
        });
        Served { stop, task }
    }
}

/// A server that runs. Dropping it cuts its connections.
pub(super) struct Served {
    stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<Result<(), String>>,
}

impl Served {
    /// Finishes the requests under way. False if some had to be cut.
    pub(super) async fn drain(&mut self, until: Instant) -> bool {
        self.stop.send_replace(true);
        match timeout_at(until, &mut self.task).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(error))) => {
                tracing::warn!(error, "not all requests were finished");
                false
            }
            Ok(Err(_)) => false,
            Err(_) => {
                self.task.abort();
                tracing::warn!("not all requests were finished in time");
                false
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
