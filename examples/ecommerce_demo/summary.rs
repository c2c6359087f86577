use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use shop::{
    Answered, NotKept, Shop, chaos::Moment, history::Replay, load::Report, order::Order,
    payment::Totals,
};
use uuid::Uuid;

use crate::{
    releases::{BlueGreen, Canary},
    shopper::Books,
    terminal::Terminal,
};

/// What must hold, and whether it did.
#[derive(Debug, Serialize)]
pub(crate) struct Promise {
    pub(crate) text: String,
    pub(crate) held: bool,
}

/// The figures of a story, and the verdict.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) held: bool,
    pub(crate) interrupted: bool,
    pub(crate) seconds: f64,
    /// Where the services found each other.
    pub(crate) registry: String,
    /// What carried their messages.
    pub(crate) broker: String,
    /// Who knew what was to be done about an order.
    pub(crate) flow: String,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) requests: Requests,
    pub(crate) orders_confirmed: u64,
    pub(crate) payments: Totals,
    pub(crate) stock: Stock,
    /// What the histories of the orders add up to. `None` if they could not be read.
    pub(crate) replay: Option<Replay>,
    pub(crate) retries: u64,
    /// `None` if they could not be read.
    pub(crate) dead_letters: Option<usize>,
    /// `None` if the story did not get so far.
    pub(crate) changes: Option<Changes>,
    pub(crate) rolling_restart: Option<RollingRestart>,
    pub(crate) canary: Option<Canary>,
    pub(crate) blue_green: Option<BlueGreen>,
    /// What became of the customers in the background, and how long they waited.
    pub(crate) load: Option<Report>,
    /// What was broken on purpose, and when.
    pub(crate) chaos: Vec<Moment>,
    pub(crate) services: Vec<Service>,
    pub(crate) promises: Vec<Promise>,
}

/// What became of settings that were changed while the shop was open.
#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    /// How long after the write all instances had it.
    pub(crate) price_seen_ms: f64,
    pub(crate) flag_seen_ms: f64,
    /// What the instances say of a price that is none.
    pub(crate) bad_price_refused: Option<String>,
    /// The price that held after it.
    pub(crate) price_cents_after_bad: u64,
}

/// What became of customers while a service was restarted.
#[derive(Debug, Serialize)]
pub(crate) struct RollingRestart {
    pub(crate) instances: u32,
    pub(crate) seconds: f64,
    /// Requests answered meanwhile, and those of them that failed.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) abandoned: u64,
    pub(crate) lost: Vec<String>,
    pub(crate) by_status: BTreeMap<u16, u64>,
}

/// What an instance answered, by its own metrics.
#[derive(Debug, Serialize)]
pub(crate) struct Service {
    instance: String,
    requests: u64,
    average_ms: f64,
    error_rate: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stock {
    pub(crate) at_start: u64,
    pub(crate) left: u64,
    pub(crate) sold: u64,
}

impl Summary {
    /// Looks into the stores of all services, after everything has come to rest.
    pub(crate) async fn of(
        shop: &Shop,
        books: &Books,
        mut promises: Vec<Promise>,
    ) -> Result<Self, NotKept> {
        let orders = shop.orders.confirmed().await?;
        let payments = shop.payments.totals().await?;
        let (sold, stock) = sold_and_left(shop, &orders).await?;
        let requests = Requests {
            sent: books.sent(),
            answered: books.answers("", |_| true),
            abandoned: books.abandoned(),
            lost: books.lost(),
            by_status: books.by_status(),
        };
        let mut promise = |held, text: String| promises.push(Promise { text, held });

        let confirmed = orders.len() as u64;
        let kept = payments.captured - payments.refunded;
        promise(
            confirmed == kept,
            format!(
                "orders confirmed = payments captured − refunded: {confirmed} = {} − {}",
                payments.captured, payments.refunded
            ),
        );
        promise(
            stock.left + stock.sold == stock.at_start && sold,
            format!(
                "stock left + sold = stock at start, of every product: {} + {} = {}",
                stock.left, stock.sold, stock.at_start
            ),
        );
        let known: Vec<_> = orders.iter().map(|order| order.id).collect();
        let told = books.confirmed();
        promise(
            told.iter().all(|id| known.contains(id)),
            format!("every order that a customer was told of exists: {}", told.len()),
        );
        let mails = shop.notifications.mails().await?;
        let mailed = known.iter().filter(|id| mails.contains_key(id)).count();
        promise(
            mailed == known.len(),
            format!(
                "every confirmed order was notified at least once: {mailed} of {}",
                known.len()
            ),
        );
        let revenue: u64 = orders.iter().map(|order| order.total_cents).sum();
        let billed = shop.payments.kept().await?;
        let bill = |order: &Order| billed.get(&order.id) == Some(&(1, order.total_cents));
        promise(
            orders.iter().all(bill) && billed.len() == orders.len(),
            format!(
                "every confirmed order was billed exactly once: {revenue} cents = {}",
                payments.balance_cents
            ),
        );
        promise(
            requests.lost.is_empty() && requests.sent == requests.answered + requests.abandoned,
            format!(
                "no request was lost without an answer: {} sent, {} answered, {} given up by us",
                requests.sent, requests.answered, requests.abandoned
            ),
        );

        Ok(Self {
            held: promises.iter().all(|promise| promise.held),
            interrupted: false,
            seconds: 0.0,
            registry: String::new(),
            broker: String::new(),
            flow: String::new(),
            replay: None,
            canary: None,
            blue_green: None,
            data_dir: None,
            changes: None,
            rolling_restart: None,
            load: None,
            chaos: Vec::new(),
            orders_confirmed: confirmed,
            dead_letters: None,
            services: services(shop).await,
            retries: shop.retries().await,
            requests,
            payments,
            stock,
            promises,
        })
    }

    pub(crate) fn print(&self, terminal: &Terminal) {
        for promise in &self.promises {
            terminal.verdict(promise.held, &promise.text);
        }
        let by_status: Vec<_> = self
            .requests
            .by_status
            .iter()
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        terminal.row(format!("answers by status: {}", by_status.join(", ")));
        terminal.row(format!("retries between services: {}", self.retries));
        terminal.row(format!("{:<24} requests   average   errors", "instance"));
        for Service { instance, requests, average_ms, error_rate } in &self.services {
            let errors = error_rate * 100.0;
            terminal
                .row(format!("{instance:<24} {requests:>8} {average_ms:>6.2} ms {errors:>6.1} %"));
        }
        if let Some(load) = &self.load {
            terminal.row(format!(
                "{:<24} requests      p50      p90      p99    p99.9      max   in ms",
                "customers"
            ));
            for (kind, of) in &load.latency {
                terminal.row(format!(
                    "{kind:<24} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                    of.count, of.p50_ms, of.p90_ms, of.p99_ms, of.p999_ms, of.max_ms
                ));
            }
            terminal.row(format!(
                "{} were due, for {} there was no place among those under way",
                load.due, load.unsent
            ));
        }
        for lost in self.requests.lost.iter().take(5) {
            terminal.row(format!("lost: {lost}"));
        }
    }
}

async fn services(shop: &Shop) -> Vec<Service> {
    let answered = shop.answered_by("").await.into_iter();
    let answered = answered.filter(|(_, answered)| answered.requests > 0);
    let service = |(instance, answered): (String, Answered)| Service {
        instance,
        requests: answered.requests,
        average_ms: answered.average * 1_000.0,
        error_rate: answered.errors as f64 / answered.requests as f64,
    };
    answered.map(service).collect()
}

/// Whether what was sold and what is left add up for every single product, and the sums; the inventory service, which
/// knows only the events, must agree.
async fn sold_and_left(shop: &Shop, orders: &[Order]) -> Result<(bool, Stock), NotKept> {
    let at_start = shop.products.supplied().await?;
    let mut sold: BTreeMap<Uuid, u64> = BTreeMap::new();
    for line in orders.iter().flat_map(|order| &order.items) {
        *sold.entry(line.product_id).or_default() += u64::from(line.quantity);
    }
    let left = shop.products.all().await?.into_iter();
    let left: BTreeMap<Uuid, u64> =
        left.map(|product| (product.id, product.stock.into())).collect();
    let balanced = at_start.iter().all(|(id, start)| {
        let sum = sold.get(id).unwrap_or(&0) + left.get(id).unwrap_or(&0);
        sum == u64::from(*start)
    });
    let stock = Stock {
        at_start: at_start.values().map(|stock| u64::from(*stock)).sum(),
        left: left.values().sum(),
        sold: sold.values().sum(),
    };
    Ok((balanced && shop.inventory.sold().await? == sold, stock))
}
