//! A saga survives `kill -9`: a process dies while it takes an order back, and the next one finishes that, each effect undone once.
//!
//! `cargo run --example saga` starts itself twice. To be both processes yourself, run it twice with a folder: `-- /tmp/orders`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use gusset::{
    call::BoxError,
    saga::{Effect, Options, Orchestrator, Saga, SagaId, SqliteStore, StepContext, StepError},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if let Some(folder) = env::args_os().nth(1) {
        return one_process(Path::new(&folder)).await;
    }
    let folder = env::temp_dir().join(format!("gusset-saga-{}", std::process::id()));
    for who in ["the first process", "the second process, on the same folder"] {
        println!("── {who}");
        println!("   it ended: {}", Command::new(env::current_exe()?).arg(&folder).status()?);
    }
    Ok(fs::remove_dir_all(&folder)?)
}

async fn one_process(folder: &Path) -> Result<(), BoxError> {
    fs::create_dir_all(folder)?;
    let book = folder.join("book.txt");
    let mut saga = Saga::define("place-order", 1);
    for (done, undone) in [("lamp-reserved", "lamp-released"), ("money-taken", "money-given-back")]
    {
        let (act, undo) = (book.clone(), book.clone());
        saga.step(done)
            .run(move |cx: StepContext, _: u32| enter(act.clone(), cx.action_key(), done))
            .undo(move |cx: StepContext, _: u32, _: Effect<()>| {
                enter(undo.clone(), cx.action_key(), undone)
            });
    }
    let refused = async |_: StepContext, _| Err::<(), _>(StepError::rejected("no parcels there"));
    saga.step("parcel-sent").run(refused).no_undo();
    let place_order = saga.finish(())?;

    let store = Arc::new(SqliteStore::open(folder.join("sagas.db")).await?);
    // Who is silent for a second counts as dead.
    let sagas = Orchestrator::with(store, Options::default().lease(Duration::from_secs(1)));
    sagas.register(&place_order)?;
    let order: SagaId = "order-4711".parse()?;
    if sagas.report(&order).await.is_err() {
        sagas.run_as(&place_order, order, 40).await?;
        return Err("it should have died".into());
    }
    let _recovery = sagas.spawn_recovery(Duration::from_millis(100));
    let report = sagas.settled(&order).await?;
    println!("   {order}: {:?}\n{}", report.state, fs::read_to_string(&book)?);
    Ok(())
}

/// What a participant does: each thing once under one key, however often it is asked to.
async fn enter(book: PathBuf, key: String, what: &'static str) -> Result<(), StepError> {
    let (known, line) = (fs::read_to_string(&book).unwrap_or_default(), format!("{key} {what}\n"));
    if known.contains(&line) {
        println!("   {what} already");
        return Ok(());
    }
    println!("   {what}");
    // When writing fails nobody knows how much is on the disk.
    fs::write(&book, known + &line).map_err(StepError::unknown)?;
    if what == "money-given-back" {
        println!("   the answer never arrives: this process is killed");
        let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    }
    Ok(())
}
