//! Real processes for tests: what happens when they are killed, paused and started again is what callers meet in production.
//!
//! ```
//! let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
//! gusset_engines::pause(child.id());
//! // Nothing in it runs.
//! gusset_engines::resume(child.id());
//! # child.kill()?;
//! # child.wait()?;
//! # Ok::<_, std::io::Error>(())
//! ```
//!
//! A function here panics where it cannot do what it says: a test that goes on without its server proves nothing.

#![allow(clippy::panic, reason = "a test that cannot go on shall fail")]

mod signal;

pub use signal::{pause, resume, signal};
