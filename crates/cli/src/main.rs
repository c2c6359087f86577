//! The binary of the family: `gusset registry`, `gusset gateway`, `gusset sidecar`, `gusset console`, `gusset deadletters`, `gusset saga`, `gusset health`.

#[cfg(feature = "console")]
mod console;
#[cfg(any(feature = "file", feature = "nats"))]
mod deadletters;
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
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use options::Command;

fn main() -> ExitCode {
    let token = std::env::var("GUSSET_TOKEN").ok();
    match Command::parse(std::env::args_os().skip(1), token) {
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
        Err(error) => finish(Err(format!("{error}; see gusset --help"))),
    }
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
