//! `gusset deadletters`.

use std::{
    error::Error,
    fmt::Write as _,
    io::{Write as _, stdout},
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use gusset_broker::{
    Broker, DeadLetter, DeadLetterId, Filter, Limits, NatsEngine, NatsOptions, Pattern,
};
use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
The messages that groups of a broker could not handle.

gusset deadletters list    [OPTIONS]         one a line, the oldest first
gusset deadletters show    ID [OPTIONS]      all there is to know of one
gusset deadletters redrive ID... [OPTIONS]   gives them back to the groups that failed, and to no others
gusset deadletters redrive --all [OPTIONS]   the same for all that are meant
gusset deadletters purge   --all [OPTIONS]   deletes all that are meant

  --nats URL          where the broker's NATS server is, nats://[USER:PASSWORD@]HOST[:PORT] [$GUSSET_NATS]
  --namespace NAME    of the broker [gusset]
  --group NAME        means only those of this group
  --subject PATTERN   means only those with such a subject; * is one token, a last > the rest
  --after ID          list: those behind this one, for the next page
  --limit N           list: so many at most [100]
  --rate N            redrive: so many a second at most
  --dry-run           redrive --all: says how many it would be, and changes nothing
  --help              this text

The exit code is 0, 1 if some were not given back, or 2 if it could not be done.
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeadLetters {
    what: What,
    ids: Vec<u64>,
    nats: String,
    namespace: String,
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
    let mut asked = DeadLetters {
        what,
        ids: Vec::new(),
        nats: nats.unwrap_or_default(),
        namespace: "gusset".into(),
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
            Long("nats") => asked.nats = args.value()?.string()?,
            Long("namespace") => asked.namespace = args.value()?.string()?,
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
    asked.check()?;
    Ok(Some(asked))
}

impl DeadLetters {
    fn check(&self) -> Result<(), lexopt::Error> {
        let wrong = match self.what {
            _ if self.nats.is_empty() => "where is the broker? --nats URL",
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
    let options = NatsOptions::new(&*asked.nats).namespace(&*asked.namespace).existing();
    let engine = NatsEngine::connect(options, Limits::new()).await.map_err(with_cause)?;
    let broker = Broker::on(engine);
    let letters = broker.dead_letters();
    match asked.what {
        What::List => {
            let after = asked.after.map(DeadLetterId::new);
            let page = letters.list(&filter, after, asked.limit).await.map_err(with_cause)?;
            let mut text =
                "ID\tDIED\tGROUP\tSUBJECT\tATTEMPTS\tREDRIVES\tREASON\tLAST ERROR\n".to_owned();
            page.iter().for_each(|letter| text.push_str(&line(letter)));
            say(&text);
        }
        What::Show => {
            let id = DeadLetterId::new(asked.ids.first().copied().unwrap_or_default());
            match letters.get(id).await.map_err(with_cause)? {
                Some(letter) => say(&story(&letter)),
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

fn line(letter: &DeadLetter) -> String {
    let error = letter.last_failure.as_ref().map_or("", |failure| &*failure.error);
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        letter.id,
        date(letter.died_at),
        clean(&letter.group),
        letter.message.subject(),
        letter.attempts,
        letter.redrives,
        clean(&letter.reason.to_string()),
        clean(error),
    )
}

fn story(letter: &DeadLetter) -> String {
    let message = &letter.message;
    let mut text = String::new();
    let mut tell = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14} {}", clean(value));
    };
    tell("id", &letter.id.to_string());
    tell("message", &message.id().to_string());
    tell("subject", message.subject().as_str());
    tell("group", &letter.group);
    tell("published", &date(message.published_at()));
    tell("died", &date(letter.died_at));
    tell("attempts", &letter.attempts.to_string());
    tell("redrives", &letter.redrives.to_string());
    tell("reason", &letter.reason.to_string());
    for (name, failure) in
        [("first failure", &letter.first_failure), ("last failure", &letter.last_failure)]
    {
        if let Some(failure) = failure {
            let (attempt, at) = (failure.attempt, date(failure.at));
            tell(name, &format!("attempt {attempt}, {at}, {:?}: {}", failure.kind, failure.error));
        }
    }
    for (name, value) in message.headers().iter() {
        tell("header", &format!("{name}: {value}"));
    }
    match std::str::from_utf8(message.payload()) {
        Ok(payload) => text.push_str(&format!("\n{payload}\n")),
        Err(_) => text.push_str(&format!("\n{}\n", message.payload().escape_ascii())),
    }
    text
}

/// Of foreign texts, what moves no cursor and begins no line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn say(text: &str) {
    // Whoever closes the pipe has read enough.
    let _ = stdout().write_all(text.as_bytes());
}

fn with_cause(error: impl Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(source) = next {
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

/// In UTC, as RFC 3339 writes it. The days are counted as in Howard Hinnant's `civil_from_days`.
fn date(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, secs) = (since / 86_400 + 719_468, since % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Option<DeadLetters>, String> {
        let nats = Some("nats://h".to_owned());
        parse(&mut lexopt::Parser::from_args(args), nats).map_err(|error| error.to_string())
    }

    #[test]
    fn what_deletes_or_gives_back_all_has_to_say_so() {
        assert!(read(&["purge", "--all", "--group", "g"]).is_ok());
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
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(read(&["list", "--help"]), Ok(None));
        let nowhere = parse(&mut lexopt::Parser::from_args(["list"]), None).unwrap_err();
        assert!(nowhere.to_string().contains("--nats"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)), expected);
        }
    }
}
