//! How it all ends, and in which order.

use std::time::Duration;

use gusset_sidecar::telemetry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::ends;

use super::{app::Registering, command::Supervised, door::Served, options::Sidecar};

/// What the end keeps for the command, of a limit that is long enough.
const FOR_THE_COMMAND: Duration = Duration::from_secs(5);

/// All that has to be brought to an end, in this order.
pub(super) struct Ends {
    pub(super) says_draining: watch::Sender<bool>,
    pub(super) registering: Registering,
    pub(super) inbound: Served,
    pub(super) command: Option<Supervised>,
    pub(super) outbound: Served,
    pub(super) store: telemetry::Store,
    /// As long as there is anything to be asked for.
    pub(super) admin: Served,
}

enum Cause {
    Asked,
    /// The command has ended, with this code.
    Left(u8),
    Broken(String),
}

impl Ends {
    pub(super) async fn wait(
        mut self,
        mut signals: ends::Ends,
        mut stopped: mpsc::Receiver<()>,
        options: &Sidecar,
    ) -> Result<u8, String> {
        let cause = tokio::select! {
            () = signals.next() => Cause::Asked,
            Some(()) = stopped.recv() => Cause::Asked,
            code = ended(&mut self.command) => Cause::Left(code),
            error = broken(&mut self.inbound.task) => Cause::Broken(error),
            error = broken(&mut self.outbound.task) => Cause::Broken(error),
            error = broken(&mut self.admin.task) => Cause::Broken(error),
        };
        let mut command = self.command.take();
        tokio::select! {
            code = self.end(cause, &mut command, options) => code,
            () = signals.next() => {
                tracing::warn!("ends at once");
                match &mut command {
                    Some(command) => Ok(command.end(Duration::ZERO).await),
                    None => Ok(1),
                }
            }
        }
    }

    async fn end(
        mut self,
        cause: Cause,
        command: &mut Option<Supervised>,
        options: &Sidecar,
    ) -> Result<u8, String> {
        let limit = options.drain_limit;
        let until = Instant::now() + limit;
        let requests_until = until - FOR_THE_COMMAND.min(limit / 4);
        self.says_draining.send_replace(true);
        let grace = match &cause {
            Cause::Asked => options.grace,
            // Nobody is there to answer callers who do not know yet.
            Cause::Left(_) | Cause::Broken(_) => Duration::ZERO,
        };
        tracing::info!("leaving");
        if timeout_at(requests_until, self.registering.leave(grace)).await.is_err() {
            tracing::warn!("the registry was not told in time");
        }
        let mut whole = self.inbound.drain(requests_until).await;
        let code = match (&cause, command) {
            (Cause::Left(code), _) => Some(*code),
            (_, Some(command)) => Some(command.end(until - Instant::now()).await),
            (_, None) => None,
        };
        whole &= self.outbound.drain(until).await;
        self.store.close();
        match (cause, code) {
            (Cause::Broken(error), _) => Err(error),
            (_, Some(code)) => Ok(code),
            (_, None) => Ok(u8::from(!whole)),
        }
    }
}

/// Never without a command.
async fn ended(command: &mut Option<Supervised>) -> u8 {
    match command {
        Some(command) => command.ended().await,
        None => std::future::pending().await,
    }
}

/// Why a server ended that nobody has ended.
async fn broken(task: &mut JoinHandle<Result<(), String>>) -> String {
    match task.await {
        Ok(Err(error)) => error,
        _ => "a server has ended".into(),
    }
}
