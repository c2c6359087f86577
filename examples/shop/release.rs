//! The next release of the product service, beside the one that serves.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json, Router, extract::Request, middleware::Next, response::IntoResponse, routing::get,
};
use gusset::{
    call::Problem,
    gateway::{Rollout, RolloutState, Split, SplitError, Upstream, Variant},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{Shop, api::problem, plan::Supplies, service::Running};

/// The variant of the product service that serves at first.
pub const STABLE: &str = "stable";

/// That of the next release.
pub const NEXT: &str = "next";

/// The service that instances of the next release are. Only the gateway knows of it, so no order goes there.
const SERVICE: &str = "product-next";

/// Where the gateway sends what customers read: all of it to the present release at first.
pub(crate) fn split() -> Split {
    let variant = |name: &str, service: &str, weight| {
        Variant::new(name.to_owned(), Upstream::service(service.to_owned()), weight)
    };
    Split::new([variant(STABLE, "product-service", 1), variant(NEXT, SERVICE, 0)])
}

/// What a gateway is told to do with the releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The next one gets more step by step, in percent, each for so many milliseconds and calls at least, until it fails more often than the other.
    RollOut {
        /// The steps.
        percent: Vec<u8>,
        /// How long each takes.
        hold_ms: u64,
        /// How many calls.
        calls: u64,
    },
    /// All goes to this one.
    SwitchTo(String),
    /// Back to what was before the last order.
    Revert,
}

/// How the releases share what customers read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// What the next one gets of a rollout, in percent.
    pub percent: u8,
    /// Why the rollout was aborted, if it was.
    pub aborted: Option<String>,
    shares: Vec<Share>,
}

/// What became of the requests of a release, since the gateway began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Its part of the sum of all.
    pub weight: u64,
    /// Requests that it answered, or failed to.
    pub calls: u64,
    /// Of them, those that failed.
    pub failures: u64,
}

impl Releases {
    fn of(split: &Split) -> Self {
        let rollout = split.rollout();
        let aborted = rollout.as_ref().and_then(|rollout| match rollout.state {
            RolloutState::Aborted(why) => Some(why.to_string()),
            _ => None,
        });
        let shares = split.stats().into_iter().map(|variant| Share {
            name: variant.name.to_string(),
            weight: variant.weight,
            calls: variant.calls,
            failures: variant.failures,
        });
        let percent = rollout.map_or(0, |rollout| rollout.percent);
        Self { percent, aborted, shares: shares.collect() }
    }

    /// That of a release.
    #[must_use]
    pub fn share(&self, name: &str) -> Share {
        self.shares.iter().find(|share| share.name == name).cloned().unwrap_or_default()
    }
}

fn obey(split: &Split, order: Order) -> Result<(), SplitError> {
    match order {
        Order::RollOut { percent, hold_ms, calls } => {
            let plan = Rollout::new().steps(percent).hold(Duration::from_millis(hold_ms));
            // It is about errors; that a machine is busy elsewhere is not its fault.
            split.roll_out(NEXT, plan.calls(calls).slower(None))
        }
        Order::SwitchTo(name) => split.switch_to(&name),
        Order::Revert => {
            split.revert();
            Ok(())
        }
    }
}

/// `/releases` of a gateway in a process of its own: `GET` shows them, `POST` takes an [`Order`].
pub(crate) fn router(split: &Split) -> Router {
    let (shown, told) = (split.clone(), split.clone());
    let show = async move || Json(Releases::of(&shown));
    let tell = async move |Json(order): Json<Order>| {
        let done = obey(&told, order);
        done.map_err(|why| problem(StatusCode::UNPROCESSABLE_ENTITY, why.to_string()))
            .map(|()| StatusCode::NO_CONTENT)
    };
    Router::new().route("/releases", get(show).post(tell))
}

/// The fault of a release; the knob of the story. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    on: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Fault {
    /// From now on every other answer is a 500, or none is.
    pub fn set(&self, on: bool) {
        self.on.store(on, Relaxed);
    }

    fn strikes(&self) -> bool {
        self.on.load(Relaxed) && self.asked.fetch_add(1, Relaxed).is_multiple_of(2)
    }

    fn around(self, router: Router) -> Router {
        router.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
            let fault = self.clone();
            async move {
                if fault.strikes() {
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    let problem: Problem = problem(status, "a fault of this release");
                    return IntoResponse::into_response(problem);
                }
                next.run(request).await
            }
        }))
    }
}

impl Shop {
    /// Starts the next release of the product service, in this process. It works on the store of the present one, and gets nothing to do until an
    /// [order](Self::order_releases) says so.
    ///
    /// # Errors
    ///
    /// If there are no more ports or threads to be had.
    pub async fn start_next(&mut self, instances: usize) -> io::Result<Fault> {
        let (products, fault) = (self.products.clone(), Fault::default());
        let of_app = fault.clone();
        self.plan.add(SERVICE, move |given: Supplies| {
            let (products, fault) = (products.clone(), of_app.clone());
            async move { fault.around(products.router(given.settings().await)) }
        });
        for number in 1..=instances {
            self.start_one(SERVICE, number).await?;
        }
        Ok(fault)
    }

    /// Lets the next release leave, whose weight is to be 0 by then.
    ///
    /// # Errors
    ///
    /// If an instance did not end in time.
    pub async fn end_next(&mut self) -> io::Result<()> {
        let (next, others) =
            self.running.drain(..).partition::<Vec<_>, _>(|one| one.service() == SERVICE);
        self.running = others;
        let mut leaving: JoinSet<_> = next.into_iter().map(Running::stop).collect();
        while let Some(left) = leaving.join_next().await {
            left.map_err(io::Error::other)??;
        }
        Ok(())
    }

    /// How the releases share what customers read.
    ///
    /// # Errors
    ///
    /// If the gateway is a process of its own, and does not say.
    pub async fn releases(&self) -> io::Result<Releases> {
        match &self.processes {
            Some(processes) => processes.releases().await,
            None => Ok(Releases::of(&self.split)),
        }
    }

    /// Changes that.
    ///
    /// # Errors
    ///
    /// If it cannot be done, or the gateway not be told.
    pub async fn order_releases(&self, order: Order) -> io::Result<()> {
        match &self.processes {
            Some(processes) => processes.order_releases(&order).await,
            None => obey(&self.split, order).map_err(io::Error::other),
        }
    }
}
