//! A file that changes while the sidecar runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gusset_gateway::config::{Changes, Stamps};
use gusset_sidecar::telemetry::Filter;
use tokio::{signal::unix::Signal, time::sleep};

use super::{
    directives,
    options::{Again, Sidecar},
    proxy::Proxy,
};

/// How often the files are looked at for changes.
const LOOK: Duration = Duration::from_secs(1);

/// Takes over what the file says now, all of it or, if anything is wrong, nothing. Clones are one.
///
/// In force at once are `timeout`, `in_flight`, `quota`, `access_log`, `log` and whom `mtls` allows; requests under way go on under what they began with. All else needs a restart, and
/// stays as it was until then.
#[derive(Clone)]
pub(super) struct Reloading(Arc<Shared>);

struct Shared {
    again: Again,
    /// As it was started.
    first: Sidecar,
    proxy: Proxy,
    filter: Filter,
    /// Held while it is reloaded: one after the other.
    turn: Mutex<Turn>,
    told: Mutex<Told>,
}

struct Turn {
    /// Beside the one that is named on the command line.
    files: Vec<PathBuf>,
    /// None before the first look.
    changes: Option<Changes>,
    /// The filter of logs that was asked for last: an operator may have set another one meanwhile.
    log: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) reloads: u64,
    /// What is wrong with what was read last.
    pub(super) error: Option<String>,
    /// What has changed and is not in force before a restart.
    pub(super) needs_restart: Vec<&'static str>,
}

impl Reloading {
    /// `None` if there is no file.
    pub(super) fn new(again: Again, first: Sidecar, proxy: Proxy, filter: Filter) -> Option<Self> {
        again.file()?;
        // It may have changed since it was read for the start: then the first look finds that it says the same.
        let (files, log) = (Vec::new(), first.log.clone());
        let turn = Mutex::new(Turn { files, changes: None, log });
        let told = Mutex::default();
        Some(Self(Arc::new(Shared { again, first, proxy, filter, turn, told })))
    }

    /// What became of it, and with it what `show` makes of the settings in force: of the same moment.
    pub(super) fn shown<T>(&self, show: impl FnOnce(&Sidecar) -> T) -> (T, Told) {
        let told = self.told();
        (show(&self.0.proxy.options()), told.clone())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it, changed or not. It blocks.
    pub(super) fn reload(&self) -> Result<Told, String> {
        self.reload_in_turn(&mut self.turn())
    }

    /// Reloads with each signal, and when a file has changed and did not change again within a second. Never ends.
    pub(super) async fn follow(self, mut hang_up: Signal) {
        loop {
            let look = tokio::select! {
                Some(()) = hang_up.recv() => false,
                () = sleep(LOOK) => true,
            };
            let this = self.clone();
            // It tells the log what came of it.
            let _ = tokio::task::spawn_blocking(move || {
                if look {
                    this.look();
                } else {
                    let _ = this.reload();
                }
            })
            .await;
        }
    }

    fn look(&self) {
        let mut turn = self.turn();
        let stamps = self.stamp().and(&turn.files);
        match &mut turn.changes {
            None => self.begin(&mut turn),
            Some(changes) => {
                if changes.are_settled(stamps) {
                    let _ = self.reload_in_turn(&mut turn);
                }
            }
        }
    }

    /// The first look, which finds out whether the file still says what the start has read.
    fn begin(&self, turn: &mut Turn) {
        let before = self.stamp();
        // Where it says something else, no file is known yet, so the next looks see a change.
        let changes = turn.changes.insert(Changes::default());
        match self.0.again.read() {
            Ok((read, files)) if read == self.0.first => {
                changes.read(before.and(&files));
                turn.files = files;
            }
            _ => {}
        }
    }

    fn reload_in_turn(&self, turn: &mut Turn) -> Result<Told, String> {
        // Before it is read: what is written meanwhile is another change.
        let before = self.stamp();
        turn.changes.get_or_insert_default().read(before.clone().and(&turn.files));
        let done = self.take_over(turn, before);
        match &done {
            Ok(Told { reloads, needs_restart, .. }) => {
                tracing::info!(reloads, "the configuration is in force");
                for setting in needs_restart {
                    tracing::warn!(setting, "what has changed here needs a restart");
                }
            }
            Err(error) => {
                tracing::warn!(error, "the old configuration stays");
                self.told().error = Some(error.clone());
            }
        }
        done
    }

    fn take_over(&self, turn: &mut Turn, before: Stamps) -> Result<Told, String> {
        let Shared { again, first, proxy, filter, .. } = &*self.0;
        let (later, files) = again.read()?;
        let now = in_force(first, &later);
        let ways = proxy.prepare(&now)?;
        // The last that can fail.
        if later.log != turn.log {
            let directives = directives(later.log.as_deref());
            filter.set(&directives).map_err(|error| error.to_string())?;
            turn.log.clone_from(&later.log);
        }
        turn.changes.get_or_insert_default().read(before.and(&files));
        turn.files = files;
        let needs_restart = unlike(&now, &later);
        // Whoever looks sees both of them as they were, or both as they are.
        let mut told = self.told();
        proxy.swap(ways);
        *told = Told { reloads: told.reloads + 1, error: None, needs_restart };
        Ok(told.clone())
    }

    /// Of the file that is named on the command line.
    fn stamp(&self) -> Stamps {
        Stamps::of(self.0.again.file())
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of `later` is in force without a restart; all else is as it was.
fn in_force(first: &Sidecar, later: &Sidecar) -> Sidecar {
    let mut now = first.clone();
    now.timeout = later.timeout;
    now.in_flight = later.in_flight;
    now.quota.clone_from(&later.quota);
    now.access_log.clone_from(&later.access_log);
    now.log.clone_from(&later.log);
    if let (Some(now), Some(later)) = (&mut now.mesh, &later.mesh) {
        now.allow.clone_from(&later.allow);
    }
    now
}

/// The settings in which they differ, as the file names them.
fn unlike(now: &Sidecar, later: &Sidecar) -> Vec<&'static str> {
    let of_registry = |of: &Sidecar| (of.registry.clone(), of.token.clone(), of.authority.clone());
    let differ = [
        ("service", now.service != later.service),
        ("app", now.app != later.app),
        ("app_http", now.app_http != later.app_http),
        ("health", now.health != later.health),
        ("command", now.command != later.command),
        ("proxy_env", now.proxy != later.proxy),
        ("listen", now.listen != later.listen),
        ("outbound", now.outbound != later.outbound),
        ("cores", now.cores != later.cores),
        ("ttl", now.ttl != later.ttl),
        ("circuit_open", now.open_for != later.open_for),
        ("grace", now.grace != later.grace),
        ("drain_limit", now.drain_limit != later.drain_limit),
        ("otlp", now.otlp != later.otlp),
        ("registry", of_registry(now) != of_registry(later)),
        ("admin", (now.admin, &now.admin_token) != (later.admin, &later.admin_token)),
        ("instance", (&now.advertise, &now.labels) != (&later.advertise, &later.labels)),
        ("mtls", now.mesh != later.mesh),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::sidecar::{Asked, Environment, parse};

    fn sidecar(more: &[&str]) -> Sidecar {
        let least = ["--service", "cart", "--app", "127.0.0.1:9", "--registry", "http://r"];
        let args = least.iter().chain(more).map(OsString::from);
        let mut args = lexopt::Parser::from_args(args);
        match parse(&mut args, Environment::default()) {
            Ok(Some(Asked::Run(sidecar, _))) => *sidecar,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_in_force_before_a_restart_is_named() {
        let mesh = ["--trust-domain", "a", "--mtls-ca", "a", "--mtls-cert", "b", "--mtls-key", "c"];
        let first = sidecar(&mesh);
        for (more, needs) in [
            (
                &["--timeout", "1s", "--in-flight", "7", "--quota", "1/s", "--log", "warn"][..],
                &[][..],
            ),
            (&["--access-log", "-", "--allow", "shop"], &[]),
            (&["--grace", "7s", "--token", "t", "--zone", "b"], &["grace", "registry", "instance"]),
            (&["--mtls-cert", "d", "--admin", "127.0.0.1:1"], &["admin", "mtls"]),
            (&["--ttl", "7s", "--circuit-open", "7s"], &["ttl", "circuit_open"]),
            (&["--otlp", "http://o", "--", "sh"], &["command", "otlp"]),
        ] {
            let later = sidecar(&[&mesh[..], more].concat());
            let now = in_force(&first, &later);
            assert_eq!(unlike(&now, &later), needs, "{more:?}");
            assert_eq!(now == first, !needs.is_empty(), "{more:?}");
        }
    }
}
