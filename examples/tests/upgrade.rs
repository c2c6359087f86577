//! A service of two nodes goes through three releases, one node at a time, while orders come in: in files, and on PostgreSQL and NATS. Whatever is kept changes its
//! form on the way (the events of an account, a saga's steps, a message), and nothing is lost, refused or done twice, though every other node is killed.
//!
//! A form changes in two releases. The first reads the new one and still writes the old one, for others may know no other; the second writes the new one.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset::{
    broker::{Broker, Delivery, Filter, Limits, NatsEngine, NatsOptions, Subscription},
    call::BoxError,
    outbox::ToBroker,
    saga::{
        Aggregate, Aggregates, Definition, EventLog, Options, Orchestrator, OutboxRelay,
        PostgresOptions, PostgresStore, Recovery, RelayOptions, Saga, SagaId, SqliteStore, State,
        StepContext, StepError, Store,
    },
};
use gusset_engines::{Folder, Nats, Postgres};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower::service_fn;

/// Longer than anything takes on a machine that is merely busy.
const LIMIT: Duration = Duration::from_secs(120);

const PAID: &str = "order.paid";

/// What a release makes of what is kept.
trait Release: Aggregate {
    /// Versions of the saga that it knows, and which of them it begins.
    const SAGAS: (u32, u32);

    fn paid(order: &str, cents: u64) -> Self::Event;
    fn knows(&self, order: &str) -> bool;
    /// The message of an order that is paid.
    fn told(order: &str, cents: u64) -> Value;
    /// The order and its cents, of a message in a form that it reads.
    fn understood(message: &Value) -> Option<(String, u64)>;
}

/// The first release: amounts are cents.
#[derive(Default, Serialize, Deserialize)]
struct First {
    paid: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InCents {
    order: String,
    cents: u64,
}

impl Aggregate for First {
    const KIND: &'static str = "account";
    const FORMAT: u32 = 1;
    type Event = InCents;

    fn apply(&mut self, event: &InCents) {
        self.paid.insert(event.order.clone(), event.cents);
    }
}

impl Release for First {
    const SAGAS: (u32, u32) = (1, 1);

    fn paid(order: &str, cents: u64) -> InCents {
        InCents { order: order.to_owned(), cents }
    }

    fn knows(&self, order: &str) -> bool {
        self.paid.contains_key(order)
    }

    fn told(order: &str, cents: u64) -> Value {
        json!({ "order": order, "cents": cents })
    }

    fn understood(message: &Value) -> Option<(String, u64)> {
        let InCents { order, cents } = InCents::deserialize(message).ok()?;
        Some((order, cents))
    }
}

/// The second release, which writes form 1, and the third, which writes form 2: amounts have a currency. Both read both.
#[derive(Default, Serialize, Deserialize)]
struct Later<const WRITTEN: u32> {
    paid: BTreeMap<String, Amount>,
}

type Second = Later<1>;
type Third = Later<2>;

#[derive(Clone, Serialize, Deserialize)]
struct Amount {
    cents: u64,
    currency: String,
}

#[derive(Serialize, Deserialize)]
struct WithCurrency {
    order: String,
    amount: Amount,
}

impl<const WRITTEN: u32> Aggregate for Later<WRITTEN> {
    const KIND: &'static str = "account";
    const FORMAT: u32 = 2;
    const WRITTEN: u32 = WRITTEN;
    type Event = WithCurrency;

    fn apply(&mut self, event: &WithCurrency) {
        self.paid.insert(event.order.clone(), event.amount.clone());
    }

    fn upcast(_: u32, event: Value) -> Result<Value, BoxError> {
        let InCents { order, cents } = serde_json::from_value(event)?;
        Ok(json!({ "order": order, "amount": { "cents": cents, "currency": "EUR" } }))
    }

    fn downcast(event: Value) -> Result<Value, BoxError> {
        let WithCurrency { order, amount } = serde_json::from_value(event)?;
        Ok(json!({ "order": order, "cents": amount.cents }))
    }
}

impl<const WRITTEN: u32> Release for Later<WRITTEN> {
    const SAGAS: (u32, u32) = (2, WRITTEN);

    fn paid(order: &str, cents: u64) -> WithCurrency {
        WithCurrency { order: order.to_owned(), amount: Amount { cents, currency: "EUR".into() } }
    }

    fn knows(&self, order: &str) -> bool {
        self.paid.contains_key(order)
    }

    fn told(order: &str, cents: u64) -> Value {
        match WRITTEN {
            1 => First::told(order, cents),
            _ => json!(Self::paid(order, cents)),
        }
    }

    fn understood(message: &Value) -> Option<(String, u64)> {
        let known = WithCurrency::deserialize(message);
        known
            .map(|paid| (paid.order, paid.amount.cents))
            .ok()
            .or_else(|| First::understood(message))
    }
}

/// What a saga is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    account: String,
    cents: u64,
}

/// The saga as a version of it has it: the second one has a step more.
fn define<R: Release + 'static>(version: u32, accounts: &Aggregates<R>) -> Definition<Order, ()> {
    let mut saga = Saga::define("order", version);
    let accounts = accounts.clone();
    saga.step("pay")
        .run(move |_, order: Order| {
            let accounts = accounts.clone();
            async move {
                let pay = |account: &R| {
                    let new = !account.knows(&order.id);
                    let paid = new.then(|| R::paid(&order.id, order.cents));
                    Ok::<_, std::convert::Infallible>(paid.into_iter().collect())
                };
                let paid = accounts.change(&order.account, "", pay).await;
                paid.map(drop).map_err(StepError::unknown)
            }
        })
        .no_undo();
    if version == 2 {
        saga.step("check").run(|_, _: Order| async { Ok(()) }).no_undo();
    }
    saga.step("tell")
        .run(|cx: StepContext, order: Order| async move {
            // So that a node that is killed leaves something to others.
            sleep(Duration::from_millis(30)).await;
            let told = cx.emit(PAID, &R::told(&order.id, order.cents));
            told.map_err(StepError::rejected)
        })
        .no_undo();
    saga.finish(()).unwrap()
}

/// Where all of it is kept, and how a node gets there.
struct Ground {
    connect: Connect,
    /// Orders that there were mails about.
    mailed: Arc<Mutex<BTreeMap<String, u64>>>,
}

type Connect = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Kept> + Send>> + Send + Sync>;

struct Kept {
    store: Arc<dyn Store>,
    log: Arc<dyn EventLog>,
    broker: Broker,
}

/// A process of the service; as a process would be, it is gone when it is dropped.
struct Node {
    sagas: Orchestrator,
    begins: Definition<Order, ()>,
    relay: OutboxRelay,
    recovery: Recovery,
    mails: Subscription,
}

impl Node {
    async fn start<R: Release + 'static>(ground: &Ground) -> Self {
        let Kept { store, log, broker } = (ground.connect)().await;
        let accounts = Aggregates::<R>::with(log).snapshot_every(10);
        let sagas = Orchestrator::with(store, Options::default().lease(Duration::from_secs(1)));
        let (known, begins) = R::SAGAS;
        for version in 1..=known {
            sagas.register(&define(version, &accounts)).unwrap();
        }
        let mailed = ground.mailed.clone();
        let mail = service_fn(move |paid: Delivery<Value>| {
            let understood = R::understood(paid.body());
            let known =
                understood.map(|(order, cents)| mailed.lock().unwrap().insert(order, cents));
            async move { known.map(drop).ok_or("a message of another form") }
        });
        let mails = broker.subscribe(PAID).group("mail").handle(mail).await.unwrap();
        let options = RelayOptions::default().lease(Duration::from_secs(1));
        Self {
            begins: define(begins, &accounts),
            relay: sagas.spawn_relay(ToBroker::new(broker), options),
            recovery: sagas.spawn_recovery(Duration::from_millis(200)),
            mails,
            sagas,
        }
    }

    async fn leave(self) {
        drop(self.recovery);
        self.sagas.shutdown().await;
        self.relay.close().await;
        self.mails.close().await;
    }
}

/// The nodes that take orders, and what became of these.
#[derive(Default)]
struct Fleet {
    nodes: Mutex<Vec<Arc<Node>>>,
    orders: AtomicU64,
    ended: AtomicBool,
}

impl Fleet {
    /// Places orders, at one node after the other, until the fleet has ended.
    async fn orders(self: Arc<Self>) -> BTreeMap<String, u64> {
        let mut placed = BTreeMap::new();
        while !self.ended.load(SeqCst) {
            let number = self.orders.fetch_add(1, SeqCst);
            let (id, account) = (format!("order-{number}"), format!("{}", number % 4));
            let order = Order { id, account, cents: 100 + number };
            let saga: SagaId = order.id.parse().unwrap();
            placed.insert(order.id.clone(), order.cents);
            loop {
                let node = {
                    let nodes = self.nodes.lock().unwrap();
                    nodes[number as usize % nodes.len()].clone()
                };
                // The answer may be lost with its node: the same order once more is no other.
                if node.sagas.start(&node.begins, saga.clone(), order.clone()).await.is_ok() {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
            sleep(Duration::from_millis(5)).await;
        }
        placed
    }

    /// Waits until so many more orders have come.
    async fn more(&self, orders: u64) {
        let before = self.orders.load(SeqCst);
        while self.orders.load(SeqCst) < before + orders {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Puts a node of a release in the place of the oldest one, which runs beside it for a while.
    async fn roll<R: Release + 'static>(&self, ground: &Ground, killed: bool) {
        let next = Arc::new(Node::start::<R>(ground).await);
        self.nodes.lock().unwrap().push(next);
        self.more(30).await;
        let mut old = self.nodes.lock().unwrap().remove(0);
        if killed {
            return;
        }
        let old = loop {
            // Somebody may be about to place an order there.
            old = match Arc::try_unwrap(old) {
                Ok(node) => break node,
                Err(shared) => shared,
            };
            sleep(Duration::from_millis(1)).await;
        };
        old.leave().await;
    }
}

async fn three_releases(ground: Ground) {
    let fleet = Arc::new(Fleet::default());
    for _ in 0..2 {
        let node = Node::start::<First>(&ground).await;
        fleet.nodes.lock().unwrap().push(Arc::new(node));
    }
    let placing = tokio::spawn(fleet.clone().orders());
    let rolling = async {
        fleet.more(30).await;
        for killed in [true, false] {
            fleet.roll::<Second>(&ground, killed).await;
        }
        for killed in [true, false] {
            fleet.roll::<Third>(&ground, killed).await;
        }
        fleet.more(30).await;
        fleet.ended.store(true, SeqCst);
        placing.await.unwrap()
    };
    let placed = timeout(LIMIT, rolling).await.unwrap();

    let Kept { store, log, broker } = (ground.connect)().await;
    let all = placed.len() as u64;
    let at_rest = async {
        loop {
            let counts = store.count().await.unwrap();
            let completed =
                |(state, count): &(State, u64)| *state == State::Completed && *count == all;
            let mailed = ground.mailed.lock().unwrap().len() as u64;
            if mailed == all && counts.iter().any(completed) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let rested = timeout(LIMIT, at_rest).await;
    let mailed = ground.mailed.lock().unwrap().clone();
    assert!(rested.is_ok(), "{all} orders, {:?}, {} mails", store.count().await, mailed.len());
    assert_eq!(mailed, placed);
    assert!(broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap().is_empty());

    let accounts = Aggregates::<Third>::with(log);
    let (mut paid, mut formats) = (BTreeMap::new(), BTreeSet::new());
    for account in 0..4 {
        let history = accounts.history(&account.to_string(), 0, 10_000).await.unwrap();
        for change in history {
            formats.insert(change.format);
            let WithCurrency { order, amount } = change.event;
            assert_eq!(paid.insert(order.clone(), amount.cents), None, "{order} is paid twice");
            assert_eq!(amount.currency, "EUR");
        }
    }
    assert_eq!(paid, placed);
    assert_eq!(formats, BTreeSet::from([1, 2]), "both forms were written");
    let old = Aggregates::<First>::with((ground.connect)().await.log);
    let refused = old.load("0").await.err().unwrap().to_string();
    assert!(refused.ends_with("is of format 2, this release reads up to 1"), "{refused}");
    for node in fleet.nodes.lock().unwrap().drain(..) {
        drop(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_releases_follow_each_other_on_files_and_nothing_is_lost() {
    let (folder, broker) = (Folder::new("upgrade"), Broker::new());
    let path = folder.join("sagas.db");
    let connect: Connect = Box::new(move || {
        let (path, broker) = (path.clone(), broker.clone());
        Box::pin(async move {
            let store = Arc::new(SqliteStore::open(path).await.unwrap());
            Kept { store: store.clone(), log: store, broker }
        })
    });
    three_releases(Ground { connect, mailed: Arc::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_releases_follow_each_other_on_servers_and_nothing_is_lost() {
    let (postgres, nats) = (Postgres::start(), Nats::start());
    let (database, messages) = (postgres.url(), nats.url());
    let connect: Connect = Box::new(move || {
        let (database, messages) = (database.clone(), messages.clone());
        Box::pin(async move {
            let options = PostgresOptions::new(&database).unwrap();
            let store = Arc::new(PostgresStore::connect(options).await.unwrap());
            let options = NatsOptions::new(messages).ack_wait(Duration::from_secs(2));
            let engine = NatsEngine::connect(options.max_bytes(64 << 20), Limits::new()).await;
            Kept { store: store.clone(), log: store, broker: Broker::on(engine.unwrap()) }
        })
    });
    three_releases(Ground { connect, mailed: Arc::default() }).await;
}
