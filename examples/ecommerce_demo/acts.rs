use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset::{broker::Filter, registry::Registry, saga::State, sidecar::Waterfall};
use shop::{Hosting, notification::POISON_EMAIL, payment::Bank, settings::price_key};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    load::{self, GOOD_CARD},
    options::Options,
    shopper::{Answer, Shopper},
    story::{Failed, Story, eventually},
};

/// What takes part in an order.
const ALL_SERVICES: [&str; 7] = [
    "gateway",
    "order-service",
    "user-service",
    "product-service",
    "payment-service",
    "inventory-service",
    "notification-service",
];

/// Less than a single attempt may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How often the visitor orders while the bank is down: no more in [`PATIENCE`] than his quota lets through.
const PACE: Duration = Duration::from_millis(300);

/// After which an act goes on without what it waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a sidecar says that all circuits are open: why is not for who asks.
const KEPT_BACK: &str = "cannot answer at present";

impl Story {
    /// All acts, one after the other.
    pub(crate) async fn tell(&mut self, options: &Options) -> Result<(), Failed> {
        if let Some(seed) = options.chaos {
            return self.everything_breaks(options, seed).await;
        }
        self.the_services_come_up().await?;
        self.calls_go_round(options).await?;
        self.the_bank_goes_down().await?;
        self.what_was_begun_is_undone().await?;
        self.a_client_is_greedy().await?;
        self.an_instance_is_killed().await?;
        self.a_message_is_poison().await?;
        self.prices_and_flags_change().await?;
        self.a_service_is_restarted().await?;
        self.a_canary_is_taken_back().await?;
        self.blue_goes_green_and_back().await
    }

    pub(crate) async fn the_services_come_up(&mut self) -> Result<(), Failed> {
        self.terminal.act(1, "the services come up and find each other");
        self.terminal
            .try_it(format!("{}/ in a browser, or curl -s {0}/api/products", self.gateway));
        // Its port is a free one, so nobody would find it before the act that is about it.
        self.terminal.try_it(format!(
            "curl -sX PUT -d 1 {}   # prices are here",
            self.shop.setting_url(&price_key("desk-lamp"))
        ));
        for service in self.shop.registry.services().await? {
            let snapshot = self.shop.registry.discover(&service).await?;
            let at: Vec<_> = snapshot.healthy().map(|instance| instance.authority()).collect();
            self.terminal.row(format!("{service:<22} {}", at.join("  ")));
        }
        for line in self.engines.told() {
            self.terminal.row(line);
        }
        let processes = self.shop.processes();
        if !processes.is_empty() {
            self.terminal.say(format!(
                "{} processes beside this one, which may be killed one by one:",
                processes.len()
            ));
            for some in processes.chunks(3) {
                let some = some.iter().map(|(id, process)| format!("{id:<24}{process:>7}"));
                self.terminal.row(some.collect::<Vec<_>>().join("  "));
            }
        }
        self.terminal.say(format!(
            "shortened for the story: a silent instance is out after {:?} (30 s), a circuit stays open for {:?} (30 s)",
            self.times.ttl, self.times.open_for,
        ));
        let kept = if !self.ground.scratch && self.shop.keeps() {
            "and survive kill -9"
        } else {
            "and end with the process; --data-dir DIR keeps them"
        };
        let (broker, orders) = (&self.ground.broker, self.shop.folder());
        let orders = match (&self.ground.database, orders) {
            (Some(_), _) => "PostgreSQL".to_owned(),
            (None, Some(folder)) => folder.display().to_string(),
            (None, None) => "memory".to_owned(),
        };
        self.terminal.say(format!("messages are in {broker}, orders in {orders}, {kept}"));
        self.what_was_left_is_ended().await
    }

    /// What a process that ended in the middle of it had left in the folder.
    async fn what_was_left_is_ended(&mut self) -> Result<(), Failed> {
        if !self.shop.keeps() {
            return Ok(());
        }
        let under_way = |sagas: Vec<(State, u64)>| -> u64 {
            let is =
                |(state, _): &&(State, u64)| matches!(state, State::Running | State::TurningBack);
            sagas.iter().filter(is).map(|(_, count)| count).sum()
        };
        let left = under_way(self.shop.orders.sagas().await?);
        let before = self.shop.orders.confirmed().await?.len();
        self.terminal
            .say(format!("{before} orders stand there already; sagas were under way: {left}"));
        if before == 0 && left == 0 {
            return Ok(());
        }
        let rests = self.comes_to_rest().await;
        let done = self.shop.orders.confirmed().await?.len() - before;
        self.promise(
            rests,
            format!("what an earlier process had begun is ended: {done} orders done since, the rest undone"),
        );
        Ok(())
    }

    /// One of them, for acts of its own.
    pub(crate) async fn customers_arrive(&mut self, options: &Options) -> Result<Shopper, Failed> {
        let first = self.customers().await?;
        let visitor = first[0].clone();
        self.terminal.say(format!(
            "{} customers, {} requests a second; a latency counts from the time at which its request was to be sent",
            load::customers_for(options.load),
            options.load,
        ));
        let customers = Arc::new(Mutex::new(first));
        self.more_customers(customers.clone(), options.load);
        let (products, rate) = (self.products.clone(), self.rate.clone());
        self.load = Some(load::spawn(customers, products, rate, options.seed));
        Ok(visitor)
    }

    async fn calls_go_round(&mut self, options: &Options) -> Result<(), Failed> {
        self.terminal.act(2, "customers arrive; calls are spread over the instances");
        self.terminal.try_it(format!("curl -s {}/api/products | head -c 300", self.gateway));
        let visitor = self.customers_arrive(options).await?;
        self.look_on(self.share(20)).await;

        let counts = self.shop.answered_by("product-service").await;
        let most = counts.iter().map(|(_, answered)| answered.requests).max().unwrap_or(1).max(1);
        for (instance, answered) in counts {
            let count = answered.requests;
            let bar = "█".repeat(usize::try_from(count * 40 / most)?);
            self.terminal.row(format!("{instance:<22} {count:>6}  {bar}"));
        }

        let lines = [(self.products[0], 1), (self.products[1], 2)];
        let order = visitor.order(&lines, GOOD_CARD).await?;
        self.terminal.say("one order in every detail, as its trace shows it:");
        // The last spans are recorded when their bodies have ended, just after the answer.
        let waited = Instant::now();
        let (trace, missing) = loop {
            let trace = self.shop.trace(order.trace).await;
            let absent = |service: &&str| trace.iter().all(|record| *record.service != **service);
            let missing: Vec<_> = ALL_SERVICES.into_iter().filter(absent).collect();
            if missing.is_empty() || waited.elapsed() > PATIENCE {
                break (trace, missing);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for line in Waterfall::new(&trace).to_string().lines() {
            self.terminal.row(line);
        }
        self.promise(
            order.status == 201 && missing.is_empty(),
            format!("an order goes through all services, in one trace; missing: {missing:?}"),
        );
        self.look_on(self.share(6)).await;
        Ok(())
    }

    async fn the_bank_goes_down(&mut self) -> Result<(), Failed> {
        self.terminal.act(3, "the bank goes down: retries, then the circuits open");
        let order = r#"-d '{"items":[…],"card":"4242…"}'"#;
        self.terminal.try_it(format!(
            "curl -si -X POST {}/api/orders -H 'authorization: Bearer …' {order}",
            self.gateway,
        ));
        let visitor = self.newcomer("visitor@example.com").await?;
        let (retries, browsed) =
            (self.shop.retries().await, self.books.answers("catalogue", |status| status == 200));
        self.shop.set_bank(Bank::Down).await?;
        let down = Instant::now();
        // An order that a circuit refuses says so. One that was under way when the circuit opened waits for the next probe, which takes back what it may have paid; so others
        // come meanwhile.
        let sidecars = matches!(self.ground.hosting, Hosting::Sidecars(_));
        let by_circuit = |answer: &Answer| {
            let why = answer.body["detail"].to_string();
            answer.status == 424 && (why.contains("circuit") || sidecars && why.contains(KEPT_BACK))
        };
        let (mut orders, mut pace, mut tried) = (JoinSet::new(), interval(PACE), 0);
        let (refused, took) = loop {
            tokio::select! {
                _ = pace.tick() => {
                    tried += 1;
                    let (visitor, wanted) = (visitor.clone(), [(self.products[2], 1)]);
                    orders.spawn(async move {
                        let asked = Instant::now();
                        (visitor.order(&wanted, GOOD_CARD).await, asked.elapsed())
                    });
                }
                Some(answered) = orders.join_next() => {
                    let (answer, took) = answered.map_err(|panic| panic.to_string())?;
                    let answer = answer?;
                    if by_circuit(&answer) && took < AT_ONCE || down.elapsed() > PATIENCE {
                        break (answer, took);
                    }
                }
            }
        };
        self.terminal.say(format!(
            "{:.1} s after the bank went down, with {} retries in between, orders are refused at once;",
            down.elapsed().as_secs_f64(),
            self.shop.retries().await.saturating_sub(retries),
        ));
        self.terminal.say(format!(
            "the visitor's order number {tried} is answered {} within {:.0} ms: {}",
            refused.status,
            took.as_secs_f64() * 1_000.0,
            refused.body["detail"].as_str().unwrap_or_default(),
        ));
        self.look_on(self.share(13)).await;
        let looked = visitor.browse().await?;
        let browsed = self.books.answers("catalogue", |status| status == 200) - browsed;
        self.promise(
            by_circuit(&refused) && took < AT_ONCE && looked.status == 200,
            format!(
                "orders are refused at once, and the catalogue still answers: {browsed} times since"
            ),
        );
        while orders.join_next().await.is_some() {}
        Ok(())
    }

    async fn what_was_begun_is_undone(&mut self) -> Result<(), Failed> {
        self.terminal.act(4, "the saga takes back what it had done");
        self.terminal.try_it(format!(
            "curl -s {}/api/orders -H 'authorization: Bearer …'   # what failed is not there",
            self.gateway,
        ));
        let visitor = self.newcomer("collector@example.com").await?;
        let chair = self.stock_up("oak chair", 12).await?;
        let table = self.stock_up("oak table", 3).await?;
        let before = (self.stock(chair).await?, self.stock(table).await?);
        let order = visitor.order(&[(chair, 4), (table, 1)], GOOD_CARD).await?;
        let after = (self.stock(chair).await?, self.stock(table).await?);
        self.terminal.say(format!(
            "4 chairs and a table: {} at step {}: {}",
            order.status,
            order.body["step"].as_str().unwrap_or("?"),
            order.body["detail"].as_str().unwrap_or_default(),
        ));
        let trace = self.shop.trace(order.trace).await;
        for line in Waterfall::new(&trace).to_string().lines().take(22) {
            self.terminal.row(line);
        }
        self.promise(
            order.status == 424 && before == after,
            format!("stock of chairs and tables is {before:?} before and {after:?} after"),
        );

        self.shop.set_bank(Bank::Up).await?;
        let up = Instant::now();
        while !self.shop.trusted("payment-service").await && up.elapsed() < PATIENCE {
            visitor.order(&[(self.products[3], 1)], GOOD_CARD).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.terminal.say(format!(
            "the bank is back; each caller trusted it again {:.1} s later",
            up.elapsed().as_secs_f64(),
        ));
        let order = visitor.order(&[(chair, 4), (table, 1)], GOOD_CARD).await?;
        self.promise(
            self.shop.trusted("payment-service").await && order.status == 201,
            format!("the same order now goes through: {}", order.status),
        );
        self.look_on(self.share(10)).await;
        Ok(())
    }

    async fn a_client_is_greedy(&mut self) -> Result<(), Failed> {
        self.terminal.act(5, "a greedy client gets 429, the others do not notice");
        self.terminal.try_it(format!(
            "for i in $(seq 60); do curl -so /dev/null -w '%{{http_code}} ' {}/api/cart -H 'authorization: Bearer …'; done",
            self.gateway,
        ));
        let (greedy, modest) = (
            self.newcomer("greedy@example.com").await?,
            self.newcomer("modest@example.com").await?,
        );
        let mut visits = JoinSet::new();
        for _ in 0..120 {
            let greedy = greedy.clone();
            visits.spawn(async move { greedy.see_cart().await });
        }
        let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
        let mut retry_after = None;
        while let Some(visit) = visits.join_next().await {
            let answer = visit??;
            *statuses.entry(answer.status).or_default() += 1;
            retry_after = retry_after.or(answer.retry_after);
        }
        let other = modest.see_cart().await?;
        let elsewhere = greedy.browse().await?;
        let (passed, limited) =
            (statuses.get(&200).copied().unwrap_or(0), statuses.get(&429).copied().unwrap_or(0));
        self.terminal.say(format!(
            "120 looks at one cart in a burst: {passed} answered, {limited} × 429, Retry-After: {} s",
            retry_after.as_deref().unwrap_or("?"),
        ));
        self.terminal.row("the quota of that route is 50 a minute for each user");
        self.promise(
            passed >= 50 && limited > 0 && other.status == 200 && elsewhere.status == 200,
            "another client on the same route and the same client on another route get 200",
        );
        self.look_on(self.share(9)).await;
        Ok(())
    }

    async fn an_instance_is_killed(&mut self) -> Result<(), Failed> {
        let victim = "product-service-2";
        self.terminal.act(6, format!("{victim} is killed; no order fails"));
        self.terminal.try_it(format!(
            "while sleep 0.1; do curl -so /dev/null -w '%{{http_code}} ' {}/api/products; done",
            self.gateway,
        ));
        // 429 is the customers' own doing; whatever else is no order is a failed one.
        let no_order = |status| status != 201 && status != 429;
        let chapter = self.books.next_chapter();
        let failed = |story: &Self| story.books.answers_since(chapter, "order", no_order);
        let confirmed = |status| status == 201;
        let ordered = |story: &Self| story.books.answers_since(chapter, "order", confirmed);
        if !self.shop.kill(victim).await? {
            return Err(format!("{victim} is not running").into());
        }
        let killed = Instant::now();
        let mut watch = self.shop.registry.watch("product-service");
        let gone = tokio::time::timeout(Duration::from_secs(10), async {
            while watch.snapshot().healthy().any(|instance| &*instance.id == victim) {
                watch.changed().await;
            }
        });
        let gone = gone.await.is_ok();
        self.terminal.say(format!(
            "nobody was told; out of rotation {:.2} s later",
            killed.elapsed().as_secs_f64(),
        ));
        self.look_on(self.share(18)).await;
        eventually(PATIENCE, || ordered(self) > 0).await;
        let (failed, ordered) = (failed(self), ordered(self));
        self.promise(
            gone && ordered > 0 && failed == 0,
            format!("since then {ordered} orders were confirmed and {failed} failed"),
        );
        Ok(())
    }

    async fn a_message_is_poison(&mut self) -> Result<(), Failed> {
        self.terminal.act(7, "a poison message dies, is looked at, and lives again");
        let bobby = self.newcomer(POISON_EMAIL).await?;
        // An earlier process may have left some in the folder.
        let before = self.shop.dead_letters().await?;
        let order = bobby.order(&[(self.products[4], 1)], GOOD_CARD).await?;
        let mailer = self.shop.addr_of("notification-service-1");
        if let (Some(mailer), Some(id)) = (mailer, order.body["id"].as_str()) {
            self.terminal.try_it(format!("curl -s http://{mailer}/notifications/{id}"));
        }
        let letters = self.shop.broker.dead_letters();
        let mut died = 0;
        let waited = Instant::now();
        while died == 0 && waited.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            died = self.shop.dead_letters().await?.saturating_sub(before);
        }
        for letter in letters.list(&Filter::all(), None, 3).await? {
            self.terminal.say(format!(
                "dead letter: {} for group {} after {} attempts: {}",
                letter.message.subject(),
                letter.group,
                letter.attempts,
                letter.last_failure.as_ref().map_or("", |failure| &*failure.error),
            ));
        }
        self.terminal.say("someone repairs the mail template and redrives it");
        self.shop.repair_mails().await?;
        let redriven = letters.redrive_all(&Filter::all()).await?.redriven;
        let id = order.body["id"].as_str().unwrap_or_default().parse()?;
        let mut mails = 0;
        let waited = Instant::now();
        while mails == 0 && waited.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            mails = self.shop.notifications.mails_about(id).await?;
        }
        let left = self.shop.dead_letters().await?;
        self.promise(
            (died, redriven, left) == (1, 1 + before, 0) && mails > 0,
            format!("{died} died, {redriven} redriven, {left} left, and the mail went out",),
        );
        self.look_on(self.share(8)).await;
        Ok(())
    }
}
