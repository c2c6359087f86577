use std::{error::Error, time::Duration};

use gusset::saga::State;
use shop::{
    Ground, Hosting, Shop, Times,
    api::lock,
    load::{Load, Rate, Report},
    settings::{GIFT_WRAP, price_key},
};
use tokio::{
    net::TcpListener,
    time::{Instant, interval, timeout},
};
use uuid::Uuid;

use crate::{
    chaos::Desk,
    console::Console,
    engines::Engines,
    load::{Customers, customers_for},
    options::Options,
    releases::{BlueGreen, Canary},
    shopper::{Books, Shopper},
    summary::{Changes, Promise, RollingRestart, Summary},
    terminal::Terminal,
};

pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// How many people shop in the background from the beginning.
const CUSTOMERS: usize = 20;

/// The catalogue: name, price in cents.
const CATALOGUE: [(&str, u64); 6] = [
    ("desk lamp", 3_990),
    ("tea pot", 2_450),
    ("wool blanket", 6_900),
    ("bread knife", 1_990),
    ("alarm clock", 2_290),
    ("picture frame", 1_290),
];

const STOCK: u32 = 100_000;

/// About how long the acts take without their pauses.
const BUSY: Duration = Duration::from_secs(14);

/// All that the acts share.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) terminal: Terminal,
    pub(crate) shop: Shop,
    pub(crate) console: Console,
    pub(crate) times: Times,
    pub(crate) gateway: String,
    pub(crate) http: reqwest::Client,
    pub(crate) books: Books,
    pub(crate) products: Vec<Uuid>,
    pub(crate) desk: Desk,
    pub(crate) rate: Rate,
    pub(crate) load: Option<Load>,
    pub(crate) latencies: Option<Report>,
    pub(crate) changes: Option<Changes>,
    pub(crate) restart: Option<RollingRestart>,
    pub(crate) canary: Option<Canary>,
    pub(crate) blue_green: Option<BlueGreen>,
    /// Who comes whenever a release is tried.
    pub(crate) regulars: Vec<Shopper>,
    pub(crate) ground: Ground,
    /// Until the shop is closed.
    pub(crate) engines: Engines,
    length: Duration,
    began: Instant,
    promises: Vec<Promise>,
}

impl Story {
    /// Opens the shop and fills its shelves.
    pub(crate) async fn open(
        options: &Options,
        listener: TcpListener,
        terminal: Terminal,
    ) -> Result<Self, Failed> {
        let times = Times {
            ttl: Duration::from_secs(1),
            sweep: Duration::from_millis(250),
            open_for: Duration::from_secs(2),
        };
        let gateway = format!("http://{}", listener.local_addr()?);
        let ground = Ground {
            registry: options.registry.clone(),
            broker: options.broker.clone(),
            data_dir: options.data_dir.clone(),
            database: options.database.clone(),
            redis: options.redis.clone(),
            flow: options.flow,
            times,
            secret: std::env::var("SHOP_SECRET").ok(),
            hosting: Hosting::Threads,
            ..Ground::default()
        };
        let (engines, ground) = Engines::start(options, ground).await.map_err(NoStart)?;
        let rate = Rate::per_second(options.load);
        let desk = Desk::spawn(options.desk, &ground.chaos, rate.clone()).await.map_err(NoStart)?;
        let shop = Shop::open(&ground, listener).await.map_err(NoStart)?;
        let next = options.port.checked_add(1).filter(|port| *port > 1).unwrap_or(0);
        let console = Console::open(&shop, rate.clone(), next).await.map_err(NoStart)?;
        // A folder has them from the first time.
        let known = shop.products.all().await?;
        let mut products = Vec::new();
        for (name, price_cents) in CATALOGUE {
            products.push(match known.iter().find(|product| product.name == name) {
                Some(found) => found.clone(),
                None => shop.products.add(name, price_cents, STOCK).await?,
            });
        }
        // What stands there already is somebody's choice.
        shop.keys.cas(GIFT_WRAP, "off", 0).await?;
        for product in &products {
            let price = product.price_cents.to_string();
            shop.keys.cas(&price_key(&product.sku), price, 0).await?;
        }
        Ok(Self {
            products: products.iter().map(|product| product.id).collect(),
            terminal,
            shop,
            console,
            times,
            gateway,
            http: reqwest::Client::new(),
            books: Books::default(),
            desk,
            rate,
            engines,
            load: None,
            latencies: None,
            changes: None,
            restart: None,
            canary: None,
            blue_green: None,
            regulars: Vec::new(),
            ground,
            length: options.length,
            began: Instant::now(),
            promises: Vec::new(),
        })
    }

    /// So much of the time that is there to look on; the pauses of all acts are 100 percent together.
    pub(crate) fn share(&self, percent: u32) -> Duration {
        self.length.saturating_sub(BUSY) * percent / 100
    }

    /// Notes a promise, and tells at once if it is broken.
    pub(crate) fn promise(&mut self, held: bool, text: impl Into<String>) {
        let text = text.into();
        self.terminal.verdict(held, &text);
        self.promises.push(Promise { text, held });
    }

    /// A product beside the catalogue, which nobody buys in the background.
    pub(crate) async fn stock_up(&mut self, name: &str, stock: u32) -> Result<Uuid, Failed> {
        Ok(self.shop.products.add(name, 9_900, stock).await?.id)
    }

    pub(crate) async fn stock(&self, product: Uuid) -> Result<u32, Failed> {
        let all = self.shop.products.all().await?;
        Ok(all.iter().find(|found| found.id == product).map_or(0, |found| found.stock))
    }

    pub(crate) async fn newcomer(&self, email: &str) -> Result<Shopper, Failed> {
        let shopper = Shopper::new(self.http.clone(), self.gateway.clone(), self.books.clone());
        Ok(shopper.open_account(email).await?)
    }

    pub(crate) async fn customers(&self) -> Result<Vec<Shopper>, Failed> {
        let mut customers = Vec::new();
        for number in 1..=CUSTOMERS {
            customers.push(self.newcomer(&format!("customer-{number}@example.com")).await?);
        }
        Ok(customers)
    }

    /// Spawns a task in which more of them come, as many as the load needs: an account takes tens of milliseconds.
    pub(crate) fn more_customers(&self, customers: Customers, rps: u32) {
        let newcomer = Shopper::new(self.http.clone(), self.gateway.clone(), self.books.clone());
        tokio::spawn(async move {
            for number in CUSTOMERS + 1..=customers_for(rps) {
                let email = format!("customer-{number}@example.com");
                // Where nobody else comes while something is broken, those who are there order more.
                if let Ok(customer) = newcomer.clone().open_account(&email).await {
                    lock(&customers).push(customer);
                }
            }
        });
    }

    /// Comes to rest, and judges.
    pub(crate) async fn judge(&mut self, interrupted: bool) -> Result<Summary, Failed> {
        if let Some(load) = self.load.take() {
            self.latencies = Some(load.stop().await);
        }
        // A saga whose customer has gone is carried to its end all the same.
        if !self.comes_to_rest().await {
            self.promise(false, "every message and every saga comes to its end");
        }
        let waiting = self.shop.orders.sagas().await.map_or(1, |sagas| {
            let waits = |(state, _): &&(State, u64)| matches!(state, State::Stuck | State::Blocked);
            sagas.iter().filter(waits).map(|(_, count)| count).sum()
        });
        let text = format!("sagas that wait for an operator: {waiting}");
        self.promises.push(Promise { held: waiting == 0, text });
        let dead_letters = self.shop.dead_letters().await.ok();
        let replay = self.shop.orders.replay().await.ok();
        let (same, text) = match &replay {
            Some(replay) => (
                replay.different.is_empty(),
                format!(
                    "the history of every order adds up to what it is: {} of {}",
                    replay.histories.saturating_sub(replay.different.len() as u64),
                    replay.orders,
                ),
            ),
            None => (false, "the histories of the orders can be read".to_owned()),
        };
        self.promises.push(Promise { held: same, text });
        let promises = std::mem::take(&mut self.promises);
        Ok(Summary {
            interrupted,
            seconds: self.began.elapsed().as_secs_f64(),
            registry: self.ground.registry.to_string(),
            broker: self.ground.broker.to_string(),
            data_dir: self.ground.data_dir.clone(),
            flow: self.ground.flow.to_string(),
            dead_letters,
            replay,
            canary: self.canary.take(),
            blue_green: self.blue_green.take(),
            changes: self.changes.take(),
            rolling_restart: self.restart.take(),
            load: self.latencies.take(),
            chaos: self.shop.chaos.happened(),
            ..Summary::of(&self.shop, &self.books, promises).await?
        })
    }

    /// What is under way ends by itself; whether it did in time.
    pub(crate) async fn comes_to_rest(&self) -> bool {
        let resting = async {
            let mut ticks = interval(Duration::from_millis(50));
            // What cannot be read at this moment is read at the next.
            while !self.shop.is_at_rest().await.unwrap_or(false) {
                ticks.tick().await;
            }
        };
        timeout(Duration::from_secs(30), resting).await.is_ok()
    }
}

/// The shop could not be opened.
#[derive(Debug)]
pub(crate) struct NoStart(std::io::Error);

impl std::fmt::Display for NoStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let causes = std::iter::successors(Error::source(&self.0), |&cause| cause.source());
        self.0.fmt(f)?;
        causes.into_iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for NoStart {}

/// Looks 50 times a second whether `condition` has come true; whether it did in time.
pub(crate) async fn eventually(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let mut ticks = interval(Duration::from_millis(20));
    timeout(limit, async {
        while !condition() {
            ticks.tick().await;
        }
    })
    .await
    .is_ok()
}
