use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gusset::call::{TraceContext, TraceId};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use shop::api::lock;
use uuid::Uuid;

/// Everything that customers sent, and what came of it. Clones share the books.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    /// Requests whose shopper went away before there was an answer, as at an interruption.
    abandoned: AtomicU64,
    /// What was never answered and why, and the chapter in which it was sent.
    lost: Mutex<Vec<(u64, String)>>,
    /// By kind, status, and the chapter in which the request was sent.
    answers: Mutex<BTreeMap<(&'static str, u16, u64), u64>>,
    chapter: AtomicU64,
    /// Ids of the orders that customers were told are theirs.
    confirmed: Mutex<Vec<Uuid>>,
}

impl Books {
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    pub(crate) fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Relaxed)
    }

    /// How many answers of this kind had a status that `select` picks.
    pub(crate) fn answers(&self, kind: &str, select: impl Fn(u16) -> bool) -> u64 {
        self.answers_since(0, kind, select)
    }

    /// The same of requests that were sent in this chapter or a later one: what was under way before is answered late at times.
    pub(crate) fn answers_since(
        &self,
        chapter: u64,
        kind: &str,
        select: impl Fn(u16) -> bool,
    ) -> u64 {
        let answers = lock(&self.shared.answers);
        let is = |(of, status, sent): &(&str, u16, u64)| {
            *sent >= chapter && (kind.is_empty() || *of == kind) && select(*status)
        };
        answers.iter().filter(|(key, _)| is(key)).map(|(_, count)| count).sum()
    }

    /// How many requests failed that were sent in this chapter or a later one. What a customer did wrong is no failure: 429, or 409 for the last of a product.
    pub(crate) fn failed_since(&self, chapter: u64) -> u64 {
        let lost = lock(&self.shared.lost).iter().filter(|(sent, _)| *sent >= chapter).count();
        lost as u64 + self.answers_since(chapter, "", |status| status >= 500 || status == 424)
    }

    /// Begins a chapter.
    pub(crate) fn next_chapter(&self) -> u64 {
        self.shared.chapter.fetch_add(1, Relaxed) + 1
    }

    /// What was sent and never answered, with the reason.
    pub(crate) fn lost(&self) -> Vec<String> {
        lock(&self.shared.lost).iter().map(|(_, why)| why.clone()).collect()
    }

    pub(crate) fn confirmed(&self) -> Vec<Uuid> {
        lock(&self.shared.confirmed).clone()
    }

    pub(crate) fn by_status(&self) -> BTreeMap<u16, u64> {
        let mut sums = BTreeMap::new();
        for ((_, status, _), count) in lock(&self.shared.answers).iter() {
            *sums.entry(*status).or_default() += count;
        }
        sums
    }
}

/// An answer of the shop.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
    /// The trace that the request began.
    pub(crate) trace: TraceId,
}

/// A person with a browser: talks to the gateway only.
#[derive(Clone, Debug)]
pub(crate) struct Shopper {
    http: Client,
    gateway: String,
    books: Books,
    token: Option<String>,
}

impl Shopper {
    pub(crate) fn new(http: Client, gateway: String, books: Books) -> Self {
        Self { http, gateway, books, token: None }
    }

    /// Registers, unless the address has an account since an earlier process, and logs in.
    pub(crate) async fn open_account(mut self, email: &str) -> Result<Self, String> {
        let password = "correct horse battery";
        let form = json!({ "email": email, "name": email, "password": password });
        let opened = self.send("register", Method::POST, "/api/users", |r| r.json(&form)).await?;
        let form = json!({ "email": email, "password": password });
        let login = self.send("login", Method::POST, "/api/login", |r| r.json(&form)).await?;
        match (opened.status, login.status, login.body["token"].as_str()) {
            (201 | 409, 200, Some(token)) => {
                self.token = Some(token.to_owned());
                Ok(self)
            }
            _ => Err(format!("{email} gets no account: {opened:?}, {login:?}")),
        }
    }

    pub(crate) async fn browse(&self) -> Result<Answer, String> {
        self.send("catalogue", Method::GET, "/api/products", |r| r).await
    }

    pub(crate) async fn look_at(&self, product: Uuid) -> Result<Answer, String> {
        self.send("catalogue", Method::GET, &format!("/api/products/{product}"), |r| r).await
    }

    pub(crate) async fn fill_cart(&self, product: Uuid, quantity: u32) -> Result<Answer, String> {
        let line = json!({ "quantity": quantity });
        let path = format!("/api/cart/items/{product}");
        self.send("cart", Method::PUT, &path, |r| r.json(&line)).await
    }

    pub(crate) async fn see_cart(&self) -> Result<Answer, String> {
        self.send("cart", Method::GET, "/api/cart", |r| r).await
    }

    /// Orders these quantities of products, once.
    pub(crate) async fn order(&self, lines: &[(Uuid, u32)], card: &str) -> Result<Answer, String> {
        self.order_as(lines, card, false).await
    }

    /// The same, wrapped as a gift or not.
    pub(crate) async fn order_as(
        &self,
        lines: &[(Uuid, u32)],
        card: &str,
        gift_wrap: bool,
    ) -> Result<Answer, String> {
        let items: Vec<_> = lines
            .iter()
            .map(|(product_id, quantity)| json!({ "product_id": product_id, "quantity": quantity }))
            .collect();
        let form = json!({ "items": items, "card": card, "gift_wrap": gift_wrap });
        let key = Uuid::now_v7().to_string();
        let answer = self
            .send("order", Method::POST, "/api/orders", |r| {
                r.header("idempotency-key", key).json(&form)
            })
            .await?;
        if answer.status == 201 {
            let id = answer.body["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
            lock(&self.books.shared.confirmed).extend(id);
        }
        Ok(answer)
    }

    async fn send(
        &self,
        kind: &'static str,
        method: Method,
        path: &str,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, String> {
        let trace = TraceContext::new_root();
        let mut request = self.http.request(method, format!("{}{path}", self.gateway));
        request = request.header("traceparent", trace.to_string());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        self.books.shared.sent.fetch_add(1, Relaxed);
        let chapter = self.books.shared.chapter.load(Relaxed);
        let mut waiting = Waiting { books: &self.books, answered: false };
        let answer = answer_to(fill(request), trace.trace_id()).await;
        waiting.answered = true;
        match answer {
            Ok(answer) => {
                let key = (kind, answer.status, chapter);
                *lock(&self.books.shared.answers).entry(key).or_default() += 1;
                Ok(answer)
            }
            Err(error) => {
                let error = format!("{kind} {path}: {error:?}");
                lock(&self.books.shared.lost).push((chapter, error.clone()));
                Err(error)
            }
        }
    }
}

/// A request under way.
struct Waiting<'a> {
    books: &'a Books,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.books.shared.abandoned.fetch_add(1, Relaxed);
        }
    }
}

async fn answer_to(request: RequestBuilder, trace: TraceId) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.bytes().await?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Answer { status, retry_after, body, trace })
}
