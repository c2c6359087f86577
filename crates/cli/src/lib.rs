//! What the binary of the family does: `gusset registry`, `gusset gateway`, `gusset sidecar`, `gusset console`, `gusset deadletters`, `gusset saga`, `gusset health`.
//!
//! A program that wants one of them beside itself, without another binary to be found and kept at the same version, starts itself once more, and calls
//! [`run`] there:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     let mut arguments = std::env::args_os().skip(1).peekable();
//!     if arguments.peek().is_some_and(|first| first == "sidecar") {
//!         return gusset_cli::run(arguments);
//!     }
//!     std::process::ExitCode::SUCCESS
//! }
//! ```
//!
//! The crate's features say which of the commands there are.

#[cfg(feature = "console")]
mod console;
#[cfg(any(feature = "file", feature = "nats"))]
mod deadletters;
mod ends;
#[cfg(feature = "gateway")]
mod gateway;
mod health;
mod log;
mod options;
mod registry;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod saga;
mod serve;
#[cfg(feature = "sidecar")]
mod sidecar;
#[cfg(any(feature = "file", feature = "nats", feature = "sqlite", feature = "postgres"))]
mod text;
mod tls;

use std::{
    ffi::OsString,
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use options::Command;

/// Does what `gusset` does with these arguments, those behind its own name; for a process that does nothing else: it takes signals and the standard output
/// and error for itself. Blocks until that is over.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let token = std::env::var("GUSSET_TOKEN").ok();
    let mut arguments = arguments.into_iter().peekable();
    let page = page(arguments.peek());
    match Command::parse(arguments, token) {
        Ok(Command::Help(text)) => {
            say(text);
            ExitCode::SUCCESS
        }
        Ok(Command::Registry(options)) => {
            finish(log::begin().and_then(|()| registry::run(options)))
        }
        #[cfg(feature = "gateway")]
        Ok(Command::Gateway(asked)) => finish(gateway::run(&asked)),
        #[cfg(feature = "sidecar")]
        Ok(Command::Sidecar(asked)) => match sidecar::run(asked) {
            Ok(code) => ExitCode::from(code),
            Err(error) => finish(Err(error)),
        },
        Ok(Command::Health(asked)) => match health::run(&asked) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        },
        #[cfg(feature = "console")]
        Ok(Command::Console(asked)) => finish(log::begin().and_then(|()| console::run(*asked))),
        #[cfg(any(feature = "file", feature = "nats"))]
        Ok(Command::DeadLetters(asked)) => match deadletters::run(&asked) {
            Ok(false) => ExitCode::from(1),
            result => finish(result.map(drop)),
        },
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        Ok(Command::Saga(asked)) => match saga::run(*asked) {
            Ok(false) => ExitCode::from(1),
            result => finish(result.map(drop)),
        },
        Err(error) => finish(Err(format!("{error}; see {page}"))),
    }
}

/// What tells the options of the command that is meant.
fn page(command: Option<&OsString>) -> String {
    const COMMANDS: [&str; 7] =
        ["console", "deadletters", "gateway", "health", "registry", "saga", "sidecar"];
    let known = COMMANDS.into_iter().find(|known| command.is_some_and(|asked| asked == known));
    known.map_or_else(|| "gusset --help".into(), |known| format!("gusset {known} --help"))
}

/// 2 says that it could not start.
fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) {
    // Whoever closes the pipe has read enough.
    let _ = stdout().write_all(text.as_bytes());
}

fn complain(what: &str) {
    let _ = writeln!(stderr(), "gusset: {what}");
}
