//! The acts in which a new release takes over, or does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use shop::{NEXT, ReleaseOrder, Releases, STABLE};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    shopper::Shopper,
    story::{Failed, Story},
};

/// After which an act goes on without what it waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many look at the catalogue at once while a release is tried.
const CROWD: usize = 8;

/// What became of a release that was tried on some of the customers.
#[derive(Debug, Serialize)]
pub(crate) struct Canary {
    /// The most that it got before it began to fail, in percent.
    pub(crate) percent: u8,
    /// Why it was taken back, if it was.
    pub(crate) aborted: Option<String>,
    /// Requests that it answered, and those of them that failed.
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    /// Requests answered meanwhile, and failures elsewhere, or after it was taken back.
    pub(crate) answered: u64,
    pub(crate) failed_elsewhere: u64,
}

/// What became of customers while a release took over at once, and gave back.
#[derive(Debug, Serialize)]
pub(crate) struct BlueGreen {
    /// Requests that the new release answered.
    pub(crate) green: u64,
    /// Requests answered meanwhile, and those of them that failed.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

impl Story {
    pub(crate) async fn a_canary_is_taken_back(&mut self) -> Result<(), Failed> {
        self.terminal.act(10, "a new release is tried on some customers, and taken back by itself");
        let fault = self.shop.start_next(1).await?;
        self.console.look(&self.shop);
        let chapter = self.books.next_chapter();
        let crowd = self.crowd().await?;
        // What is not judged before the time of 50 % is over is judged at 100.
        let percent = vec![1, 5, 25, 50, 100];
        self.shop
            .order_releases(ReleaseOrder::RollOut { percent, hold_ms: 500, calls: 20 })
            .await?;
        let reached = self.releases_until(|now| now.percent >= 50).await?.percent;
        self.terminal.say(format!(
            "1, 5, 25, {reached} % of what customers read; from now on every other answer of it fails"
        ));
        fault.set(true);
        let aborted = self.releases_until(|now| now.aborted.is_some()).await?.aborted;
        // Some more, who must not notice anything any more.
        let answered = || self.books.answers_since(chapter, "", |_| true);
        let enough = answered() + 100;
        self.releases_until(|_| answered() >= enough).await?;
        crowd.leave().await;
        let failed = || self.books.failed_since(chapter);
        // What is under way is counted at both ends a moment apart.
        let now = self.releases_until(|now| now.share(NEXT).failures == failed()).await?;
        let next = now.share(NEXT);
        let canary = Canary {
            percent: reached,
            aborted,
            calls: next.calls,
            failures: next.failures,
            answered: answered(),
            failed_elsewhere: failed().abs_diff(next.failures),
        };
        let why = canary.aborted.as_deref().unwrap_or("it was not taken back");
        self.terminal.say(format!("taken back: {why}"));
        let held = reached >= 50
            && canary.aborted.is_some()
            && canary.failures > 0
            && canary.failed_elsewhere == 0
            && (next.weight, now.share(STABLE).weight > 0) == (0, true);
        self.promise(
            held,
            format!(
                "a release that fails is taken back by its errors: {} of its {} answers failed, and none of {} others",
                canary.failures,
                canary.calls,
                canary.answered.saturating_sub(canary.calls),
            ),
        );
        self.canary = Some(canary);
        self.shop.end_next().await?;
        Ok(())
    }

    pub(crate) async fn blue_goes_green_and_back(&mut self) -> Result<(), Failed> {
        self.terminal.act(11, "the release is mended, takes over at once, and gives back");
        self.shop.start_next(3).await?;
        self.console.look(&self.shop);
        let chapter = self.books.next_chapter();
        let crowd = self.crowd().await?;
        let blue = self.shop.releases().await?;
        self.shop.order_releases(ReleaseOrder::SwitchTo(NEXT.to_owned())).await?;
        let enough = blue.share(NEXT).calls + 100;
        let green = self.releases_until(|now| now.share(NEXT).calls >= enough).await?;
        self.shop.order_releases(ReleaseOrder::Revert).await?;
        let enough = green.share(STABLE).calls + 100;
        let back = self.releases_until(|now| now.share(STABLE).calls >= enough).await?;
        crowd.leave().await;
        self.shop.end_next().await?;
        let both = BlueGreen {
            green: back.share(NEXT).calls - blue.share(NEXT).calls,
            answered: self.books.answers_since(chapter, "", |_| true),
            failed: self.books.failed_since(chapter),
        };
        self.promise(
            both.failed == 0 && both.green >= 100 && back.share(STABLE).calls >= enough,
            format!(
                "{} requests were answered while one release took over from another and gave back, and {} failed",
                both.answered, both.failed
            ),
        );
        self.blue_green = Some(both);
        Ok(())
    }

    /// How the releases share the requests as soon as it is so, or when that has taken too long.
    async fn releases_until(&self, so: impl Fn(&Releases) -> bool) -> Result<Releases, Failed> {
        let began = Instant::now();
        loop {
            let now = self.shop.releases().await?;
            if so(&now) || began.elapsed() > PATIENCE {
                return Ok(now);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Customers who look at the catalogue, one look after the other, until they leave.
    async fn crowd(&mut self) -> Result<Crowd, Failed> {
        while self.regulars.len() < CROWD {
            let email = format!("regular-{}@example.com", self.regulars.len());
            self.regulars.push(self.newcomer(&email).await?);
        }
        let mut crowd = Crowd { open: Arc::new(AtomicBool::new(true)), looking: JoinSet::new() };
        for customer in self.regulars.clone() {
            crowd.come(customer, self.products.clone());
        }
        Ok(crowd)
    }
}

struct Crowd {
    open: Arc<AtomicBool>,
    looking: JoinSet<()>,
}

impl Crowd {
    fn come(&mut self, customer: Shopper, products: Vec<uuid::Uuid>) {
        let open = self.open.clone();
        self.looking.spawn(async move {
            for product in products.iter().cycle() {
                if !open.load(Relaxed) {
                    return;
                }
                // The books keep what came of it. Who is too fast waits a moment.
                let limited = customer.look_at(*product).await.is_ok_and(|one| one.status == 429);
                sleep(Duration::from_millis(if limited { 100 } else { 5 })).await;
            }
        });
    }

    /// All that they have asked is answered.
    async fn leave(mut self) {
        self.open.store(false, Relaxed);
        while self.looking.join_next().await.is_some() {}
    }
}
