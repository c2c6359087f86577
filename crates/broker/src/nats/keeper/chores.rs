//! What is done to its end, whoever began it.

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use crate::nats::link::Link;

/// What is done to its end even if nobody waits for it. As many as there were deliveries out, so the line needs no bound.
pub(crate) enum Chore {
    Do(BoxFuture<'static, ()>),
    /// Says when all before are done.
    Tell(oneshot::Sender<()>),
}

/// Does the chores, until nobody is left who could have more.
pub(crate) async fn do_chores(link: Link, mut chores: mpsc::UnboundedReceiver<Chore>) {
    let mut doing = FuturesUnordered::new();
    loop {
        tokio::select! {
            chore = chores.recv() => match chore {
                Some(Chore::Do(chore)) => doing.push(chore),
                Some(Chore::Tell(who)) => {
                    while doing.next().await.is_some() {}
                    let _ = who.send(());
                }
                None => break,
            },
            Some(()) = doing.next(), if !doing.is_empty() => {}
        }
    }
    while doing.next().await.is_some() {}
    // The client drops what it has not sent when the last handle on it goes, and this may be the last.
    let _ = link.round_trip(link.patience()).await;
}
