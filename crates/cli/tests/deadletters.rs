//! The process, as its operator sees it, beside a real NATS server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use gusset_broker::{Broker, Delivery, Limits, NatsEngine, NatsOptions, Policy};
use gusset_engines::Nats;
use tower::service_fn;

struct Server(Nats);

impl Server {
    fn gusset(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gusset"))
            .arg("deadletters")
            .args(args)
            .env("GUSSET_NATS", self.0.url())
            .output()
            .unwrap()
    }

    /// What it says, if it went well.
    fn says(&self, args: &[&str]) -> String {
        let output = self.gusset(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn broker(server: &Server) -> Broker {
    let options = NatsOptions::new(server.0.url());
    Broker::on(NatsEngine::connect(options, Limits::new()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_died_gives_it_back_and_deletes_the_rest() {
    let server = Server(Nats::start());
    let nobody = server.gusset(&["list"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        String::from_utf8(nobody.stderr).unwrap().contains("no broker there: no stream gusset")
    );

    let broker = broker(&server).await;
    let policy = Policy::new().max_attempts(1);
    let failing = broker
        .subscribe("order.*")
        .group("mails")
        .policy(policy)
        .handle(service_fn(|_: Delivery<String>| async { Err::<(), _>("no\nsuch\x1b[2J address") }))
        .await
        .unwrap();
    for n in 0..3 {
        broker.publish(&*format!("order.{n}"), &format!("order {n}")).await.unwrap();
    }
    let begin = Instant::now();
    while server.says(&["list"]).lines().count() < 4 {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
    failing.close().await;

    let list = server.says(&["list", "--group", "mails", "--limit", "2"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert_eq!((lines[1][0], lines[1][2], lines[1][4]), ("1", "mails", "1"));
    assert_eq!((lines[1][6], lines[1][7]), ("all attempts failed", "no such [2J address"));
    let rest = server.says(&["list", "--after", "2"]);
    assert_eq!(rest.lines().count(), 2);
    assert_eq!(server.says(&["list", "--group", "stock"]).lines().count(), 1);
    let one = server.says(&["list", "--subject", "order.1"]);
    assert!(one.lines().nth(1).unwrap().contains("\torder.1\t"), "{one}");

    let id = one.lines().nth(1).unwrap().split('\t').next().unwrap().to_owned();
    let story = server.says(&["show", &id]);
    assert!(
        story.contains("group          mails") && story.ends_with("\n\"order 1\"\n"),
        "{story}"
    );
    assert_eq!(server.gusset(&["show", "99"]).status.code(), Some(2));

    let dry = server.says(&["redrive", "--all", "--dry-run"]);
    assert_eq!(dry, "3 would be given back, 0 kept\n");
    assert_eq!(server.says(&["redrive", &id]), format!("{id} given back\n"));
    let again = server.gusset(&["redrive", &id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stdout).unwrap().contains("kept: no such dead letter"));

    let mut mended = broker.subscribe("order.*").group("mails").pull::<String>().await.unwrap();
    let pulled = mended.next().await.unwrap();
    assert_eq!((pulled.body().as_str(), pulled.attempt().number()), ("order 1", 1));
    pulled.ack().await.unwrap();

    assert_eq!(server.gusset(&["purge"]).status.code(), Some(2));
    assert_eq!(server.says(&["purge", "--all", "--group", "stock"]), "0 deleted\n");
    assert_eq!(server.says(&["purge", "--all"]), "2 deleted\n");
    assert_eq!(server.says(&["list"]).lines().count(), 1);
}
