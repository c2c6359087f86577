//! The acts in which something is changed while the shop is open: its settings, and its programs.

use std::{future::Future, time::Duration};

use serde_json::Value;
use shop::settings::{GIFT_WRAP, price_key};
use tokio::time::{Instant, interval, sleep, timeout};
use uuid::Uuid;

use crate::{
    load::GOOD_CARD,
    shopper::Shopper,
    story::{Failed, Story},
    summary::{Changes, RollingRestart},
};

/// Within which a change is known everywhere.
const SOON: Duration = Duration::from_secs(1);

/// What is restarted.
const RESTARTED: [&str; 3] = ["product-service-1", "product-service-2", "product-service-3"];

impl Story {
    pub(crate) async fn prices_and_flags_change(&mut self) -> Result<(), Failed> {
        self.terminal.act(8, "prices and flags change while the shop is open");
        let (clock, key) = (self.products[4], price_key("alarm-clock"));
        self.terminal.try_it(format!("curl -X PUT -d 1990 {}", self.shop.setting_url(&key)));
        self.terminal.try_it(format!("curl -X PUT -d on {}", self.shop.setting_url(GIFT_WRAP)));
        let visitor = self.newcomer("thrifty@example.com").await?;
        let changes = self.a_price_changes(&visitor, clock, &key).await?;
        let flag_seen = self.a_flag_changes(&visitor, clock).await?;
        self.changes = Some(Changes { flag_seen_ms: millis(flag_seen), ..changes });
        self.look_on(self.share(8)).await;
        Ok(())
    }

    /// To another price, to none, and back.
    async fn a_price_changes(
        &mut self,
        visitor: &Shopper,
        clock: Uuid,
        key: &str,
    ) -> Result<Changes, Failed> {
        let before = price_in(&visitor.look_at(clock).await?.body);
        let lower = before.saturating_sub(300).max(1);

        self.write(key, &lower.to_string()).await?;
        let price_seen = self.once_all(|story| story.all_ask(clock, lower)).await;
        let listed = listed(&visitor.browse().await?.body, clock);
        let order = visitor.order(&[(clock, 2)], GOOD_CARD).await?;
        self.terminal.say(format!(
            "{before} cents, then {lower}: all instances ask that after {}, an order of two costs {}",
            shown(price_seen),
            order.body["total_cents"],
        ));
        self.promise(
            price_seen.is_some() && listed == lower && order.body["total_cents"] == 2 * lower,
            format!("a price that is changed in the store is in the next listing and order: {listed} cents"),
        );

        self.write(key, "cheap").await?;
        let refused = self.once_all(|story| story.all_refuse(key)).await;
        let why = self.refusal(key).await;
        let held = price_in(&visitor.look_at(clock).await?.body);
        self.terminal
            .say(format!("\"cheap\" is refused: {}", why.as_deref().unwrap_or("not at all")));
        self.promise(
            refused.is_some() && held == lower,
            format!("a price that is none changes nothing: {held} cents"),
        );
        self.write(key, &before.to_string()).await?;

        Ok(Changes {
            price_seen_ms: millis(price_seen.unwrap_or(Duration::MAX)),
            flag_seen_ms: 0.0,
            bad_price_refused: why,
            price_cents_after_bad: held,
        })
    }

    /// Off and on, and back to what it was; how long it took.
    async fn a_flag_changes(&mut self, visitor: &Shopper, clock: Uuid) -> Result<Duration, Failed> {
        // Whoever looks on may have turned it on already.
        let flag = self.shop.keys.get(GIFT_WRAP).await?;
        self.write(GIFT_WRAP, "off").await?;
        let (unwrapped, _) = wrap_until(visitor, clock, 422).await?;
        self.write(GIFT_WRAP, "on").await?;
        let (wrapped, flag_seen) = wrap_until(visitor, clock, 201).await?;
        self.terminal.say(format!(
            "gift wrap: {} while the flag is off, {} after it was turned on",
            unwrapped, wrapped,
        ));
        self.promise(
            (unwrapped, wrapped) == (422, 201) && flag_seen <= SOON,
            "a flag that is turned off and on is seen by the next orders",
        );
        if let Some(before) = flag {
            self.shop.keys.put(GIFT_WRAP, before.value).await?;
        }
        Ok(flag_seen)
    }

    pub(crate) async fn a_service_is_restarted(&mut self) -> Result<(), Failed> {
        self.terminal.act(9, "a service of three instances is restarted, one after the other");
        self.terminal.try_it(format!(
            "while sleep 0.1; do curl -so /dev/null -w '%{{http_code}} ' {}/api/products; done",
            self.gateway,
        ));
        // An order that had met the bank while it was down may still be on its way.
        let chapter = self.books.next_chapter();
        let answered = |story: &Self| story.books.answers_since(chapter, "", |_| true);
        let began = Instant::now();
        let mut restarted = 0;
        for id in RESTARTED {
            let at = |story: &Self| story.shop.addr_of(id);
            // One that an earlier act killed begins here again.
            let from = at(self);
            self.shop.restart(id).await?;
            self.console.look(&self.shop);
            let addr = |addr: Option<std::net::SocketAddr>| {
                addr.map_or_else(|| "dead".to_owned(), |addr| addr.to_string())
            };
            self.terminal.row(format!("{id:<22} {} → {}", addr(from), addr(at(self))));
            restarted += 1;
            self.look_on(self.share(2)).await;
        }
        // Until customers have been at the new ones.
        let enough = answered(self) + 5;
        let _ = timeout(SOON * 5, async {
            while answered(self) < enough {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let restart = RollingRestart {
            instances: restarted,
            seconds: began.elapsed().as_secs_f64(),
            answered: answered(self),
            failed: self.books.failed_since(chapter),
        };
        self.promise(
            restart.failed == 0 && restart.answered > 0,
            format!(
                "{} requests were answered meanwhile, and {} failed",
                restart.answered, restart.failed
            ),
        );
        self.restart = Some(restart);
        Ok(())
    }

    /// As anybody would, by HTTP.
    async fn write(&self, key: &str, value: &str) -> Result<(), Failed> {
        let url = self.shop.setting_url(key);
        self.http.put(url).body(value.to_owned()).send().await?.error_for_status()?;
        Ok(())
    }

    /// How long it took until `holds`, if it did soon enough.
    async fn once_all<'a, F: Future<Output = bool>>(
        &'a self,
        holds: impl Fn(&'a Self) -> F,
    ) -> Option<Duration> {
        let began = Instant::now();
        let mut ticks = interval(Duration::from_millis(2));
        let holds = async {
            while !holds(self).await {
                ticks.tick().await;
            }
        };
        timeout(SOON, holds).await.ok().map(|()| began.elapsed())
    }

    /// Whether every instance of the product service asks this price; each is asked itself, without the gateway.
    async fn all_ask(&self, product: Uuid, cents: u64) -> bool {
        let answers = self.ask_products(&format!("/products/{product}")).await;
        !answers.is_empty() && answers.iter().all(|answer| price_in(answer) == cents)
    }

    async fn all_refuse(&self, key: &str) -> bool {
        let answers = self.ask_products("/settings").await;
        !answers.is_empty() && answers.iter().all(|answer| answer["refused"][key].is_string())
    }

    async fn refusal(&self, key: &str) -> Option<String> {
        let answers = self.ask_products("/settings").await;
        answers.first()?["refused"][key].as_str().map(str::to_owned)
    }

    async fn ask_products(&self, path: &str) -> Vec<Value> {
        let mut answers = Vec::new();
        let all = self.shop.instances().into_iter();
        for (_, addr) in all.filter(|(id, _)| id.starts_with("product-service-")) {
            let url = format!("http://{addr}{path}");
            let answer = async { self.http.get(url).send().await?.json().await };
            answers.push(answer.await.unwrap_or(Value::Null));
        }
        answers
    }
}

/// Orders something wrapped until that is answered so, or soon is over: the last answer, and how long it took.
async fn wrap_until(
    visitor: &Shopper,
    product: Uuid,
    status: u16,
) -> Result<(u16, Duration), Failed> {
    let began = Instant::now();
    loop {
        let answer = visitor.order_as(&[(product, 1)], GOOD_CARD, true).await?.status;
        if answer == status || began.elapsed() > SOON {
            return Ok((answer, began.elapsed()));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn price_in(product: &Value) -> u64 {
    product["price_cents"].as_u64().unwrap_or_default()
}

fn listed(products: &Value, id: Uuid) -> u64 {
    let id = id.to_string();
    let mut products = products.as_array().into_iter().flatten();
    products.find(|product| product["id"] == id.as_str()).map_or(0, price_in)
}

fn shown(seen: Option<Duration>) -> String {
    seen.map_or_else(|| "more than a second".to_owned(), |seen| format!("{:.0} ms", millis(seen)))
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}
