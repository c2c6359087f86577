//! The command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use lexopt::prelude::*;

use super::{Asked, Environment, Sidecar, draft::Draft};

/// Reads what stands behind `sidecar`, and the file that it names; none if help is wanted. The command line wins over the environment, that over the file.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    environment: Environment,
) -> Result<Option<Asked>, lexopt::Error> {
    let mut given = Given::default();
    loop {
        // All that stands behind -- is the command's, also what looks like an option.
        if let Some(mut raw) = args.try_raw_args() {
            if raw.peek().is_some_and(|arg| arg == "--") {
                raw.next();
                given.command = raw.collect();
                if given.command.is_empty() {
                    return Err("there is no command behind --".into());
                }
                break;
            }
        }
        match args.next()? {
            None => break,
            Some(Long("help") | Short('h')) => return Ok(None),
            Some(Long("schema")) => return Ok(Some(Asked::Schema)),
            Some(Long("check")) => given.check = true,
            Some(Long("proxy-env")) => given.proxy = true,
            Some(Long("config") | Short('c')) => given.config = Some(args.value()?.into()),
            Some(Long(name)) => {
                let name = name.to_owned();
                let Some(name) = OPTIONS.iter().find(|known| **known == name) else {
                    return Err(format!("invalid option '--{name}'").into());
                };
                let missing = |_| format!("missing argument for option '--{name}'");
                given.values.push((name, args.value().map_err(missing)?));
            }
            Some(other) => return Err(other.unexpected()),
        }
    }
    let again = Again { given, environment };
    let sidecar = Box::new(again.resolve()?.0);
    Ok(Some(if again.given.check {
        Asked::Check(sidecar)
    } else {
        Asked::Run(sidecar, Box::new(again))
    }))
}

/// Those with a value.
const OPTIONS: [&str; 36] = [
    "access-log",
    "admin",
    "admin-token",
    "advertise",
    "allow",
    "app",
    "app-http",
    "app-version",
    "ca",
    "circuit-open",
    "cores",
    "drain-limit",
    "grace",
    "health",
    "id",
    "in-flight",
    "listen",
    "log",
    "meta",
    "mtls-ca",
    "mtls-cert",
    "mtls-key",
    "otlp",
    "otlp-ca",
    "outbound",
    "quota",
    "quota-burst",
    "quota-by",
    "registry",
    "service",
    "tag",
    "timeout",
    "token",
    "trust-domain",
    "ttl",
    "zone",
];

/// What stands on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    config: Option<PathBuf>,
    check: bool,
    proxy: bool,
    values: Vec<(&'static str, OsString)>,
    command: Vec<OsString>,
}

/// What reads it all once more: the file may have changed, the command line and the environment have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    given: Given,
    environment: Environment,
}

impl Again {
    /// The file, if there is one.
    pub(in crate::sidecar) fn file(&self) -> Option<&Path> {
        self.given.config.as_deref()
    }

    /// All of it as it is now, and the files beside that one whose changes are changes of it.
    pub(in crate::sidecar) fn read(&self) -> Result<(Sidecar, Vec<PathBuf>), String> {
        self.resolve().map_err(|error| error.to_string())
    }

    fn resolve(&self) -> Result<(Sidecar, Vec<PathBuf>), lexopt::Error> {
        let given = &self.given;
        let mut draft = Draft::default();
        let files = match &given.config {
            Some(file) => draft.file(file)?,
            None => Vec::new(),
        };
        draft.environment(self.environment.clone());
        for (name, value) in &given.values {
            draft.option(name, value.clone())?;
        }
        draft.sidecar.proxy |= given.proxy;
        if !given.command.is_empty() {
            draft.sidecar.command.clone_from(&given.command);
        }
        Ok((draft.finish()?, files))
    }
}
