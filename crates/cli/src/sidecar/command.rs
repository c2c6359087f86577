//! The program that the sidecar starts and looks after.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Comes, SignalKind, signal},
    time::timeout,
};

/// Handed on as they come. Those that end a program are not among them: the sidecar drains first.
const PASSED_ON: [(SignalKind, Signal); 5] = [
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
];

/// A program and all that it has started, unless that left its group of processes.
///
/// It has a group of its own, so that Ctrl-C in a terminal reaches the sidecar alone, which ends things in their order. It is not started
/// again when it ends: the sidecar ends as well, and whoever started that knows how often and how soon.
///
/// Dropping it kills the program.
pub(super) struct Supervised {
    child: Child,
    group: Option<Pid>,
    passing: Option<tokio::task::JoinHandle<()>>,
}

impl Supervised {
    /// Starts `command`, with these variables beside those of the sidecar.
    pub(super) fn start(
        command: &[OsString],
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, String> {
        let Some((program, arguments)) = command.split_first() else {
            return Err("there is no command behind --".into());
        };
        // Before it is there: a signal that comes when somebody knows that it runs would end the sidecar.
        let signals = PASSED_ON.map(|(kind, passed)| Some((signal(kind).ok()?, passed)));
        let child = Command::new(program)
            .args(arguments)
            .envs(variables)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {program:?}: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let passing = group.map(|group| tokio::spawn(pass_on(group, signals)));
        Ok(Self { child, group, passing })
    }

    /// Waits until it has ended by itself. The number is what the sidecar ends with.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(super) async fn ended(&mut self) -> u8 {
        exit_code(self.child.wait().await)
    }

    /// Asks it to end (SIGTERM), and kills it after `limit`.
    pub(super) async fn end(&mut self, limit: Duration) -> u8 {
        self.send(Signal::TERM);
        match timeout(limit, self.child.wait()).await {
            Ok(ended) => exit_code(ended),
            Err(_) => {
                tracing::warn!(?limit, "the command does not end and is killed");
                self.send(Signal::KILL);
                exit_code(self.child.wait().await)
            }
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It fails when the last of them has ended, and then there is nobody to tell.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Some(passing) = &self.passing {
            passing.abort();
        }
        // Also what the program leaves behind: nobody looks after that any more.
        self.send(Signal::KILL);
    }
}

async fn pass_on(group: Pid, signals: [Option<(Comes, Signal)>; PASSED_ON.len()]) {
    let mut waiting = tokio::task::JoinSet::new();
    for (mut comes, passed) in signals.into_iter().flatten() {
        waiting.spawn(async move {
            while comes.recv().await.is_some() {
                let _ = kill_process_group(group, passed);
            }
        });
    }
    while waiting.join_next().await.is_some() {}
}

/// As a shell says it: the program's own, or 128 and the number of the signal that ended it.
fn exit_code(ended: io::Result<ExitStatus>) -> u8 {
    let code = ended.ok().and_then(|status| status.code().or(status.signal().map(|n| 128 + n)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_that_of_a_shell() {
        for (raw, code) in [(0, 0), (7 << 8, 7), (15, 143), (9, 137)] {
            assert_eq!(exit_code(Ok(ExitStatus::from_raw(raw))), code);
        }
        assert_eq!(exit_code(Err(io::Error::other("gone"))), 1);
    }
}
