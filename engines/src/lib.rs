//! Real servers and processes for tests: what happens when they are killed, paused and started again is what callers meet in production.
//!
//! ```no_run
//! let mut nats = gusset_engines::Nats::start();
//! println!("{}", nats.url());
//! nats.pause();
//! nats.resume();
//! // `kill -9`, and again at the same address with what is on its disk.
//! nats.restart();
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Process`] | a program in a folder of its own, with its output kept; ended, with all that it started, when the value or the process of the test ends |
//! | [`Nats`], [`Redis`], [`Etcd`], [`Postgres`] | processes of these servers, ready for use on addresses that nobody else gets |
//! | [`Folder`] | a folder for as long as the value lives |
//! | [`Port`] | a free port, for as long as the value lives |
//! | [`Proxy`] | between a client and a server: cut, slow, or open in one direction only |
//! | [`pause`], [`resume`], [`signal`] | for a process of another kind |
//! | [`holds`] | a target of the folder `fuzz` for all that its corpus has, and for changes of it |
//!
//! All calls block. A function here panics where it cannot do what it says, and shows what the process wrote: a test that goes on without its
//! server proves nothing.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod corpus;
mod folder;
mod port;
mod process;
mod proxy;
mod signal;

mod etcd;
mod nats;
mod postgres;
mod redis;

use std::{
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

pub use corpus::{Chance, holds};
pub use etcd::Etcd;
pub use folder::Folder;
pub use nats::Nats;
pub use port::Port;
pub use postgres::Postgres;
pub use process::{Process, again};
pub use proxy::{Faults, Proxy};
pub use redis::Redis;
pub use signal::{pause, resume, signal};

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be run, or fails; with what it has written.
pub fn run(command: &mut Command) -> Output {
    let done = command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?} ({error}); ./test installs what tests need")
    });
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done
}

/// Whether this process may do what only root may.
///
/// # Panics
/// If nobody says who runs it.
#[must_use]
pub fn is_root() -> bool {
    run(Command::new("id").arg("-u")).stdout.trim_ascii() == b"0"
}

/// How long anything may take: longer than a machine needs that is merely busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether it becomes so while there is patience.
fn comes_true(mut is_so: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if is_so() {
            return true;
        }
        thread::park_timeout(Duration::from_millis(2));
    }
    false
}

/// A server is its process, which can be killed and started again, and an address.
macro_rules! is_a_process {
    ($server:ident) => {
        impl std::ops::Deref for $server {
            type Target = crate::Process;

            fn deref(&self) -> &Self::Target {
                &self.process
            }
        }

        impl std::ops::DerefMut for $server {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.process
            }
        }
    };
}
pub(crate) use is_a_process;
