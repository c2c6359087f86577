//! `gusset saga`.

mod tell;

use std::{path::PathBuf, sync::Arc, time::Duration};

use gusset_saga::{Json, Operator, Order, Ordered, Query, Report, SagaError, SagaId, State, Store};
use lexopt::prelude::*;

use crate::text::{say, with_cause};

pub(crate) const HELP: &str = "\
The sagas of a program, seen and mended by an operator. It needs the store of the program and nothing else of it, whether the program runs or not.

gusset saga list      [OPTIONS]                one a line, by id
gusset saga show      ID [OPTIONS]             where it stands, and all that happened
gusset saga retry     ID [OPTIONS]             tries again what was given up, and now what pauses
gusset saga skip      ID STEP [OPTIONS]        settles an undo that was carried out by hand, or is not needed
gusset saga supply    ID STEP JSON [OPTIONS]   takes JSON for what the step should have returned, and goes on
gusset saga turn-back ID [OPTIONS]             has all that was done undone
gusset saga close     ID [OPTIONS]             ends it, whatever is left to do

  --sqlite FILE      the store: a file
  --postgres URL     the store: a database, as postgres://USER:PASSWORD@HOST/DATABASE, without TLS [$GUSSET_POSTGRES]
  --schema NAME      with --postgres: of its tables [gusset]
  --state STATE      list: only running, turning_back, completed, compensated, closed, stuck or blocked
  --definition NAME  list: only those of this definition
  --after ID         list: only those behind this one, for the next page
  --limit N          list: so many at most [100]
  --json             list: a JSON object a line; show: one with all there is
  --mermaid          show: a flow chart in Mermaid's language
  --note TEXT        orders: why; it is kept in the journal
  --wait SECONDS     orders: how long to wait for the program that is working on the saga [15]
  --help             this text

An order to a saga that nobody works on is in its journal at once, and programs go on from there in the next round of their recovery. A program that works on
the saga reads the order within a third of its lease: 10 s by default.
The exit code is 0, 1 if the saga is not there or the order does not fit it, or 2 if it could not be done.
";

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    what: What,
    at: At,
    form: Form,
    note: String,
    wait: Duration,
}

#[derive(Debug, PartialEq)]
enum What {
    List(Query),
    Show(SagaId),
    Order(SagaId, Order),
}

#[derive(Debug, PartialEq)]
enum At {
    Sqlite(PathBuf),
    Postgres { url: String, schema: String },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Text,
    Json,
    Mermaid,
}

/// Options as they were given.
struct Given {
    words: Vec<String>,
    query: Query,
    sqlite: Option<PathBuf>,
    postgres: Option<String>,
    schema: String,
    form: Form,
    note: Option<String>,
    wait: Option<Duration>,
}

/// Reads what stands behind `saga`; none if help is wanted. `postgres` is the database of the environment.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    postgres: Option<String>,
) -> Result<Option<Asked>, lexopt::Error> {
    let (words, query, schema) = (Vec::new(), Query::all(), "gusset".to_owned());
    let (sqlite, note, wait) = (None, None, None);
    let mut given =
        Given { words, query, sqlite, postgres: None, schema, form: Form::Text, note, wait };
    while let Some(arg) = args.next()? {
        match arg {
            Value(word) => given.words.push(word.string()?),
            Long("sqlite") => given.sqlite = Some(args.value()?.into()),
            Long("postgres") => given.postgres = Some(args.value()?.string()?),
            Long("schema") => given.schema = args.value()?.string()?,
            Long("state") => given.query.state = Some(state(&args.value()?.string()?)?),
            Long("definition") => given.query.definition = Some(args.value()?.string()?.into()),
            Long("after") => given.query.after = Some(args.value()?.parse()?),
            Long("limit") => given.query.limit = args.value()?.parse()?,
            Long("json") => given.form = Form::Json,
            Long("mermaid") => given.form = Form::Mermaid,
            Long("note") => given.note = Some(args.value()?.string()?),
            Long("wait") => given.wait = Some(Duration::from_secs(args.value()?.parse()?)),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(arg.unexpected()),
        }
    }
    given.asked(postgres).map(Some).map_err(lexopt::Error::from)
}

fn state(name: &str) -> Result<State, String> {
    let state = serde_json::from_value(name.into());
    state.map_err(|_| format!("--state: '{name}' is no state; see gusset saga --help"))
}

impl Given {
    fn asked(self, environment: Option<String>) -> Result<Asked, String> {
        let at = match (self.sqlite, self.postgres) {
            (Some(_), Some(_)) => return Err("--sqlite or --postgres, not both".into()),
            (Some(file), None) => At::Sqlite(file),
            (None, url) => At::Postgres {
                url: url
                    .or(environment)
                    .filter(|url| !url.is_empty())
                    .ok_or("where are the sagas? --sqlite FILE or --postgres URL")?,
                schema: self.schema,
            },
        };
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let id = |id: &str| id.parse::<SagaId>().map_err(|error| error.to_string());
        let what = match words[..] {
            ["list"] => What::List(self.query.clone()),
            ["show", saga] => What::Show(id(saga)?),
            ["retry", saga] => What::Order(id(saga)?, Order::Retry),
            ["skip", saga, step] => What::Order(id(saga)?, Order::Skip { step: step.into() }),
            ["supply", saga, step, json] => {
                let output: Json = serde_json::from_str(json)
                    .map_err(|error| format!("'{json}' is no JSON: {error}"))?;
                What::Order(id(saga)?, Order::Supply { step: step.into(), output })
            }
            ["turn-back", saga] => What::Order(id(saga)?, Order::TurnBack),
            ["close", saga] => What::Order(id(saga)?, Order::Close),
            [] => return Err("what about the sagas? see gusset saga --help".into()),
            [
                command @ ("list" | "show" | "retry" | "skip" | "supply" | "turn-back" | "close"),
                ..,
            ] => return Err(format!("{command} takes other words; see gusset saga --help")),
            [other, ..] => return Err(format!("'{other}' is none of its commands")),
        };
        let fits = match what {
            What::List(_) => {
                self.form != Form::Mermaid && self.note.is_none() && self.wait.is_none()
            }
            What::Show(_) => {
                self.query == Query::all() && self.note.is_none() && self.wait.is_none()
            }
            What::Order(..) => self.query == Query::all() && self.form == Form::Text,
        };
        if !fits {
            return Err(format!("an option does not go with {}; see gusset saga --help", words[0]));
        }
        let (note, wait) = (self.note.unwrap_or_default(), self.wait.unwrap_or(PATIENCE));
        Ok(Asked { what, at, form: self.form, note, wait })
    }
}

/// Longer than a third of the default lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// False if the saga is not there, or the order does not fit it.
pub(crate) fn run(asked: Asked) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(with_cause)?.block_on(deal(asked))
}

async fn deal(asked: Asked) -> Result<bool, String> {
    let operator = Operator::new(open(asked.at).await?);
    let done = match asked.what {
        What::List(query) => list(&operator, query, asked.form).await,
        What::Show(saga) => show(&operator, saga, asked.form).await,
        What::Order(saga, order) => {
            let ordered = operator.order(&saga, order, &asked.note, asked.wait).await;
            ordered.map(|ordered| say(&became(&saga, &ordered)))
        }
    };
    match done {
        Ok(()) => Ok(true),
        Err(
            error @ (SagaError::NoSuchSaga(_)
            | SagaError::Refused { .. }
            | SagaError::Blocked { .. }),
        ) => {
            crate::complain(&with_cause(error));
            Ok(false)
        }
        Err(error) => Err(with_cause(error)),
    }
}

/// The store at `postgres://…` or `sqlite:FILE`.
#[cfg(feature = "console")]
pub(crate) async fn open_at(place: &str) -> Result<Arc<dyn Store>, String> {
    match place.strip_prefix("sqlite:") {
        Some(file) => open(At::Sqlite(file.trim_start_matches("//").into())).await,
        None if place.starts_with("postgres") => {
            open(At::Postgres { url: place.to_owned(), schema: "gusset".to_owned() }).await
        }
        None => Err(format!("--saga: '{place}' is neither postgres://… nor sqlite:FILE")),
    }
}

async fn open(at: At) -> Result<Arc<dyn Store>, String> {
    match at {
        #[cfg(feature = "sqlite")]
        At::Sqlite(file) => {
            let store = gusset_saga::SqliteStore::open_existing(&file).await;
            Ok(Arc::new(
                store.map_err(|error| format!("{}: {}", file.display(), with_cause(error)))?,
            ))
        }
        #[cfg(not(feature = "sqlite"))]
        At::Sqlite(_) => Err("this gusset was built without the feature sqlite".into()),
        #[cfg(feature = "postgres")]
        At::Postgres { url, schema } => {
            let options = gusset_saga::PostgresOptions::new(&url).map_err(with_cause)?;
            let options = options.schema(&schema).map_err(with_cause)?.existing();
            let store = gusset_saga::PostgresStore::connect(options).await;
            Ok(Arc::new(store.map_err(with_cause)?))
        }
        #[cfg(not(feature = "postgres"))]
        At::Postgres { .. } => Err("this gusset was built without the feature postgres".into()),
    }
}

async fn list(operator: &Operator, query: Query, form: Form) -> Result<(), SagaError> {
    let limit = query.limit;
    let page = operator.list(&query).await?;
    match form {
        Form::Json => say(&tell::json_lines(&page)),
        _ => say(&tell::table(&page)),
    }
    if let Some(last) = page.last().filter(|_| page.len() == limit) {
        crate::complain(&format!("there may be more: --after {}", last.saga));
    }
    Ok(())
}

async fn show(operator: &Operator, saga: SagaId, form: Form) -> Result<(), SagaError> {
    let records = operator.history(&saga).await?;
    let report = Report::replay(saga, &records)?;
    say(&match form {
        Form::Text => tell::story(&report, &records),
        Form::Json => tell::json(&report, &records),
        Form::Mermaid => report.to_mermaid(),
    });
    Ok(())
}

fn became(saga: &SagaId, ordered: &Ordered) -> String {
    match ordered {
        Ordered::Journaled(report) => {
            let state = tell::state(report.state);
            let goes_on = match report.state {
                state if state.is_final() => String::new(),
                State::Stuck => "; there is more to settle".into(),
                _ => format!("; programs that know {} {} go on", report.definition, report.version),
            };
            format!("{saga} is {state}{goes_on}\n")
        }
        Ordered::Waiting { node } => {
            format!("{saga}: the order waits for {node}, which works on it or fell silent\n")
        }
        _ => format!("{saga}: the order is given\n"),
    }
}

#[cfg(test)]
mod tests;
