//! `gusset registry` as a process of its own.

use std::process::Command;

use gusset_engines::Process;

pub(crate) struct Registry {
    #[allow(dead_code, reason = "most only need it to live")]
    pub(crate) process: Process,
    /// Host and port.
    pub(crate) address: String,
}

impl Registry {
    #[allow(dead_code, reason = "not where it has to come back at its address")]
    /// On a port that the system chooses.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::at("127.0.0.1:0", args)
    }

    pub(crate) fn at(listen: &str, args: &[&str]) -> Self {
        let mut command = gusset();
        command.args(["registry", "--listen", listen]).args(args);
        let mut process = Process::started("gusset", command);
        let said = process.says("://");
        let address = said["://".len()..].split(';').next().unwrap_or_default().to_owned();
        Self { process, address }
    }
}

pub(crate) fn gusset() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
    command.env_remove("GUSSET_TOKEN");
    command
}
