//! What three steps that do nothing cost on a database that waits for its disk. Run with `--release --nocapture` for numbers that mean something.

use std::{sync::Arc, time::Duration};

use gusset_saga::{Definition, Options, Orchestrator, Saga, StepContext};
use tokio::{task::JoinSet, time::Instant};

use crate::harness::{Server, times};

fn three_steps() -> Definition<u32, u32> {
    let mut saga = Saga::define("bench", 1);
    let [_, _, last] = ["reserve", "pay", "ship"]
        .map(|name| saga.step(name).run(|_: StepContext, n: u32| async move { Ok(n) }).no_undo());
    saga.finish(&last).unwrap()
}

/// Sagas for each second, with so many callers who each wait for theirs.
async fn rate(sagas: &Orchestrator, callers: usize, span: Duration) -> f64 {
    let definition = Arc::new(three_steps());
    let (begin, mut all) = (Instant::now(), JoinSet::new());
    for _ in 0..callers {
        let (sagas, definition) = (sagas.clone(), definition.clone());
        all.spawn(async move {
            let mut done = 0;
            while begin.elapsed() < span {
                sagas.run(&definition, 7).await.unwrap();
                done += 1;
            }
            done
        });
    }
    let done: u32 = all.join_all().await.into_iter().sum();
    f64::from(done) / begin.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_the_commits_that_one_has_for_itself() {
    let server = Server::start_with(&["fsync=on", "shared_buffers=256MB", "max_wal_size=4GB"]);
    let options = Options::default().max_running(4_096);
    let sagas = Orchestrator::with(Arc::new(server.store().await), options);
    let span = Duration::from_secs(times(2, 10) as u64);
    rate(&sagas, 8, Duration::from_millis(500)).await;
    let alone = rate(&sagas, 1, span).await;
    let commit = one_commit(&server).await;
    let many = rate(&sagas, 1_024, span).await;
    eprintln!(
        "one caller: {:.2} ms a saga, which writes four records; a bare commit: {:.2} ms; 1,024 callers: {many:.0} sagas/s",
        1e3 / alone,
        commit.as_secs_f64() * 1e3,
    );
    assert!(many > 3.0 * alone, "{many} sagas/s of many callers, {alone} of one");
}

/// Of one small record, by itself, in the median.
async fn one_commit(server: &Server) -> Duration {
    let (client, link) =
        tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(link);
    client.batch_execute("CREATE TABLE bare (record text)").await.unwrap();
    let insert = client.prepare("INSERT INTO bare VALUES ($1)").await.unwrap();
    let record = "x".repeat(200);
    let mut all = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        client.execute(&insert, &[&record]).await.unwrap();
        all.push(begin.elapsed());
    }
    all.sort_unstable();
    all[all.len() / 2]
}
