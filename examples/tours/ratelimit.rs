//! Shows a rate limit at work: a server with one bucket per client, and two clients, one of whom asks for too much.
//!
//! `cargo run --example ratelimit`; it takes nine seconds.

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, routing::get};
use gusset::{
    call::AnswerLayer,
    ratelimit::{ClientIp, Keyed, Quota, RateLimitLayer},
};
use reqwest::Response;
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};
use tower::ServiceBuilder;

/// What each client may: ten at once after a pause, and five in each second from then on.
const QUOTA: Quota = Quota::per_second(5).burst(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let clients = Keyed::new(QUOTA, NonZeroUsize::MIN.saturating_add(9_999));
    let server = serve(clients.clone()).await?;
    let mut polite = Client::new(server, "polite", [203, 0, 113, 7]);
    let mut greedy = Client::new(server, "greedy", [203, 0, 113, 66]);

    say("Each client may 5 a second, 10 at once after a pause.\n")?;
    say("1. Polite asks 4 times a second. Greedy asks 32 times, each time from behind another")?;
    say("   forged address, which gains it nothing: only what the proxy saw counts.\n")?;
    let mut quarter = interval(Duration::from_millis(250));
    for _ in 0..10 {
        quarter.tick().await;
        let (one, other) = tokio::join!(polite.ask(1), greedy.ask(8));
        row(&one?, &other?)?;
    }

    say("\n   This is what greedy is told:\n")?;
    show(greedy.refusal().await?).await?;

    say("2. Greedy pauses for two seconds. Its bucket fills up, and no further than that:\n")?;
    sleep(Duration::from_secs(2)).await;
    row(&polite.ask(1).await?, &greedy.ask(16).await?)?;

    say("\n3. Greedy learns to read: with r=0 it waits for t seconds, and is served each time:\n")?;
    for _ in 0..4 {
        sleep(greedy.told_to_wait).await;
        row(&polite.ask(1).await?, &greedy.ask(5).await?)?;
    }

    let stats = clients.stats();
    say(&format!("\n{} answered, {} refused. ", stats.allowed, stats.refused))?;
    say(&format!("{} forged addresses, and still two clients.", greedy.forged))
}

/// A server that believes the proxies on this machine, and nobody else, when they say who the client is.
async fn serve(clients: Keyed<IpAddr>) -> Result<SocketAddr> {
    let client = ClientIp::trusting(["127.0.0.0/8".parse()?])
        .peer_by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
    let layers = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(RateLimitLayer::keyed(clients, client).headers("default"));
    let router = Router::new().route("/", get(async || "hello")).layer(layers);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(address)
}

/// A client, and the proxy between it and the server.
struct Client {
    name: &'static str,
    address: Ipv4Addr,
    url: String,
    http: reqwest::Client,
    forged: u32,
    told_to_wait: Duration,
}

/// What came of a few requests.
struct Answers {
    name: &'static str,
    passed: Vec<bool>,
    /// As the last answer has it.
    left: String,
    told_to_wait: Option<String>,
}

impl Client {
    fn new(server: SocketAddr, name: &'static str, address: [u8; 4]) -> Self {
        let (address, url) = (address.into(), format!("http://{server}/"));
        let (http, told_to_wait) = (reqwest::Client::new(), Duration::ZERO);
        Self { name, address, url, http, forged: 0, told_to_wait }
    }

    /// The client makes up where it comes from; the proxy writes behind it where that really is.
    async fn get(&mut self) -> Result<Response> {
        let claimed = Ipv4Addr::from(0x0600_0000 + self.forged);
        self.forged += 1;
        let line = format!("{claimed}, {}", self.address);
        Ok(self.http.get(&self.url).header("x-forwarded-for", line).send().await?)
    }

    async fn ask(&mut self, times: u32) -> Result<Answers> {
        let mut answers =
            Answers { name: self.name, passed: Vec::new(), left: "".into(), told_to_wait: None };
        for _ in 0..times {
            let answer = self.get().await?;
            answers.passed.push(answer.status().is_success());
            let left = field(&answer, "ratelimit").unwrap_or_default();
            answers.left = left.trim_start_matches("\"default\";").into();
            answers.told_to_wait = field(&answer, "retry-after");
        }
        // With tokens left there is nothing to wait for.
        let seconds = answers.left.strip_prefix("r=0;t=").unwrap_or("0").parse()?;
        self.told_to_wait = Duration::from_secs(seconds);
        Ok(answers)
    }

    async fn refusal(&mut self) -> Result<Response> {
        loop {
            let answer = self.get().await?;
            if !answer.status().is_success() {
                return Ok(answer);
            }
        }
    }
}

fn field(answer: &Response, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

fn row(polite: &Answers, greedy: &Answers) -> Result<()> {
    say(&format!("   {}   {}", cell(polite, 4), cell(greedy, 16)))
}

/// A block for each request that passed, a dot for each that did not, and what the last one was told.
fn cell(answers: &Answers, width: usize) -> String {
    let (green, red, plain) = match io::stdout().is_terminal() {
        true => ("\x1b[32m", "\x1b[31m", "\x1b[0m"),
        false => ("", "", ""),
    };
    let mut marks = String::new();
    for passed in &answers.passed {
        marks += &if *passed { format!("{green}■{plain}") } else { format!("{red}·{plain}") };
    }
    let room = " ".repeat(width.saturating_sub(answers.passed.len()));
    let left = &answers.left;
    let wait = answers.told_to_wait.as_ref().map(|wait| format!("wait {wait} s"));
    format!("{} {marks}{room} {left:<8} {:<9}", answers.name, wait.unwrap_or_default())
}

/// An answer as it came over the wire.
async fn show(answer: Response) -> Result<()> {
    say(&format!("   {:?} {}", answer.version(), answer.status()))?;
    for name in ["retry-after", "ratelimit-policy", "ratelimit", "content-type"] {
        let value = field(&answer, name).unwrap_or_default();
        say(&format!("   {name}: {value}"))?;
    }
    let problem: serde_json::Value = answer.json().await?;
    say(&format!("{problem:#}").lines().map(|line| format!("   {line}\n")).collect::<String>())
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
