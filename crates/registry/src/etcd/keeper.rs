//! The task that keeps the lease alive and etcd in step with what this process has registered.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

use super::{
    calls::{self, On, Swap},
    connector::pause,
    engine::Engine,
    holdings::{Outcome, Task, Verdict},
    keys::Record,
    link::Link,
    rpc::KeyValue,
};
use crate::Instance;

/// So many keys are written at once.
const AT_ONCE: usize = 16;
/// So often a key is tried again that others change at the same time.
const CONTESTED: usize = 5;

/// Never ends. It is the only one that writes keys of this process, so no two writes of one key are under way at once.
pub(super) async fn run(engine: Arc<Engine>) {
    let (mut generation, mut failures) = (0, 0);
    let mut turn = Instant::now();
    loop {
        let link = engine.line.link().await;
        // After a new connection everything is looked at: it may be another etcd behind the same address.
        let whole = link.generation != generation || Instant::now() >= turn;
        match step(&engine, &link, whole).await {
            Ok(()) if whole => {
                failures = 0;
                generation = link.generation;
                let third = engine.policy.ttl_used() / 3;
                turn = Instant::now() + third.mul_f64(rand::random_range(0.8..=1.0));
            }
            Ok(()) => failures = 0,
            Err(status) => {
                tracing::debug!(%status, "etcd did not do as it should");
                failures += 1;
                sleep(pause(engine.policy.ttl_used(), failures)).await;
                continue;
            }
        }
        tokio::select! {
            () = sleep_until(turn) => {}
            () = engine.dirty.notified() => {}
            _ = link.ended() => {}
        }
    }
}

/// Looks after lease and keys if `whole`, and writes what is to be written.
async fn step(engine: &Engine, link: &Link, whole: bool) -> Result<(), Status> {
    let expired = engine.holdings().expire(engine.now());
    engine.meters.expired.fetch_add(expired as u64, Relaxed);
    if expired > 0 {
        tracing::warn!(expired, "instances of this process fell silent");
    }
    let lease = engine.holdings().lease();
    if let Some(lease) = lease.filter(|_| whole) {
        look_after(engine, link, lease).await?;
    }
    let due = engine.holdings().due(whole);
    if due.is_empty() {
        return Ok(());
    }
    let lease = lease_of(engine, link).await?;
    let answers = stream::iter(due).map(|task| async move {
        let result = perform(engine, link, lease, &task).await;
        settle(engine, link, &task, result)
    });
    let results: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

/// Begins the TTL anew and sees whether our keys are there, and no others.
async fn look_after(engine: &Engine, link: &Link, lease: i64) -> Result<(), Status> {
    let begin = engine.now();
    let keys = if calls::keep_alive(link, lease).await? {
        calls::keys_on(link, lease).await?
    } else {
        None
    };
    let Some(keys) = keys else {
        tracing::warn!("the lease has expired; everything is registered again");
        engine.holdings().lease_lost();
        return Ok(());
    };
    engine.confirm_lease(begin);
    let key = |name: &(Arc<str>, Arc<str>)| engine.keys.instance(&name.0, &name.1);
    let (missing, strays) = engine.holdings().verify(keys, key);
    if missing > 0 {
        tracing::warn!(missing, "instances are gone from etcd; they are registered again");
        engine.meters.put_again.fetch_add(missing as u64, Relaxed);
    }
    for key in strays {
        delete_stray(engine, link, lease, &key).await?;
    }
    see_foreign_changes(engine, link).await
}

/// Another process may have drained one of ours, which is to last.
async fn see_foreign_changes(engine: &Engine, link: &Link) -> Result<(), Status> {
    let key = |name: &(Arc<str>, Arc<str>)| engine.keys.instance(&name.0, &name.1);
    let stored = engine.holdings().stored(key);
    for keys in stored.chunks(calls::COMPARED) {
        for found in calls::changed(link, keys).await? {
            let Some((service, id)) = engine.keys.parse(&found.key) else { continue };
            let record = Record::parse(&found.value).filter(|record| record.owner == engine.owner);
            let instance = record.map(|record| record.instance);
            engine.holdings().found((service.into(), id.into()), instance, found.mod_revision);
        }
    }
    Ok(())
}

/// A write whose answer was lost may come true after its instance was deregistered.
async fn delete_stray(engine: &Engine, link: &Link, lease: i64, key: &[u8]) -> Result<(), Status> {
    if let Some(found) = calls::get(link, key).await?
        && found.lease == lease
        && let Swap::Done(_) = calls::delete(link, key, found.mod_revision).await?
    {
        engine.meters.strays.fetch_add(1, Relaxed);
    }
    Ok(())
}

async fn lease_of(engine: &Engine, link: &Link) -> Result<i64, Status> {
    if let Some(lease) = engine.holdings().lease() {
        return Ok(lease);
    }
    let begin = engine.now();
    let lease = calls::grant(link, engine.policy.ttl_used()).await?;
    engine.meters.leases.fetch_add(1, Relaxed);
    engine.confirm_lease(begin);
    engine.holdings().granted(lease);
    Ok(lease)
}

async fn perform(engine: &Engine, link: &Link, lease: i64, task: &Task) -> Result<Outcome, Status> {
    let key = engine.keys.instance(&task.name.0, &task.name.1);
    let mut expected = task.expected;
    for _ in 0..CONTESTED {
        let swap = match &task.want {
            Some(instance) => put(engine, link, &key, instance, lease, expected).await?,
            None if expected == 0 => {
                calls::get(link, &key).await?.map_or(Swap::Absent, Swap::Found)
            }
            None => calls::delete(link, &key, expected).await?,
        };
        let wanted = task.want.is_some();
        match swap {
            Swap::Done(revision) if wanted => return Ok(Outcome::Stored(revision)),
            Swap::Done(_) => return Ok(Outcome::Gone(Verdict::Done)),
            Swap::Absent if wanted => expected = 0,
            Swap::Absent => return Ok(Outcome::Gone(Verdict::Done)),
            Swap::Found(found) => match whose(&engine.owner, task, &found) {
                Whose::Younger if wanted => return Ok(Outcome::Blocked(Verdict::Superseded)),
                Whose::Younger => return Ok(Outcome::Gone(Verdict::Superseded)),
                Whose::Other if !wanted => return Ok(Outcome::Gone(Verdict::Done)),
                Whose::Other if !task.may_take => {
                    return Ok(Outcome::Blocked(Verdict::Superseded));
                }
                Whose::Ours | Whose::Older | Whose::Other => expected = found.mod_revision,
            },
        }
    }
    Ok(Outcome::Again)
}

/// Whose the key is that a task would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    /// That of another process with an older run of the instance.
    Older,
    /// That of another process with a younger run of it.
    Younger,
    /// That of another process, and which is younger is not said: whoever came last.
    Other,
}

fn whose(owner: &str, task: &Task, found: &KeyValue) -> Whose {
    let Some(record) = Record::parse(&found.value) else { return Whose::Other };
    match (task.incarnation, record.instance.incarnation) {
        _ if record.owner == owner => Whose::Ours,
        (0, _) | (_, 0) => Whose::Other,
        (ours, theirs) if ours < theirs => Whose::Younger,
        (ours, theirs) if ours > theirs && task.want.is_some() => Whose::Older,
        _ => Whose::Other,
    }
}

async fn put(
    engine: &Engine,
    link: &Link,
    key: &[u8],
    instance: &Instance,
    lease: i64,
    expected: i64,
) -> Result<Swap, Status> {
    let value = engine.value(instance, &engine.owner)?;
    calls::put(link, key, value, On::Lease(lease), expected).await
}

/// Notes what came of the task. An error is one after which all of it is tried again.
fn settle(
    engine: &Engine,
    link: &Link,
    task: &Task,
    result: Result<Outcome, Status>,
) -> Result<(), Status> {
    let mut holdings = engine.holdings();
    match result {
        Ok(Outcome::Again) => Err(Status::aborted("others keep changing the key")),
        Ok(outcome) => {
            if let Outcome::Blocked(_) = outcome {
                engine.meters.superseded.fetch_add(1, Relaxed);
            }
            holdings.done(task, outcome);
            Ok(())
        }
        Err(status) if status.code() == Code::NotFound => {
            holdings.lease_lost();
            Err(status)
        }
        Err(status) if status.code() == Code::DeadlineExceeded || link.is_broken() => Err(status),
        Err(status) => {
            let (service, id) = (&*task.name.0, &*task.name.1);
            tracing::warn!(service, id, %status, "etcd refuses an instance");
            holdings.done(task, Outcome::Blocked(Verdict::Failed(status.message().into())));
            Ok(())
        }
    }
}
