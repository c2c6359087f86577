//! Questions that stay open until something changes, each over a connection that it holds meanwhile.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    client::{Answer, Ask, Client},
    cursor::{Cursor, Turn},
    failure::Failure,
};

/// What became of a question of a watch.
#[derive(Debug)]
pub(super) enum Polled {
    Answered {
        ask: Ask,
        answer: Answer,
        took: Duration,
        wait: Duration,
        /// [`Client::breaks`].
        breaks: u64,
    },
    Failed(Failure),
    /// It was given up, for others need the connection.
    Crowded,
}

/// One watch, counted as long as it lives.
#[derive(Debug)]
pub(super) struct Follower<'a>(&'a Client);

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.followers.send_modify(|followers| *followers -= 1);
    }
}

/// How long a question stays open while watches take turns.
const TURN: Duration = Duration::from_millis(500);

impl Client {
    /// Counts one more watch, until the guard is dropped.
    pub(super) fn follower(&self) -> Follower<'_> {
        self.followers.send_modify(|followers| *followers += 1);
        Follower(self)
    }

    /// Asks what is new at `path` since the cursor's index, for at most `longest`. It holds a connection meanwhile, and lets go of it when there
    /// are more watches than connections.
    pub(super) async fn poll(&self, path: &str, cursor: &Cursor, longest: Duration) -> Polled {
        let crowded = |followers: &usize| *followers > self.policy.watches;
        let mut followers = self.followers.subscribe();
        let place = match self.watches.place().await {
            Ok(place) => place,
            Err(error) => {
                let ask = Ask::get(path.into());
                return Polled::Failed(self.failure(&ask, "no connection", error));
            }
        };
        let wait = self.policy.wait.mul_f64(rand::random_range(0.8..=1.0)).min(longest);
        let in_turns = crowded(&followers.borrow_and_update());
        let wait = if in_turns { wait.min(TURN) } else { wait }.max(Duration::from_millis(1));
        let ask = Ask::get(match cursor.index() {
            Some(index) => {
                let sign = if path.contains('?') { '&' } else { '?' };
                format!("{path}{sign}index={index}&wait={}ms", wait.as_millis())
            }
            None => path.into(),
        });
        let begin = Instant::now();
        let limit = match cursor.index() {
            // The server adds up to a sixteenth.
            Some(_) => wait + wait / 16 + self.policy.call_within,
            None => self.policy.call_within,
        };
        tokio::select! {
            biased;
            answer = self.within(limit, &ask, self.ask(&place, &ask)) => match answer {
                Ok(answer) => {
                    let (took, breaks) = (begin.elapsed(), self.breaks());
                    Polled::Answered { ask, answer, took, wait, breaks }
                }
                Err(failure) => Polled::Failed(failure),
            },
            _ = followers.wait_for(crowded), if !in_turns => Polled::Crowded,
        }
    }

    /// Takes the index of an answer in: what it means, and the pause before the next question.
    pub(super) fn turn(
        &self,
        cursor: &mut Cursor,
        index: Option<u64>,
        (took, wait): (Duration, Duration),
    ) -> (Turn, Duration) {
        let (turn, pause) = cursor.answered(index, took, wait);
        if turn == Turn::Reset {
            self.meters.resets.fetch_add(1, Relaxed);
        }
        (turn, pause)
    }
}
