//! The page that shows the shop while its story is told.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use gusset::{
    console::{Sources, router},
    sidecar::telemetry::{self, Telemetry},
};
use shop::{Shop, load::Rate};
use tokio::{net::TcpListener, task::JoinHandle};

/// Serves it until it is dropped.
pub(crate) struct Console {
    /// Where it is.
    pub(crate) url: String,
    /// What an operator shows.
    pub(crate) token: String,
    shown: Arc<Mutex<Sources>>,
    serving: JoinHandle<io::Result<()>>,
    _telemetry: Telemetry,
}

impl Console {
    /// On this port of the loopback device, or on any free one. The load is changed there by its operators.
    pub(crate) async fn open(shop: &Shop, rate: Rate, port: u16) -> io::Result<Self> {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let url = format!("http://{}/", listener.local_addr()?);
        // Its logs are read on the page; the terminal is the story's.
        let telemetry =
            telemetry::init("shop").writer(io::sink).start().map_err(io::Error::other)?;
        let token = format!("{:032x}", rand::random::<u128>());
        let shown = Arc::new(Mutex::new(shop.sources()));
        let now = shown.clone();
        let sources = Sources::new()
            .also(move || now.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .traces(telemetry.store())
            .switches("customers", rate)
            .operator_token(&token);
        let serving = axum::serve(listener, router(sources)).into_future();
        let serving = tokio::spawn(serving);
        Ok(Self { url, token, shown, serving, _telemetry: telemetry })
    }

    /// Shows the instances that there are now.
    pub(crate) fn look(&self, shop: &Shop) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shop.sources();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("url", &self.url).finish_non_exhaustive()
    }
}
