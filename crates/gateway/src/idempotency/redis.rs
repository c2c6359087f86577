mod link;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::BoxError;
use redis::{Client, RedisError, Value};
use tokio::time::sleep;

use self::link::Link;
use super::{
    store::{Begun, IdempotencyStore, Pending, RequestKey, StoredAnswer},
    wire,
};

/// Keeps answers in a Redis server, for all gateways that ask the same one. Clones are one. Feature `redis`.
///
/// ```no_run
/// use gusset_gateway::{AnswersInRedis, Idempotency, Route};
/// use http::Method;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let answers = AnswersInRedis::new("redis://127.0.0.1", "shop")?;
/// let pay = Route::new("/payments").methods([Method::POST]).to("payments").idempotency(Idempotency::by(answers));
/// # Ok(()) }
/// ```
///
/// # What is certain
///
/// Of all gateways one has a key at a time. One that dies with a request under way leaves its key to others when its claim ends: twice
/// [`Route::timeout`](crate::Route::timeout) and 5 s after it began. The request may have had its effect by then, which nobody can know; so an upstream that must not do it twice has to look at the key itself.
///
/// No request passes while Redis does not answer (503). An answer that cannot be kept because Redis has gone meanwhile is given to its client all the same, and tried to be kept for 5 s more; then
/// it is counted ([`AnswersInRedisStats::unkept`]), and the key is free when its claim ends.
///
/// Redis keeps what it says it keeps: without a disk, a restart forgets answers and claims, and the same goes for a replica that takes over before it has heard of them. A server that shall forget nothing has
/// `appendfsync always`, and `maxmemory-policy noeviction`: at its bound no new request passes then, where others lose answers before their time.
///
/// # What stands in Redis
///
/// Answers as they were, so whoever reads there reads them. `1` is the version: a value of another one is an error (503), never taken for something else.
///
/// | | |
/// |---|---|
/// | key | `gusset:once:1:<name>:{<hash of route, sender and Idempotency-Key>}` |
/// | value of a claim | `r1`, and its number in 16 hexadecimal digits; it expires with the claim |
/// | value of an answer | `a1`, and the answer as `src/idempotency/wire.rs` says; it expires after [`Idempotency::keep`](crate::Idempotency::keep) |
///
/// An access list needs `+eval +get +set +del ~gusset:once:1:*`.
///
/// # Memory, and tasks
///
/// Here none but that of requests under way. There, up to [`Idempotency::max_body`](crate::Idempotency::max_body) and the fields for each answer. One connection, which is made when it is first needed, and whose task
/// runs where it was; a task of a moment where a key is given back, or an answer could not be kept at once.
#[derive(Clone)]
pub struct AnswersInRedis(Arc<Inner>);

struct Inner {
    link: Link,
    prefix: String,
    unkept: AtomicU64,
}

/// What became of the calls of an [`AnswersInRedis`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnswersInRedisStats {
    /// Those that Redis did not answer, or with an error.
    pub failures: u64,
    /// Answers that could not be kept: a repetition may have its effect once more.
    pub unkept: u64,
}

/// How often an answer is tried to be kept, and how far apart.
const TRIES: u32 = 10;
const APART: Duration = Duration::from_millis(500);

/// Claims a key that nobody has, or that this claim has already: a question that was heard, and its answer not, is asked again.
const BEGIN: &str = "local found = redis.call('GET', KEYS[1]) \
    if found and found ~= ARGV[1] then return found end \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return false";

const KEEP: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return false";

const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return false";

impl AnswersInRedis {
    /// In the server at `url`, for instance `redis://user:password@host:6379/0`. Does not connect, so it may be down. Gateways of one `name` share their keys.
    ///
    /// # Errors
    ///
    /// If `url` is none of a Redis server.
    pub fn new(url: &str, name: &str) -> Result<Self, BoxError> {
        let prefix = format!("gusset:once:1:{}:", escaped(name));
        let link = Link::to(Client::open(url)?);
        Ok(Self(Arc::new(Inner { link, prefix, unkept: AtomicU64::new(0) })))
    }

    /// What became of the calls.
    #[must_use]
    pub fn stats(&self) -> AnswersInRedisStats {
        let Inner { link, unkept, .. } = &*self.0;
        AnswersInRedisStats { failures: link.failures(), unkept: unkept.load(Relaxed) }
    }
}

impl Inner {
    fn key(&self, key: &RequestKey) -> String {
        let hash = key.as_bytes().iter();
        hash.fold(format!("{}{{", self.prefix), |key, byte| format!("{key}{byte:02x}")) + "}"
    }

    async fn run(&self, script: &str, key: &RequestKey, args: &[&[u8]]) -> Result<Value, BoxError> {
        self.link.run(script, &self.key(key), args).await
    }

    async fn keep(
        &self,
        key: &RequestKey,
        claim: u64,
        answer: &[u8],
        span: Duration,
    ) -> Result<(), BoxError> {
        self.run(KEEP, key, &[claimed(claim).as_bytes(), answer, millis(span).as_bytes()]).await?;
        Ok(())
    }
}

impl IdempotencyStore for AnswersInRedis {
    fn begin<'a>(&'a self, key: &'a RequestKey, lease: Duration) -> Pending<'a, Begun> {
        Box::pin(async move {
            let number = rand::random();
            let (claim, lease) = (claimed(number), millis(lease));
            let found = self.0.run(BEGIN, key, &[claim.as_bytes(), lease.as_bytes()]).await;
            match found {
                Ok(Value::Nil) => Ok(Begun::Claimed(number)),
                Ok(Value::BulkString(found)) => begun(&found),
                Ok(_) => Err("it answers what no script of this version does".into()),
                Err(error) if is_full(&error) => Ok(Begun::Full),
                Err(error) => {
                    // It may have been heard.
                    self.release(key, number);
                    Err(error)
                }
            }
        })
    }

    fn keep<'a>(
        &'a self,
        key: &'a RequestKey,
        claim: u64,
        answer: Arc<StoredAnswer>,
        span: Duration,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut bytes = b"a1".to_vec();
            if wire::write(&answer, &mut bytes).is_none() {
                self.0.unkept.fetch_add(1, Relaxed);
                return Err("its fields are too many, or too large".into());
            }
            let kept = self.0.keep(key, claim, &bytes, span).await;
            if kept.is_err() {
                let (inner, key) = (self.0.clone(), *key);
                tokio::spawn(async move {
                    for _ in 0..TRIES {
                        sleep(APART).await;
                        if inner.keep(&key, claim, &bytes, span).await.is_ok() {
                            return;
                        }
                    }
                    inner.unkept.fetch_add(1, Relaxed);
                    tracing::error!(
                        ?key,
                        "an answer could not be kept; a repetition of its request may have its effect once more"
                    );
                });
            }
            kept
        })
    }

    fn release(&self, key: &RequestKey, claim: u64) {
        // Otherwise the claim ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (inner, key) = (self.0.clone(), *key);
        runtime.spawn(async move {
            let _ = inner.run(RELEASE, &key, &[claimed(claim).as_bytes()]).await;
        });
    }
}

/// What a value says.
fn begun(found: &[u8]) -> Result<Begun, BoxError> {
    match found.split_at_checked(2) {
        Some((b"r1", _)) => Ok(Begun::Running),
        Some((b"a1", answer)) => match wire::read(answer) {
            Some(answer) => Ok(Begun::Answered(Arc::new(answer))),
            None => Err("an answer that was kept cannot be read".into()),
        },
        _ => Err("what was kept is of a version that is not known here".into()),
    }
}

fn claimed(number: u64) -> String {
    format!("r1{number:016x}")
}

/// At least one, at most some centuries, which Redis can count.
fn millis(span: Duration) -> String {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 43).to_string()
}

/// What stands between colons.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes().fold(String::new(), |mut escaped, byte| {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

/// It has no memory left, or no master to write to.
fn is_full(error: &BoxError) -> bool {
    let error = error.downcast_ref::<RedisError>();
    error.is_some_and(|error| {
        error.code() == Some("OOM") || error.to_string().contains("OOM command")
    })
}

impl fmt::Debug for AnswersInRedis {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.link.address().to_string();
        f.debug_struct("AnswersInRedis").field("address", &address).finish_non_exhaustive()
    }
}
