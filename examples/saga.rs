//! A process dies while it takes an order back, and the next one finishes that: `cargo run --example saga`.
//!
//! It starts itself twice. To be both processes yourself, give it a folder, and run it twice: `cargo run --example saga -- /tmp/orders`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use gusset::{
    call::BoxError,
    saga::{
        Definition, Effect, Options, Orchestrator, Saga, SagaId, SqliteStore, State, StepContext,
        StepError,
    },
};

const ORDER: &str = "order-4711";

fn main() -> Result<(), BoxError> {
    if let Some(folder) = env::args_os().nth(1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        return runtime.block_on(one_process(Path::new(&folder)));
    }
    let folder = env::temp_dir().join(format!("gusset-saga-{}", std::process::id()));
    for who in ["the first process", "the second process, on the same folder"] {
        println!("── {who}");
        let ended = Command::new(env::current_exe()?).arg(&folder).status()?;
        println!("   it ended: {ended}\n");
    }
    Ok(fs::remove_dir_all(&folder)?)
}

/// Begins an order, and dies on the way; or finds one that was begun, and brings it to its end.
async fn one_process(folder: &Path) -> Result<(), BoxError> {
    fs::create_dir_all(folder)?;
    let bank = Arc::new(Book { file: folder.join("bank.txt"), name: "bank:     " });
    let shelf = Arc::new(Book { file: folder.join("warehouse.txt"), name: "warehouse:" });
    let place_order = define(&bank, &shelf)?;

    let store = SqliteStore::open(folder.join("sagas.db")).await?;
    // A process that is silent for a second counts as dead.
    let sagas =
        Orchestrator::with(Arc::new(store), Options::default().lease(Duration::from_secs(1)));
    sagas.register(&place_order)?;
    let order: SagaId = ORDER.parse()?;

    match sagas.report(&order).await {
        Ok(report) => {
            println!("   the journal says of {order}: {:?}", report.state);
            let _recovery = sagas.spawn_recovery(Duration::from_millis(100));
            let report = sagas.settled(&order).await?;
            println!("   the journal says of {order}: {:?}", report.state);
            if let Some(failure) = report.failure {
                println!("   and why: {failure}");
            }
            println!("   the books, every line of them:");
            bank.show()?;
            shelf.show()?;
            let whole = report.state == State::Compensated && bank.is_even()? && shelf.is_even()?;
            if whole { Ok(()) } else { Err("something is half done".into()) }
        }
        Err(_) => {
            println!("   {order}: a lamp for 40 €");
            sagas.run_as(&place_order, order, 40).await?;
            Err("it should have died".into())
        }
    }
}

fn define(bank: &Arc<Book>, shelf: &Arc<Book>) -> Result<Definition<u32, ()>, BoxError> {
    let mut saga = Saga::define("place-order", 1);

    let (act, undo) = (shelf.clone(), shelf.clone());
    saga.step("reserve-lamp")
        .run(move |cx: StepContext, _: u32| act.clone().enter(cx.action_key(), "reserved"))
        .undo(move |cx: StepContext, _: u32, _: Effect<()>| {
            undo.clone().enter(cx.action_key(), "released")
        });

    let (act, undo) = (bank.clone(), bank.clone());
    saga.step("take-money")
        .run(move |cx: StepContext, _: u32| act.clone().enter(cx.action_key(), "taken"))
        .undo(move |cx: StepContext, _: u32, _: Effect<()>| {
            let bank = undo.clone();
            async move {
                // The same key each time, so that it is given back once.
                let is_new =
                    !bank.has(&cx.action_key(), "given back").map_err(StepError::unknown)?;
                bank.clone().enter(cx.action_key(), "given back").await?;
                if is_new {
                    println!("   the answer of the bank never arrives: this process is killed");
                    kill_myself();
                }
                Ok(())
            }
        });

    saga.step("send-parcel")
        .run(|_: StepContext, _: u32| async {
            println!("   carrier:    no parcels to that address");
            Err::<(), _>(StepError::rejected("no parcels to that address"))
        })
        .no_undo();
    Ok(saga.finish(())?)
}

/// `kill -9`: nothing is tidied up, and nobody is told.
fn kill_myself() -> ! {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    std::process::abort()
}

/// What a participant remembers: a line for each thing done, and the key under which it was.
struct Book {
    file: PathBuf,
    name: &'static str,
}

impl Book {
    /// Writes it down, unless it was done under this key already.
    async fn enter(self: Arc<Self>, key: String, what: &'static str) -> Result<(), StepError> {
        // When writing fails nobody knows how much is on the disk.
        self.write(&key, what).map_err(StepError::unknown)
    }

    fn write(&self, key: &str, what: &str) -> io::Result<()> {
        if self.has(key, what)? {
            println!("   {} {what} already, under the key {key}", self.name);
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        writeln!(file, "{key} {what}")?;
        file.sync_all()?;
        println!("   {} {what}", self.name);
        Ok(())
    }

    fn has(&self, key: &str, what: &str) -> io::Result<bool> {
        Ok(self.lines()?.contains(&format!("{key} {what}")))
    }

    fn lines(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(&self.file) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn show(&self) -> io::Result<()> {
        self.lines()?.iter().for_each(|line| println!("     {} {line}", self.name));
        Ok(())
    }

    /// What was done was undone, each once.
    fn is_even(&self) -> io::Result<bool> {
        Ok(self.lines()?.len() == 2)
    }
}
