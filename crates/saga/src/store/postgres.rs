mod batch;
mod columns;
mod events;
mod options;
mod pool;
mod rows;
mod schema;
mod sql;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future};
use tokio::time::timeout;
use tokio_postgres::{
    NoTls, Row, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use self::{
    batch::Queue,
    columns::Write,
    pool::{Lent, Pool},
    sql::Sql,
};
use crate::{
    Begin, Bundle, Claim, Commit, Journal, Mail, Pending, Post, Query, Relay, Relayed, Release,
    Renewed, Retention, SagaId, State, Store, StoreError, StoreFuture, Summary, Wanted,
};

pub use options::PostgresOptions;

/// Behind all ids, which are of visible ASCII characters.
const LAST: &str = "\u{7f}";

/// Journals in a PostgreSQL database, which many nodes share. Clones share the connections.
///
/// ```no_run
/// use gusset_saga::{Orchestrator, PostgresOptions, PostgresStore};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = PostgresOptions::new("postgres://shop@db.internal/shop")?;
/// let sagas = Orchestrator::new(PostgresStore::connect(options).await?);
/// # Ok(())
/// # }
/// ```
///
/// # Nodes
///
/// Nodes need not know each other. Each saga is held by one of them under a lease and an epoch, both decided by the database's clock. A node that was
/// frozen, cut off, or believed dead finds its epoch over at its next append, and what it wrote into the network before is refused as well.
///
/// # Durability
///
/// What was acknowledged is as durable as a commit of that database: `synchronous_commit` is turned on where it is off, other settings of it stand, and
/// `fsync` and replicas are the operator's matter. An append whose answer was lost is repeated by the orchestrator, which recognises its own
/// record. Needs PostgreSQL 12 or later.
///
/// # Commits
///
/// What is created and appended at the same time goes into one commit, up to 512 writes or 8 MiB, and each has its own answer. An
/// append alone does not wait for company: it costs one round trip and one commit.
///
/// # Bounds
///
/// [`PostgresOptions::connections`] connections. At most 16,384 writes wait for a commit, more are refused as [`StoreError::Full`]. In the
/// database, unfinished sagas and messages that were not relayed are bounded by its disk, and finished ones by [`Store::purge`].
///
/// # Tables
///
/// `sagas`, `journal`, `mail`, `outbox`, `relaying`, `streams`, `events`, `snapshots` and `format` in [a schema of their own](PostgresOptions::schema). All is plain text and
/// numbers: `select id, state, epoch, node from gusset.sagas` and `select record from gusset.journal where saga = '...' order by sequence` show
/// what there is. The first node to connect makes them; later ones need only `USAGE` on the schema, and to read and write its tables.
///
/// # Connections
///
/// A connection sets `statement_timeout` and the like for itself, so a pooler in between has to give it a session of its own (PgBouncer: `pool_mode=session`).
/// Connections that fail are replaced when they are needed again.
///
/// # Tasks
///
/// One for each connection, which ends with it, and up to two that write, which end when nothing waits to be written. They run on the runtime of
/// whoever calls; when that ends, calls from other runtimes connect anew.
#[derive(Clone)]
pub struct PostgresStore(Arc<Shared>);

struct Shared {
    pool: Pool,
    queue: Queue,
    limit: Duration,
}

impl PostgresStore {
    /// Connects without TLS, and makes the tables if they are not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when the database cannot be reached, or refuses; when the tables are missing and may not, or [must not](PostgresOptions::existing), be made; and when a later
    /// release made them in a way that this one does not know.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        Self::connect_with(options, NoTls).await
    }

    /// Connects with TLS as `tls` makes it. Any connector for `tokio-postgres` will do, as that of `tokio-postgres-rustls`.
    ///
    /// Say `sslmode=require` in the URL: the default there is `prefer`, which goes on without TLS where the server, or who stands in between, says that it has none.
    /// Unix sockets have no TLS.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub async fn connect_with<T>(options: PostgresOptions, tls: T) -> Result<Self, StoreError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let PostgresOptions { config, schema, connections, limit, make } = options;
        let pool = Pool::new(pool::dial(config, limit, tls), Sql::new(schema), connections);
        let shared = Shared { pool, queue: Queue::default(), limit };
        shared.within(shared.pool.prepare(make)).await?;
        Ok(Self(Arc::new(shared)))
    }
}

/// What the database has to do with a failure.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("PostgreSQL: {}", told(.0))]
    Said(#[from] tokio_postgres::Error),
    #[error("no connection to PostgreSQL within {0:?}")]
    Connecting(Duration),
    #[error("no answer from PostgreSQL within {0:?}")]
    Silent(Duration),
    #[error("the runtime that wrote has ended")]
    Closed,
    #[error(
        "tables of sagas are of format {version}, which needs a release that knows {compatible}; this one knows {known}"
    )]
    Newer { version: i32, compatible: i32, known: i32 },
    #[error("there are no tables of sagas in schema {0}")]
    Missing(String),
    #[error("tables of sagas are of format {0}; a program of this release has to open them first")]
    Older(i32),
    #[error("damaged row: {0}")]
    Damaged(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self::failed(failure)
    }
}

/// The error of the driver alone says only that there was one.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl Shared {
    /// No longer than the limit.
    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, StoreError> {
        let answer = timeout(self.limit, answer).await;
        Ok(answer.unwrap_or(Err(Failure::Silent(self.limit)))?)
    }

    /// One statement that is a transaction of its own.
    async fn ask(&self, name: &'static str, values: Values<'_>) -> Result<Vec<Row>, StoreError> {
        self.within(async {
            let mut lent = self.pool.lend().await?;
            let rows = lent.query(name, values).await?;
            lent.give_back();
            Ok(rows)
        })
        .await
    }

    async fn load(&self, saga: &SagaId) -> Result<Option<Journal>, Failure> {
        let mut lent = self.pool.lend().await?;
        let statements = reading(&mut lent).await?;
        let client = lent.client();
        // One snapshot for the three of them.
        let (begun, journals, ended) = future::join3(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            rows::journals(client, &statements, &[saga.as_str()]),
            client.batch_execute("COMMIT"),
        )
        .await;
        begun?;
        let mut journals = journals?;
        ended?;
        lent.give_back();
        Ok(journals.pop())
    }

    /// In one transaction, so that a saga is not taken unless its journal is handed out.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Journal>, Failure> {
        let mut lent = self.pool.lend().await?;
        let name = match claim.wanted {
            Wanted::One(_) => "claim one",
            Wanted::Due { .. } => "claim due",
        };
        let statement = lent.statement(name).await?;
        let reading = reading(&mut lent).await?;
        let client = lent.client();
        let (begun, picked) =
            future::join(client.batch_execute("BEGIN"), pick(client, &statement, claim)).await;
        begun?;
        let mut picked = picked?;
        picked.sort_unstable_by_key(|row| row.try_get::<_, Option<i64>>(1).ok());
        let ids = picked.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&str>, _>>()?;
        // After the rows are locked: this is what their last holder has written, and it can write no more.
        let (journals, ended) =
            future::join(rows::journals(client, &reading, &ids), client.batch_execute("COMMIT"))
                .await;
        let mut journals = journals?;
        ended?;
        let place = |journal: &Journal| ids.iter().position(|id| *id == journal.saga.as_str());
        journals.sort_by_cached_key(place);
        lent.give_back();
        Ok(journals)
    }
}

type Values<'a> = &'a [&'a (dyn tokio_postgres::types::ToSql + Sync)];

async fn reading(lent: &mut Lent<'_>) -> Result<[tokio_postgres::Statement; 3], Failure> {
    let sagas = lent.statement("sagas").await?;
    Ok([sagas, lent.statement("records").await?, lent.statement("mails").await?])
}

async fn pick(
    client: &tokio_postgres::Client,
    statement: &tokio_postgres::Statement,
    claim: &Claim,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let (node, lease) = (&*claim.node, millis(claim.lease));
    match &claim.wanted {
        Wanted::One(saga) => client.query(statement, &[&saga.as_str(), &node, &lease]).await,
        Wanted::Due { known, orphaned, except, limit } => {
            let names: Vec<_> = known.iter().map(|(name, _)| &**name).collect();
            let versions: Vec<_> = known.iter().map(|(_, version)| i64::from(*version)).collect();
            let except: Vec<_> = except.iter().map(SagaId::as_str).collect();
            let (orphaned, limit) = (millis(*orphaned), signed(*limit as u64));
            let values: Values<'_> =
                &[&names, &versions, &orphaned, &except, &limit, &node, &lease];
            client.query(statement, values).await
        }
    }
}

impl Store for PostgresStore {
    fn now(&self) -> StoreFuture<'_, u64> {
        async {
            let rows = self.0.ask("now", &[]).await?;
            let now = rows.first().map(|row| row.try_get(0)).transpose().map_err(Failure::from)?;
            Ok(now.map_or(0, unsigned))
        }
        .boxed()
    }

    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        async move { batch::write(&self.0, Write::create(begin)?).await }.boxed()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        async move { batch::write(&self.0, Write::append(commit)?).await }.boxed()
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        self.0.within(self.0.load(saga)).boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        self.0.within(self.0.claim(claim)).boxed()
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        async move {
            let sagas: Vec<_> = held.iter().map(|(saga, _)| saga.as_str()).collect();
            let epochs: Vec<_> = held.iter().map(|(_, epoch)| signed(*epoch)).collect();
            let rows = self.0.ask("renew", &[&sagas, &epochs, &millis(lease)]).await?;
            Ok(renewed(held, &rows).map_err(Failure::from)?)
        }
        .boxed()
    }

    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()> {
        async move {
            let (saga, epoch) = (release.saga.as_str(), signed(release.epoch));
            let (due, note) =
                (release.due.map(signed), release.note.as_ref().map(crate::Json::get));
            let blocked = rows::state_name(State::Blocked);
            let values: Values<'_> = &[&saga, &epoch, &due, &note, &release.blocked, &blocked];
            self.0.ask("release", values).await.map(drop)
        }
        .boxed()
    }

    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool> {
        async move {
            let (saga, key) = (mail.saga.as_str(), rows::escaped(&mail.key));
            let values: Values<'_> = &[&saga, &&*key, &mail.body.get(), &signed(Mail::MOST)];
            let rows = self.0.ask("send", values).await?;
            let Some(row) = rows.first() else {
                return Err(StoreError::NoSuchSaga(mail.saga.clone()));
            };
            let get = |column| row.try_get::<_, bool>(column).map_err(Failure::from);
            let (ended, posted, full) = (get(0)?, get(1)?, get(2)?);
            match (ended, posted, full) {
                (true, ..) => Err(StoreError::Ended(mail.saga.clone())),
                (_, false, true) => Err(StoreError::full("mail of a saga")),
                (_, posted, _) => Ok(posted),
            }
        }
        .boxed()
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        async move {
            let rows = self.0.ask("mail", &[&saga.as_str(), &signed(from)]).await?;
            rows.iter().map(|row| Ok(rows::post(row, 0)??)).collect()
        }
        .boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        async move {
            let newest = query.newest_first;
            let start = if newest { LAST } else { "" };
            let after = query.after.as_ref().map_or(start, SagaId::as_str);
            let (name, limit) = (query.definition.as_deref(), signed(query.limit as u64));
            let rows = match query.state.map(rows::state_name) {
                None => {
                    let list = if newest { "list newest" } else { "list" };
                    self.0.ask(list, &[&after, &name, &limit]).await?
                }
                Some(state) => {
                    let list = if newest { "list newest state" } else { "list state" };
                    self.0.ask(list, &[&after, &name, &limit, &state]).await?
                }
            };
            rows.iter().map(|row| Ok(rows::summary(row)?)).collect()
        }
        .boxed()
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        async {
            let rows = self.0.ask("count", &[]).await?;
            let count = |row: &Row| Ok((rows::state(row.try_get(0)?), unsigned(row.try_get(1)?)));
            Ok(rows
                .iter()
                .map(count)
                .collect::<Result<_, tokio_postgres::Error>>()
                .map_err(Failure::from)?)
        }
        .boxed()
    }

    /// In commits of 1,000 sagas. One that is repeated goes on where it was.
    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        async move {
            let newest = signed(keep.newest as u64);
            let limit = match keep.younger_than {
                None => None,
                // What finished in this very millisecond is younger than one.
                Some(age) => Some(
                    signed(self.now().await?).saturating_sub(millis(age))
                        + i64::from(age.is_zero()),
                ),
            };
            let mut forgotten = 0;
            loop {
                let gone = self.0.ask("purge", &[&newest, &limit]).await?.len() as u64;
                forgotten += gone;
                if gone == 0 {
                    return Ok(forgotten);
                }
            }
        }
        .boxed()
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>> {
        async move {
            let after = relay.after.as_ref().map_or("", SagaId::as_str);
            let values: Values<'_> =
                &[&after, &signed(relay.sagas as u64), &&*relay.node, &millis(relay.lease)];
            let held = self.0.ask("relay", values).await?;
            if held.is_empty() {
                return Ok(Vec::new());
            }
            let sagas = held.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&str>, _>>();
            let sagas = sagas.map_err(Failure::from)?;
            let most = signed(relay.messages.max(1) as u64);
            let messages = self.0.ask("outbox", &[&sagas, &most]).await?;
            Ok(rows::bundles(&held, &messages)?)
        }
        .boxed()
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        async move {
            let holders: Vec<_> = done.iter().map(|done| done.saga.as_str()).collect();
            let nodes: Vec<_> = done.iter().map(|done| &*done.node).collect();
            let pauses = done.iter().map(|done| done.pause.map(|(span, _)| millis(span)));
            let pauses: Vec<_> = pauses.collect();
            let failures = done.iter().map(|done| done.pause.map_or(0, |(_, failures)| failures));
            let failures: Vec<_> = failures.map(i64::from).collect();
            let sent = || done.iter().flat_map(|done| &done.sent);
            let sagas: Vec<_> = sent().map(|id| id.saga.as_str()).collect();
            let sequences: Vec<_> = sent().map(|id| signed(id.sequence)).collect();
            let places: Vec<_> = sent().map(|id| i64::from(id.index)).collect();
            let lives: Vec<_> = sent().map(|id| signed(id.life)).collect();
            let values: Values<'_> =
                &[&holders, &nodes, &pauses, &failures, &sagas, &sequences, &places, &lives];
            self.0.ask("relayed", values).await.map(drop)
        }
        .boxed()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        async { Ok(rows::pending(&self.0.ask("pending", &[]).await?)?) }.boxed()
    }
}

fn renewed(held: &[(SagaId, u64)], rows: &[Row]) -> Result<Renewed, tokio_postgres::Error> {
    let mut still = std::collections::HashMap::new();
    for row in rows {
        still.insert(row.try_get::<_, &str>(0)?, row.try_get::<_, bool>(1)?);
    }
    let mut renewed = Renewed::default();
    for (saga, _) in held {
        match still.get(saga.as_str()) {
            Some(true) => renewed.mail.push(saga.clone()),
            Some(false) => {}
            None => renewed.lost.push(saga.clone()),
        }
    }
    Ok(renewed)
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("pool", &self.0.pool)
            .field("waiting", &self.0.queue.len())
            .finish()
    }
}

/// PostgreSQL has no unsigned numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// At most so much that it can be added to a time.
fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2)
}
