//! Shows a circuit breaker at work: a shop asks a price service that breaks down, hangs, and recovers.
//!
//! `cargo run --example breaker`; it takes fifteen seconds.

use std::{
    future::ready,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use gusset::breaker::{BoxError, BreakerLayer, Circuit, Event, Open, Policy, Ratio, State, Window};
use tokio::{
    net::TcpListener,
    time::{interval, sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

type Result<T> = std::result::Result<T, BoxError>;

/// Half of the calls of the last two seconds, at least ten; open for one second, then two, then four.
fn policy() -> Policy {
    Policy::failure_ratio(Ratio::percent(50))
        .window(Window::time(Duration::from_secs(2)).min_calls(10))
        .open_for(Duration::from_secs(1))
        .open_growth(2, Duration::from_secs(4))
        .open_jitter(Ratio::percent(10))
        .slow_after(Duration::from_millis(90))
        .probe_lease(Duration::from_secs(2))
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = PriceServer::start().await?;
    let circuit = Circuit::with_listener("prices", policy(), |_: &str, event: &Event<'_>| {
        if let Event::Transition { from, to, cause } = event {
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            let _ = say(&format!("\n      {} → {}{cause}", word(*from), word(*to)));
        }
    });
    let shop = Shop { server: server.clone(), circuit: circuit.clone() };

    say("A shop asks for a price 20 times a second. Each mark is a call:")?;
    say("█ answered   ▒ failed   · refused at once, answered from the list of yesterday\n")?;

    say("1. All is well.")?;
    shop.open_for_business(Duration::from_secs(1)).await?;

    say(
        "\n2. The service answers 500 to all. Once half of the last calls failed, nobody waits for it;",
    )?;
    say("   each probe that fails makes the next pause longer.")?;
    server.mood.store(PriceServer::BROKEN, Relaxed);
    shop.open_for_business(Duration::from_secs(4)).await?;

    say("\n3. It is well again. Three probes in a row, and the circuit closes.")?;
    server.mood.store(PriceServer::WELL, Relaxed);
    shop.open_for_business(Duration::from_secs(5)).await?;

    say("\n4. It hangs. The shop gives up after 100 ms, outside of the breaker, which notices")?;
    say("   all the same: a call that is dropped after 90 ms was no impatience.")?;
    server.mood.store(PriceServer::HANGS, Relaxed);
    shop.open_for_business(Duration::from_secs(2)).await?;

    say("\n5. It is well again.")?;
    server.mood.store(PriceServer::WELL, Relaxed);
    shop.open_for_business(Duration::from_secs(3)).await?;

    let stats = circuit.stats();
    let reached = server.reached.load(Relaxed);
    say(&format!(
        "\n{} answered, {} failed, {} refused: {reached} calls reached the service, and none of \
         the refused had to wait.",
        stats.successes, stats.failures, stats.refused
    ))?;
    Ok(())
}

/// A server on a socket, in one mood or another.
#[derive(Clone)]
struct PriceServer {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    reached: Arc<AtomicU32>,
}

impl PriceServer {
    const WELL: u8 = 0;
    const BROKEN: u8 = 1;
    const HANGS: u8 = 2;

    async fn start() -> io::Result<Self> {
        let (mood, reached) = (Arc::new(AtomicU8::new(Self::WELL)), Arc::new(AtomicU32::new(0)));
        let (asked, counter) = (mood.clone(), reached.clone());
        let price = get(async move || {
            counter.fetch_add(1, Relaxed);
            match asked.load(Relaxed) {
                Self::WELL => (StatusCode::OK, "4.20"),
                Self::BROKEN => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "no connection to the database")
                }
                _ => std::future::pending().await,
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", price);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, mood, reached })
    }
}

struct Shop {
    server: PriceServer,
    circuit: Circuit,
}

impl Shop {
    /// Asks every 50 ms, and draws what comes of it.
    async fn open_for_business(&self, span: Duration) -> Result<()> {
        let client = reqwest::Client::new();
        let url = format!("http://{}/", self.server.address);
        let ask = service_fn(move |()| {
            let (client, url) = (client.clone(), url.clone());
            async move {
                let answer = client.get(url).send().await?;
                let answer = answer.error_for_status().map_err(reqwest::Error::without_url)?;
                Ok::<_, reqwest::Error>((Mark::Answered, answer.text().await?))
            }
        });
        let prices = BreakerLayer::new(self.circuit.clone())
            .fallback(|(), _: Open| {
                ready(Ok::<_, reqwest::Error>((Mark::Refused, "4.10".to_owned())))
            })
            .layer(ask);

        draw("   ")?;
        let mut ticks = interval(Duration::from_millis(50));
        for _ in 0..span.as_millis() / 50 {
            ticks.tick().await;
            let prices = prices.clone();
            tokio::spawn(async move {
                let patience = Duration::from_millis(100);
                let mark = match timeout(patience, prices.oneshot(())).await {
                    Ok(Ok((mark, _price))) => mark,
                    Ok(Err(_)) | Err(_) => Mark::Failed,
                };
                draw(mark.symbol())
            });
        }
        // The last ones are still under way.
        sleep(Duration::from_millis(150)).await;
        say("")
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Answered,
    Failed,
    Refused,
}

impl Mark {
    fn symbol(self) -> &'static str {
        match (self, io::stdout().is_terminal()) {
            (Self::Answered, true) => "\x1b[32m█\x1b[0m",
            (Self::Failed, true) => "\x1b[31m▒\x1b[0m",
            (Self::Refused, true) => "\x1b[90m·\x1b[0m",
            (Self::Answered, false) => "█",
            (Self::Failed, false) => "▒",
            (Self::Refused, false) => "·",
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half-open",
        _ => "as its operator wants",
    }
}

fn say(line: &str) -> Result<()> {
    draw(&format!("{line}\n"))
}

fn draw(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
