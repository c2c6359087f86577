//! How instances of the services are made.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use axum::Router;
use gusset::{
    breaker,
    console::{self, Sources},
    registry::Registry,
    sidecar::{Sidecar, telemetry::Store},
};

use crate::{
    chaos::{self, Chaos},
    client::Outbound,
    place::Registries,
    service::{self, Running},
    services::sidecar_of,
    settings::Settings,
    tell,
};

/// What instances are made by.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they were added.
    apps: Vec<(String, App)>,
    registries: Registries,
    /// In which callers find the services.
    found: Arc<dyn Registry>,
    breaker: breaker::Policy,
    /// Where the settings stand.
    url: String,
    /// Where this process is looked after, if it is one of a shop.
    desk: Option<Desk>,
}

/// Makes the HTTP interface of one instance, within its runtime.
#[derive(Clone)]
struct App(Arc<dyn Fn(Supplies) -> BoxedRouter + Send + Sync>);

pub(crate) type BoxedRouter = Pin<Box<dyn Future<Output = service::App> + Send>>;

/// Where an instance that is a process is looked after, beside what it [tells](tell).
#[derive(Clone)]
struct Desk {
    chaos: Chaos,
    /// What operators show.
    token: String,
}

impl Desk {
    fn router(&self, outbound: &Outbound) -> Router {
        let sidecar = outbound.sidecar();
        let recorder = sidecar.recorder();
        let sources = Sources::new()
            .metrics(recorder.service().clone(), sidecar.metrics())
            .traces(&Store::of(recorder))
            .circuits("calls", outbound.circuits())
            .operator_token(&self.token);
        chaos::told::router(&self.chaos).nest(CONSOLE, console::router(sources))
    }
}

/// Where each process has a console.
pub(crate) const CONSOLE: &str = "/console/";

/// What is known of an instance from outside.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) sidecar: Sidecar,
    /// `None` of one that calls nobody.
    pub(crate) outbound: Option<Outbound>,
}

/// What an instance is given.
pub(crate) struct Supplies {
    pub(crate) outbound: Outbound,
    url: String,
}

impl Supplies {
    /// The settings, as soon as they are known; those that always hold if they are not within two seconds, until they are.
    pub(crate) async fn settings(&self) -> Settings {
        // A client of the instance's own: its connections end with it.
        let settings = match Settings::spawn(&self.url) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "there are no settings");
                return Settings::fixed();
            }
        };
        if !settings.known(Duration::from_secs(2)).await {
            tracing::warn!("begins without its settings");
        }
        settings
    }
}

impl Plan {
    pub(crate) fn new(
        registries: Registries,
        breaker: breaker::Policy,
        url: String,
    ) -> io::Result<Self> {
        let found = registries.connect()?;
        Ok(Self { apps: Vec::new(), registries, found, breaker, url, desk: None })
    }

    /// From now on instances hear which faults are on, and have consoles for whoever shows this token.
    pub(crate) fn look_after(&mut self, chaos: &Chaos, token: String) {
        self.desk = Some(Desk { chaos: chaos.clone(), token });
    }

    /// From now on there is such a service.
    pub(crate) fn add<F, R>(&mut self, service: &str, app: F)
    where
        F: Fn(Supplies) -> R + Send + Sync + 'static,
        R: Future<Output: Into<service::App>> + Send + 'static,
    {
        let app = App(Arc::new(move |given| {
            let made = app(given);
            Box::pin(async move { made.await.into() })
        }));
        match self.apps.iter_mut().find(|(known, _)| known == service) {
            Some((_, known)) => *known = app,
            None => self.apps.push((service.to_owned(), app)),
        }
    }

    /// Which service this is, in the order in which they were added.
    pub(crate) fn place_of(&self, service: &str) -> Option<usize> {
        self.apps.iter().position(|(name, _)| name == service)
    }

    /// Starts an instance with connections of its own, as a separate process would have, and with this sidecar or one of its own.
    pub(crate) async fn start(
        &self,
        service: &str,
        number: usize,
        sidecar: Option<Sidecar>,
    ) -> io::Result<(Member, Running)> {
        let sidecar = sidecar.unwrap_or_else(|| sidecar_of(service));
        let outbound = Outbound::new(sidecar.clone(), self.found.clone(), self.breaker);
        let app = self.app(service, outbound.clone())?;
        let running = Running::start(&self.registries, service, number, app).await?;
        let member = Member { id: running.id().to_owned(), sidecar, outbound: Some(outbound) };
        Ok((member, running))
    }

    /// Makes an instance that calls others so, within its runtime.
    pub(crate) fn app(
        &self,
        service: &str,
        outbound: Outbound,
    ) -> io::Result<impl FnOnce() -> BoxedRouter + Send + use<>> {
        let unknown = || io::Error::other(format!("there is no {service}"));
        let App(app) = self.apps[self.place_of(service).ok_or_else(unknown)?].1.clone();
        let given = Supplies { outbound: outbound.clone(), url: self.url.clone() };
        let looked_after = self.desk.clone();
        Ok(move || -> BoxedRouter {
            Box::pin(async move {
                let inbound = outbound.sidecar();
                let desk = tell::router(inbound, Some(outbound.circuits().clone()));
                let mut app = app(given).await;
                app.router = app.router.layer(inbound.inbound()).merge(desk);
                if let Some(desk) = looked_after {
                    app.router = app.router.merge(desk.router(&outbound));
                }
                app
            })
        })
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
