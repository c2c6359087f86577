//! Every crash at every write of a definition's journal, under every outcome of every step.
//!
//! ```
//! use gusset_saga::{Effect, Saga, StepContext, StepError, testing::crash};
//!
//! async fn reserve(_: StepContext, items: u32) -> Result<String, StepError> {
//!     Ok(format!("{items} on shelf 7"))
//! }
//! async fn release(_: StepContext, _: u32, _: Effect<String>) -> Result<(), StepError> {
//!     Ok(())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let played = crash::Suite::new(|| {
//!     let mut saga = Saga::define("place-order", 1);
//!     let stock = saga.step("reserve-stock").run(reserve).undo(release);
//!     (saga.finish(&stock).unwrap(), 3)
//! });
//! assert!(played.run().await > 50);
//! # });
//! ```

mod story;
mod world;

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::{Definition, Json, MemoryStore, Report, StepKind, Store, testing::Fault};

use story::{Cast, Script, Stage};

/// How a step's action goes. The action itself is called where it says done, so its output and its own effects are real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is called, and answers.
    Done,
    /// It answers no.
    Rejected,
    /// It is not reached, once or each time.
    Transient(Times),
    /// It is called, and the answer is lost.
    Unknown(Times),
    /// It is called, and panics.
    Panic(Times),
    /// It is called, and does not answer in time.
    HangAfter(Times),
    /// It does not answer in time, and was never reached.
    HangBefore(Times),
    /// It is called and its answer is lost; whoever asks again finds it down.
    DoneThenTransient,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The first attempt.
    Once,
    /// Each attempt; the first four of a step that is attempted until it succeeds.
    Always,
}

/// How an undo goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// It is called, and answers.
    Done,
    /// It is called, and the answer is lost, once.
    Unknown,
    /// It panics, once.
    Panic,
    /// It cannot be undone.
    Fails,
}

const ACTS: [Act; 12] = {
    use Times::{Always, Once};
    [
        Act::Rejected,
        Act::Transient(Once),
        Act::Transient(Always),
        Act::Unknown(Once),
        Act::Unknown(Always),
        Act::Panic(Once),
        Act::Panic(Always),
        Act::HangAfter(Once),
        Act::HangAfter(Always),
        Act::HangBefore(Once),
        Act::HangBefore(Always),
        Act::DoneThenTransient,
    ]
};

const FAULTS: [Fault; 3] = [Fault::CrashBefore, Fault::CrashAfter, Fault::Freeze];

/// What a [`Suite`] does in one story; the rest is as it should be.
type Check = dyn Fn(&Report) + Send + Sync;

/// Plays a definition: each step in turn goes wrong in each way, each undo in turn as well, and in each such story each write of the journal is crashed
/// before, crashed after, or frozen until another process has taken over.
///
/// After each story the saga must be done, with each step's effect; or undone, without any; or listed as stuck, with what is left. No undo
/// comes without a possible effect, or with another output than the action's, and no action after its undo.
///
/// It plays the participants as they should be: idempotent under the key, and refusing older epochs. Run it while tokio's time is paused.
pub struct Suite<In, Out> {
    make: Box<dyn Fn() -> (Definition<In, Out>, In) + Send + Sync>,
    store: Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>,
    signals: Vec<(Arc<str>, Json)>,
    check: Box<Check>,
}

impl<In: Serialize + Send + 'static, Out: Send + 'static> Suite<In, Out> {
    /// `make` makes the definition and an input, anew for each story: with participants that live in memory.
    pub fn new(make: impl Fn() -> (Definition<In, Out>, In) + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            store: Box::new(|| Arc::new(MemoryStore::new())),
            signals: Vec::new(),
            check: Box::new(|_| {}),
        }
    }

    /// Plays on stores that this makes, each empty. Default: [`MemoryStore`].
    #[must_use]
    pub fn on(mut self, store: impl Fn() -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        self.store = Box::new(store);
        self
    }

    /// Sends this signal to each saga.
    ///
    /// # Panics
    ///
    /// If the payload has no JSON form.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test kit: the test is wrong")]
    pub fn signal<T: Serialize>(mut self, name: &str, payload: &T) -> Self {
        let payload = Json::encode(payload).expect("the payload has a JSON form");
        self.signals.push((name.into(), payload));
        self
    }

    /// Checks further what holds when a saga has settled, such as that the books balance.
    #[must_use]
    pub fn also(mut self, check: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Plays all stories, and tells how many there were.
    ///
    /// # Panics
    ///
    /// When a story ends as none may; it has told on standard error which one it is.
    #[expect(clippy::print_stderr, reason = "a test kit tells which story failed")]
    pub async fn run(&self) -> u64 {
        let mut played = 0;
        for script in self.scripts() {
            let telling = Telling(format!("story: {script:?}"));
            self.play(&script, None).await;
            drop(telling);
            played += 1;
            for fault in FAULTS {
                for write in 1.. {
                    let telling = Telling(format!("story: {script:?}, {fault:?} at write {write}"));
                    let reached = self.play(&script, Some((write, fault))).await;
                    drop(telling);
                    if !reached {
                        break;
                    }
                    played += 1;
                }
            }
        }
        eprintln!("{played} stories of {:?}", (self.make)().0.name());
        played
    }

    /// Plays one story; whether it came to the fault.
    async fn play(&self, script: &Script, fault: Option<(u64, Fault)>) -> bool {
        let (definition, input) = (self.make)();
        let cast = Cast { signals: self.signals.clone(), store: (self.store)() };
        let stage = Stage::new(script.clone(), definition, cast);
        stage.play(input, fault, &*self.check).await
    }

    fn scripts(&self) -> Vec<Script> {
        let shape = (self.make)().0.shape().clone();
        let calls = |place: &usize| !shape.steps[*place].kind.waits();
        let steps: Vec<usize> = (0..shape.steps.len()).filter(calls).collect();
        let mut scripts = vec![Script::default()];
        for &step in &steps {
            scripts.extend(ACTS.map(|act| Script { act: Some((step, act)), undo: None }));
            let certain = shape.steps[step].kind == StepKind::Certain;
            for &undone in steps.iter().filter(|undone| shape.steps[**undone].undo && !certain) {
                for act in [Act::Rejected, Act::Unknown(Times::Always)] {
                    let undos = [Undo::Unknown, Undo::Panic, Undo::Fails];
                    let with = |undo| Script { act: Some((step, act)), undo: Some((undone, undo)) };
                    scripts.extend(undos.map(with));
                }
            }
        }
        scripts
    }
}

/// Says which story it was that panics.
struct Telling(String);

impl Drop for Telling {
    #[expect(clippy::print_stderr, reason = "a test kit tells which story failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl<In, Out> fmt::Debug for Suite<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("signals", &self.signals).finish_non_exhaustive()
    }
}
