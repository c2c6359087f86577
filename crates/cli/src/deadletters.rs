//! `gusset deadletters`.

mod place;
mod text;

use std::{num::NonZeroU32, time::Duration};

use gusset_broker::{DeadLetterId, Filter, Pattern};
use lexopt::prelude::*;

use self::place::{Named, Place};
use crate::text::{say, with_cause};

pub(crate) const HELP: &str = "\
The messages that groups of a broker could not handle.

gusset deadletters list    [OPTIONS]         one a line, the oldest first
gusset deadletters show    ID [OPTIONS]      all there is to know of one
gusset deadletters redrive ID... [OPTIONS]   gives them back to the groups that failed, and to no others
gusset deadletters redrive --all [OPTIONS]   the same for all that are meant
gusset deadletters purge   --all [OPTIONS]   deletes all that are meant

  --dir FOLDER        of a broker that keeps its messages there, and whose program is stopped
  --nats URL          where the broker's NATS server is, nats://[USER:PASSWORD@]HOST[:PORT] [$GUSSET_NATS]
  --namespace NAME    of the broker on NATS [gusset]
  --group NAME        means only those of this group
  --subject PATTERN   means only those with such a subject; * is one token, a last > the rest
  --after ID          list: those behind this one, for the next page
  --limit N           list: so many at most [100]
  --rate N            redrive: so many a second at most
  --dry-run           redrive --all: says how many it would be, and changes nothing
  --help              this text

The exit code is 0, 1 if some were not given back, or 2 if it could not be done.
";

/// The broker at `nats://…`, or in the folder of this name.
#[cfg(feature = "console")]
pub(crate) async fn open(place: &str) -> Result<gusset_broker::Broker, String> {
    let is_nats = place.starts_with("nats://") || place.starts_with("tls://");
    let named = match is_nats {
        true => Named { nats: Some(place.to_owned()), ..Named::default() },
        false => Named { dir: Some(place.into()), ..Named::default() },
    };
    named.place(None).map_err(str::to_owned)?.open().await
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeadLetters {
    what: What,
    ids: Vec<u64>,
    place: Place,
    group: Option<String>,
    subject: Option<String>,
    after: Option<u64>,
    limit: usize,
    rate: Option<NonZeroU32>,
    dry_run: bool,
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    List,
    Show,
    Redrive,
    Purge,
}

/// Reads what stands behind `deadletters`; none if help is wanted. `nats` is the server of the environment.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    nats: Option<String>,
) -> Result<Option<DeadLetters>, lexopt::Error> {
    let what = match args.next()? {
        Some(Value(what)) => match what.to_str() {
            Some("list") => What::List,
            Some("show") => What::Show,
            Some("redrive") => What::Redrive,
            Some("purge") => What::Purge,
            _ => return Err(format!("{what:?} is none of list, show, redrive, purge").into()),
        },
        Some(Long("help") | Short('h')) => return Ok(None),
        Some(other) => return Err(other.unexpected()),
        None => return Err("what about the dead letters? list, show, redrive or purge".into()),
    };
    let mut named = Named::default();
    let mut asked = DeadLetters {
        what,
        ids: Vec::new(),
        place: Place::Nowhere,
        group: None,
        subject: None,
        after: None,
        limit: 100,
        rate: None,
        dry_run: false,
        all: false,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Value(id) => asked.ids.push(id.parse()?),
            Long("dir") => named.dir = Some(args.value()?.into()),
            Long("nats") => named.nats = Some(args.value()?.string()?),
            Long("namespace") => named.namespace = Some(args.value()?.string()?),
            Long("group") => asked.group = Some(args.value()?.string()?),
            Long("subject") => asked.subject = Some(args.value()?.string()?),
            Long("after") => asked.after = Some(args.value()?.parse()?),
            Long("limit") => asked.limit = args.value()?.parse()?,
            Long("rate") => asked.rate = Some(args.value()?.parse()?),
            Long("dry-run") => asked.dry_run = true,
            Long("all") => asked.all = true,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(arg.unexpected()),
        }
    }
    asked.place = named.place(nats)?;
    asked.check()?;
    Ok(Some(asked))
}

impl DeadLetters {
    fn check(&self) -> Result<(), lexopt::Error> {
        let wrong = match self.what {
            What::List if !self.ids.is_empty() => "list takes no ids; show does",
            What::Show if self.ids.len() != 1 => "show takes one id",
            What::Redrive if self.ids.is_empty() != self.all => "redrive takes ids, or --all",
            What::Redrive if self.dry_run && !self.all => "--dry-run goes with --all",
            // Neither by a slip of the finger nor by a variable that was empty.
            What::Purge if !self.all || !self.ids.is_empty() => "purge takes --all, and no ids",
            _ => return Ok(()),
        };
        Err(wrong.into())
    }

    fn filter(&self) -> Result<Filter, String> {
        let mut filter = Filter::all();
        if let Some(group) = &self.group {
            filter = filter.group(group.as_str());
        }
        if let Some(subject) = &self.subject {
            filter = filter.subjects(Pattern::new(subject.as_str()).map_err(with_cause)?);
        }
        Ok(filter)
    }
}

/// False if some were not given back.
pub(crate) fn run(asked: &DeadLetters) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(with_cause)?.block_on(deal(asked))
}

async fn deal(asked: &DeadLetters) -> Result<bool, String> {
    let filter = asked.filter()?;
    let broker = asked.place.open().await?;
    let letters = broker.dead_letters();
    match asked.what {
        What::List => {
            let after = asked.after.map(DeadLetterId::new);
            let page = letters.list(&filter, after, asked.limit).await.map_err(with_cause)?;
            let mut text = text::HEADER.to_owned();
            page.iter().for_each(|letter| text.push_str(&text::line(letter)));
            say(&text);
        }
        What::Show => {
            let id = DeadLetterId::new(asked.ids.first().copied().unwrap_or_default());
            match letters.get(id).await.map_err(with_cause)? {
                Some(letter) => say(&text::story(&letter)),
                None => return Err(format!("no dead letter {id}")),
            }
        }
        What::Redrive if asked.all => {
            let mut redrive = letters.redrive_all(&filter);
            if let Some(rate) = asked.rate {
                redrive = redrive.per_second(rate);
            }
            if asked.dry_run {
                redrive = redrive.dry_run();
            }
            let result = redrive.await.map_err(with_cause)?;
            let would = if asked.dry_run { "would be " } else { "" };
            say(&format!("{} {would}given back, {} kept\n", result.redriven, result.kept));
            return Ok(result.kept == 0);
        }
        What::Redrive => {
            let mut all = true;
            for id in &asked.ids {
                if let Some(rate) = asked.rate {
                    tokio::time::sleep(Duration::from_secs(1) / rate.get()).await;
                }
                match letters.redrive(DeadLetterId::new(*id)).await {
                    Ok(()) => say(&format!("{id} given back\n")),
                    Err(error) => {
                        all = false;
                        say(&format!("{id} kept: {}\n", with_cause(error)));
                    }
                }
            }
            return Ok(all);
        }
        What::Purge => {
            let purged = letters.purge(&filter).await.map_err(with_cause)?;
            say(&format!("{purged} deleted\n"));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Option<DeadLetters>, String> {
        parse(&mut lexopt::Parser::from_args(args), None).map_err(|error| error.to_string())
    }

    /// Of whatever this was built for.
    const PLACE: [&str; 2] =
        if cfg!(feature = "file") { ["--dir", "d"] } else { ["--nats", "nats://h"] };

    #[test]
    fn what_deletes_or_gives_back_all_has_to_say_so() {
        assert!(read(&[&["purge", "--all", "--group", "g"], &PLACE[..]].concat()).is_ok());
        for wrong in [
            &["purge"][..],
            &["purge", "--group", "g"],
            &["purge", "3"],
            &["redrive"],
            &["redrive", "--group", "g"],
            &["redrive", "3", "--all"],
            &["redrive", "3", "--dry-run"],
            &["show"],
            &["show", "x"],
            &["list", "3"],
            &["bury"],
            &[],
        ] {
            assert!(read(&[wrong, &PLACE].concat()).is_err(), "{wrong:?}");
        }
        assert_eq!(read(&["list", "--help"]), Ok(None));
        assert!(read(&["list"]).unwrap_err().contains("--nats"));
    }
}
