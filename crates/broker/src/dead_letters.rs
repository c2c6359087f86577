use std::{fmt, future::IntoFuture, num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    DeadLetter, DeadLetterId, Error, Filter,
    engine::{BoxFuture, Engine},
};

/// The messages that were given up, for an operator to look at, to redrive or to purge. Clones and the broker share them.
///
/// # Memory
///
/// At most [`Limits::dead_letters`](crate::Limits::dead_letters) records of together
/// [`Limits::dead_letter_bytes`](crate::Limits::dead_letter_bytes). At the bound the oldest make room, or the next is refused and its message stays
/// in its group, by [`WhenLettersFull`](crate::WhenLettersFull).
///
/// # Pages
///
/// Ids grow and are never given twice, so who pages by the last id sees nothing twice, and everything that was there throughout, whatever is buried, redriven or
/// purged meanwhile.
///
/// # Cancellation
///
/// A redrive or purge that is dropped may have happened, in whole or in part; doing it again does nothing twice.
#[derive(Clone, Debug)]
pub struct DeadLetters(Arc<dyn Engine>);

impl DeadLetters {
    pub(crate) const fn new(engine: Arc<dyn Engine>) -> Self {
        Self(engine)
    }

    /// Up to `limit` records, oldest first, of those younger than `after`: pass the last id of one page to get the next.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], from engines outside of this process.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<Arc<DeadLetter>>, Error> {
        self.0.dead_letters().list(filter.clone(), after, limit).await
    }

    /// The record with this id.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], from engines outside of this process.
    pub async fn get(&self, id: DeadLetterId) -> Result<Option<Arc<DeadLetter>>, Error> {
        self.0.dead_letters().get(id).await
    }

    /// Gives one back to the group that could not handle it, and to no other, behind what is ready there. It keeps its
    /// message id; its attempts are counted anew.
    ///
    /// # Errors
    ///
    /// It stays a dead letter, and this returns [`Error::NoSuchDeadLetter`], [`Error::NoSuchGroup`] if the group is gone,
    /// [`Error::Full`] if it has no room (redriving never waits and never drops another message),
    /// [`Error::RedrivenTooOften`] after [`Limits::redrives`](crate::Limits::redrives) times, [`Error::Closed`], [`Error::Engine`]: after that one it may have
    /// gone back all the same, where the answer of the disk or the server was lost.
    pub async fn redrive(&self, id: DeadLetterId) -> Result<(), Error> {
        let letter = self.get(id).await?.ok_or(Error::NoSuchDeadLetter)?;
        self.may_live_again(&letter)?;
        self.give_back(&letter).await
    }

    /// [`redrive`](Self::redrive) for each that matches and is a dead letter when this is awaited, oldest first.
    ///
    /// ```
    /// # use gusset_broker::{Broker, Filter};
    /// # use std::num::NonZeroU32;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let letters = Broker::new().dead_letters();
    /// let mails = Filter::all().group("mails");
    /// println!("{} would go back", letters.redrive_all(&mails).dry_run().await?.redriven);
    /// let ten = NonZeroU32::new(10).unwrap();
    /// println!("{} are back", letters.redrive_all(&mails).per_second(ten).await?.redriven);
    /// # Ok::<(), gusset_broker::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn redrive_all(&self, filter: &Filter) -> Redrive {
        Redrive { letters: self.clone(), filter: filter.clone(), rate: None, dry: false }
    }

    /// Deletes what matches; how many that were.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], from engines outside of this process.
    pub async fn purge(&self, filter: &Filter) -> Result<usize, Error> {
        let count = self.0.dead_letters().purge(filter.clone()).await?;
        tracing::info!(count, "dead letters purged");
        Ok(count)
    }

    async fn give_back(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.0.dead_letters().redrive(letter.id).await?;
        let (group, id) = (&*letter.group, letter.message.id());
        tracing::info!(letter = %letter.id, group, %id, "dead letter redriven");
        Ok(())
    }

    fn may_live_again(&self, letter: &DeadLetter) -> Result<(), Error> {
        if letter.redrives >= self.0.dead_letters().max_redrives() {
            return Err(Error::RedrivenTooOften(letter.redrives));
        }
        Ok(())
    }
}

/// A redrive of many. From [`DeadLetters::redrive_all`]; awaiting it does it.
///
/// # Cancellation
///
/// Dropped, it leaves what it has not come to a dead letter.
///
/// # Errors
///
/// [`Error::Engine`] if the dead letters cannot be read. One that cannot go back is counted and ends nothing.
#[derive(Clone)]
#[must_use = "nothing is redriven until this is awaited"]
pub struct Redrive {
    letters: DeadLetters,
    filter: Filter,
    rate: Option<NonZeroU32>,
    dry: bool,
}

/// What became of [`DeadLetters::redrive_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Given back to their groups; in a dry run, those that it would try to.
    pub redriven: usize,
    /// Still dead letters: the group is full or gone, or they were redriven too often. [`DeadLetters::redrive`] tells
    /// for each.
    pub kept: usize,
}

impl Redrive {
    /// At most so many a second, evenly spread, so that what failed under load does not come back as one. Default: as fast as it goes.
    pub const fn per_second(mut self, letters: NonZeroU32) -> Self {
        self.rate = Some(letters);
        self
    }

    /// Only counts, and changes nothing.
    pub const fn dry_run(mut self) -> Self {
        self.dry = true;
        self
    }

    async fn run(self) -> Result<Redriven, Error> {
        /// Records that are held at once.
        const PAGE: usize = 256;
        let (mut result, mut after) = (Redriven::default(), None);
        // What dies again meanwhile is left alone, or this might never end.
        let Some(newest) = self.letters.0.dead_letters().newest().await? else {
            return Ok(result);
        };
        let mut pace = self.rate.map(|rate| {
            let mut pace = interval(Duration::from_secs(1) / rate.get());
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        loop {
            let page = self.letters.list(&self.filter, after, PAGE).await?;
            let Some(last) = page.last().filter(|_| after.is_none_or(|after| after < newest))
            else {
                return Ok(result);
            };
            after = Some(last.id);
            for letter in page.iter().filter(|letter| letter.id <= newest) {
                if let Some(pace) = pace.as_mut().filter(|_| !self.dry) {
                    pace.tick().await;
                }
                match self.one(letter).await {
                    Ok(()) => result.redriven += 1,
                    // Somebody else was quicker.
                    Err(Error::NoSuchDeadLetter) => {}
                    Err(_) => result.kept += 1,
                }
            }
        }
    }

    async fn one(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.letters.may_live_again(letter)?;
        if self.dry { Ok(()) } else { self.letters.give_back(letter).await }
    }
}

impl IntoFuture for Redrive {
    type Output = Result<Redriven, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Redrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive")
            .field("filter", &self.filter)
            .field("rate", &self.rate)
            .field("dry", &self.dry)
            .finish_non_exhaustive()
    }
}
