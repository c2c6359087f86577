//! The process, as its operator sees it, on the folder of a program that is stopped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for a real process")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use gusset_broker::{Broker, Delivery, FileEngine, FileOptions, MessageId, Policy, Reply};
use gusset_call::{BoxError, Deadline};
use tower::service_fn;

/// That a broker has, once there is one.
struct Folder(gusset_engines::Folder);

impl Folder {
    fn new() -> Self {
        Self(gusset_engines::Folder::new("cli-dir"))
    }

    fn path(&self) -> PathBuf {
        self.0.join("broker")
    }

    fn gusset(&self, args: &[&str]) -> Output {
        gusset(&self.path(), args)
    }

    /// What it says, if it went well.
    fn says(&self, args: &[&str]) -> String {
        let output = self.gusset(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What keeps it from working.
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.gusset(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    fn open(&self) -> Broker {
        Broker::on(FileEngine::open(self.path(), FileOptions::new()).unwrap())
    }
}

fn gusset(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gusset"))
        .arg("deadletters")
        .args(args)
        .arg("--dir")
        .arg(dir)
        // Of another broker, and not meant.
        .env("GUSSET_NATS", "nats://127.0.0.1:1")
        .output()
        .unwrap()
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(30), "not {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The program: two groups, of which one can handle nothing.
async fn fails(folder: &Folder) -> MessageId {
    let broker = folder.open();
    let policy = Policy::new().max_attempts(1);
    broker.declare("mails", "order.*", policy).await.unwrap();
    broker.declare("stock", "order.*", policy).await.unwrap();
    let failing = service_fn(|order: Delivery<String>| async move {
        match order.body().as_str() {
            "order 2" => Ok(Reply::reject("two\nlines")),
            _ => Err("no\nsuch\x1b[2J address"),
        }
    });
    let _failing =
        broker.subscribe("order.*").group("mails").concurrency(1).handle(failing).await.unwrap();
    let fine = service_fn(|_: Delivery<String>| async { Ok::<_, BoxError>(()) });
    let _fine = broker.subscribe("order.*").group("stock").handle(fine).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..3 {
        let receipt = broker.publish(&*format!("order.{n}"), &format!("order {n}")).await;
        ids.push(receipt.unwrap().id);
    }
    let handled = || {
        let stats = broker.stats();
        stats.dead_letters == 3 && stats.groups.iter().all(|g| g.ready + g.in_flight == 0)
    };
    until("all are dead", handled).await;

    let busy = folder.refuses(&["list"]);
    let own = format!("is in use by process {}", std::process::id());
    assert!(busy.contains(&own) && busy.contains("stop it first"), "{busy}");
    broker.close(Deadline::after(Duration::from_secs(5))).await;
    ids[1]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_died_gives_it_back_and_deletes_the_rest() {
    let folder = Folder::new();
    assert!(folder.refuses(&["list"]).contains("no broker in"));
    assert!(!folder.path().exists());
    let published = fails(&folder).await;

    let list = folder.says(&["list", "--group", "mails", "--limit", "2"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert_eq!((lines[1][0], lines[1][2], lines[1][4]), ("1", "mails", "1"));
    assert_eq!((lines[1][6], lines[1][7]), ("all attempts failed", "no such [2J address"));
    let rest = folder.says(&["list", "--after", "2"]);
    assert!(rest.lines().count() == 2 && rest.contains("rejected: two lines"), "{rest}");
    assert_eq!(folder.says(&["list", "--group", "stock"]).lines().count(), 1);
    let one = folder.says(&["list", "--subject", "order.1"]);
    let id = one.lines().nth(1).unwrap().split('\t').next().unwrap().to_owned();

    let story = folder.says(&["show", &id]);
    assert!(
        story.contains("group          mails") && story.ends_with("\n\"order 1\"\n"),
        "{story}"
    );
    assert!(folder.refuses(&["show", "99"]).contains("no dead letter 99"));

    let dry = folder.says(&["redrive", "--all", "--dry-run"]);
    assert_eq!(dry, "3 would be given back, 0 kept\n");
    assert_eq!(folder.says(&["redrive", &id]), format!("{id} given back\n"));
    let again = folder.gusset(&["redrive", &id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stdout).unwrap().contains("kept: no such dead letter"));
    assert_eq!(folder.says(&["purge", "--all", "--group", "stock"]), "0 deleted\n");
    assert_eq!(folder.says(&["purge", "--all"]), "2 deleted\n");
    assert_eq!(folder.says(&["list"]).lines().count(), 1);

    let broker = folder.open();
    let ready: Vec<_> =
        broker.stats().groups.iter().map(|g| (g.group.to_string(), g.ready)).collect();
    assert_eq!(ready, [("mails".to_owned(), 1), ("stock".to_owned(), 0)]);
    let mut mended = broker.subscribe("order.*").group("mails").pull::<String>().await.unwrap();
    let pulled = mended.next().await.unwrap();
    assert_eq!((pulled.body().as_str(), pulled.attempt().number()), ("order 1", 1));
    assert_eq!(pulled.message().id(), published);
    pulled.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_group_any_more_is_kept_and_said_so() {
    let folder = Folder::new();
    {
        let broker = folder.open();
        broker.declare("mails", ">", Policy::new().max_attempts(1)).await.unwrap();
        let failing = service_fn(|_: Delivery<u32>| async { Err::<(), _>("always") });
        let subscription = broker.subscribe(">").group("mails").handle(failing).await.unwrap();
        broker.publish("a", &1).await.unwrap();
        until("it is dead", || broker.stats().dead_letters == 1).await;
        subscription.close().await;
        broker.remove("mails").await.unwrap();
    }
    let kept = folder.gusset(&["redrive", "1"]);
    assert_eq!(kept.status.code(), Some(1));
    assert_eq!(String::from_utf8(kept.stdout).unwrap(), "1 kept: no group mails\n");
    assert_eq!(folder.says(&["list"]).lines().count(), 2, "it is still there");
}
