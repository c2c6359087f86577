//! When a message is to be delivered, and until when.

use std::time::{Duration, SystemTime};

use gusset_call::Deadline;

use crate::{Headers, Message, wall::wall_clock};

/// When it is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    After(Duration),
    At(SystemTime),
}

impl Message {
    /// Delivered no sooner than `span` after it is published. It takes its place in the groups from the beginning, and counts for their bounds.
    #[must_use]
    pub fn with_delay(mut self, span: Duration) -> Self {
        self.extras().when = Some(When::After(span));
        self
    }

    /// Delivered no sooner than at this time of the wall clock.
    #[must_use]
    pub fn with_delivery_at(mut self, at: SystemTime) -> Self {
        self.extras().when = Some(When::At(at));
        self
    }

    /// Of no use to anybody `span` after it is published; what then becomes of it is the group's [`WhenExpired`](crate::WhenExpired). What is
    /// being handled then is not interrupted.
    #[must_use]
    pub fn with_ttl(mut self, span: Duration) -> Self {
        self.extras().ttl = Some(span);
        self
    }

    /// Nobody waits any more at `deadline` for what comes of it. What is left then travels in [`Headers::DEADLINE`]: handlers have no later
    /// `gusset_call::Context::deadline`, and a message that would be delivered after it is not handed to a handler; it is treated as one whose
    /// [time to live](Self::with_ttl) is over, or dropped and counted as that if it is a request, for whoever asked has gone. What is redriven has no deadline any more.
    ///
    /// Not taken from the context by itself: what has happened stays true after the call that caused it is over.
    ///
    /// ```
    /// use gusset_broker::Message;
    /// use gusset_call::Context;
    ///
    /// let mut task = Message::json("thumbnail.wanted", &7)?;
    /// if let Some(deadline) = Context::current().deadline() {
    ///     task = task.with_deadline(deadline);
    /// }
    /// # Ok::<(), gusset_broker::Error>(())
    /// ```
    ///
    /// Between processes, and after a restart, it is as good as the wall clocks agree.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.extras().deadline = Some(deadline);
        let until = wall_clock().checked_add(deadline.remaining());
        let until = until.and_then(|until| until.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.with_header(Headers::DEADLINE, until.unwrap_or(Duration::MAX).as_millis().to_string())
    }

    /// How long somebody still waits for what comes of it; none if it does not say.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let extras = self.extras.as_ref()?;
        if let Some(deadline) = extras.deadline {
            return Some(deadline.remaining());
        }
        let millis = extras.headers.get(Headers::DEADLINE)?.parse().ok()?;
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))?;
        Some(until.duration_since(wall_clock()).unwrap_or_default())
    }

    /// How long after publishing it is to be delivered; none: at once.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.extras.as_ref()?.when? {
            When::After(span) => Some(span),
            When::At(at) => at.duration_since(self.published_at()).ok(),
        }
    }

    /// How long after publishing it is of no use any more; none: never.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.extras.as_ref()?.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_another_process_is_read_from_its_header() {
        let until =
            |text: String| Message::new("a", "").unwrap().with_header(Headers::DEADLINE, text);
        let now = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let left = until((now + 60_000).to_string()).patience().unwrap();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
        assert_eq!(until((now - 60_000).to_string()).patience(), Some(Duration::ZERO));
        for strange in ["", "soon", "-1", "99999999999999999999999"] {
            assert_eq!(until(strange.to_owned()).patience(), None);
        }
        let here = Message::new("a", "").unwrap().with_deadline(Deadline::after(Duration::MAX));
        assert!(
            until(here.headers().get(Headers::DEADLINE).unwrap().to_owned()).patience().is_some()
        );
    }
}
