use std::{collections::BTreeMap, error::Error, time::Duration};

use gusset::breaker::State;
use shop::{
    Shop, Times,
    settings::{GIFT_WRAP, price_key},
};
use tokio::{
    net::TcpListener,
    time::{Instant, interval, timeout},
};
use uuid::Uuid;

use crate::{
    load::Load,
    options::Options,
    shopper::{Books, Shopper},
    summary::{Changes, Promise, RollingRestart, Summary},
    terminal::Terminal,
};

pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// How many people shop in the background.
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
const BUSY: Duration = Duration::from_secs(10);

/// All that the acts share.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) terminal: Terminal,
    pub(crate) shop: Shop,
    pub(crate) times: Times,
    pub(crate) gateway: String,
    pub(crate) http: reqwest::Client,
    pub(crate) books: Books,
    pub(crate) products: Vec<Uuid>,
    pub(crate) load: Option<Load>,
    pub(crate) changes: Option<Changes>,
    pub(crate) restart: Option<RollingRestart>,
    registry: String,
    length: Duration,
    began: Instant,
    stock_at_start: BTreeMap<Uuid, u32>,
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
        let shop = Shop::open_at(&options.registry, listener, times).await?;
        let products =
            CATALOGUE.map(|(name, price_cents)| shop.products.add(name, price_cents, STOCK));
        // What stands there already is somebody's choice.
        shop.keys.cas(GIFT_WRAP, "off", 0).await?;
        for product in &products {
            let price = product.price_cents.to_string();
            shop.keys.cas(&price_key(&product.sku), price, 0).await?;
        }
        Ok(Self {
            stock_at_start: products.iter().map(|product| (product.id, product.stock)).collect(),
            products: products.map(|product| product.id).to_vec(),
            terminal,
            shop,
            times,
            gateway,
            http: reqwest::Client::new(),
            books: Books::default(),
            load: None,
            changes: None,
            restart: None,
            registry: options.registry.to_string(),
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
    pub(crate) fn stock_up(&mut self, name: &str, stock: u32) -> Uuid {
        let product = self.shop.products.add(name, 9_900, stock);
        self.stock_at_start.insert(product.id, stock);
        product.id
    }

    pub(crate) fn stock(&self, product: Uuid) -> u32 {
        let all = self.shop.products.all();
        all.iter().find(|found| found.id == product).map_or(0, |found| found.stock)
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

    /// Whether every caller has a closed circuit of the payment service: one is enough, for calls go where the circuit is closed.
    pub(crate) fn payments_are_trusted(&self) -> bool {
        let closed = |instance| {
            let circuits = self.shop.circuits_of(instance).into_iter();
            circuits.map(|circuit| circuit.state() == State::Closed)
        };
        closed("payment-service-1").zip(closed("payment-service-2")).all(|(one, two)| one || two)
    }

    /// Comes to rest, and judges.
    pub(crate) async fn judge(&mut self, interrupted: bool) -> Summary {
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
        // A saga whose customer has gone is carried to its end all the same.
        let at_rest = eventually(Duration::from_secs(20), || {
            let payments = self.shop.payments.totals();
            let kept = payments.captured - payments.refunded;
            self.shop.is_quiet() && kept == self.shop.orders.confirmed().len() as u64
        });
        if !at_rest.await {
            self.promise(false, "every message and every saga comes to its end");
        }
        let promises = std::mem::take(&mut self.promises);
        Summary {
            interrupted,
            seconds: self.began.elapsed().as_secs_f64(),
            registry: self.registry.clone(),
            changes: self.changes.take(),
            rolling_restart: self.restart.take(),
            ..Summary::of(&self.shop, &self.books, &self.stock_at_start, promises)
        }
    }
}

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
