use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use super::NatsError;

/// Which server, and how its streams are kept.
///
/// ```
/// use gusset_broker::NatsOptions;
/// use std::time::Duration;
///
/// let options = NatsOptions::new("nats://a.example:4222,nats://b.example:4222")
///     .namespace("shop")
///     .replicas(3)
///     .dedup_window(Duration::from_secs(600));
/// ```
#[derive(Clone)]
pub struct NatsOptions {
    pub(crate) servers: Arc<str>,
    pub(crate) credentials: Credentials,
    pub(crate) namespace: Arc<str>,
    pub(crate) replicas: usize,
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
    pub(crate) dedup_window: Duration,
    pub(crate) ack_wait: Duration,
    pub(crate) max_unsettled: u32,
    pub(crate) publish_window: usize,
    pub(crate) call_within: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) existing: bool,
    pub(crate) retain: Option<Duration>,
    pub(crate) tls: NatsTls,
}

#[derive(Clone)]
pub(crate) enum Credentials {
    None,
    Token(String),
    Password { user: String, password: String },
    Nkey(String),
    File(PathBuf),
}

/// How a connection over TLS is made; needs the feature `nats-tls`. With none of it, a server that asks for TLS is believed if the system's root certificates
/// vouch for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    pub(crate) roots: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) required: bool,
}

impl NatsTls {
    /// TLS in any case: a server that does not offer it is refused.
    #[must_use]
    pub fn required() -> Self {
        Self { required: true, ..Self::default() }
    }

    /// Believes the certificates in this PEM file, and those of the system no more.
    #[must_use]
    pub fn roots(mut self, file: impl Into<PathBuf>) -> Self {
        self.roots = Some(file.into());
        self
    }

    /// Shows the server this certificate, with the key in the other PEM file.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }
}

impl NatsOptions {
    /// All defaults, for these servers: addresses with commas between them, `host:port` or `nats://host:port`, or
    /// `tls://host:port` with the feature `nats-tls`.
    #[must_use]
    pub fn new(servers: impl Into<Arc<str>>) -> Self {
        Self {
            servers: servers.into(),
            credentials: Credentials::None,
            namespace: "gusset".into(),
            replicas: 1,
            max_messages: 1_000_000,
            max_bytes: 1 << 30,
            dedup_window: Duration::from_secs(120),
            ack_wait: Duration::from_secs(30),
            max_unsettled: 50_000,
            publish_window: 1_024,
            call_within: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            existing: false,
            retain: None,
            tls: NatsTls::default(),
        }
    }

    /// Begins the names of the streams and all subjects, so that several brokers share a server: letters, digits, `-`
    /// and `_`, at most 32 of them. Default `gusset`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<Arc<str>>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Shows this token to the server.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(token.into());
        self
    }

    /// Shows this name and password to the server.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::Password { user: user.into(), password: password.into() };
        self
    }

    /// Proves with this seed of a user's nkey (it begins with `SU`) who asks.
    #[must_use]
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.credentials = Credentials::Nkey(seed.into());
        self
    }

    /// Proves with the JWT and the seed in this file, as `nsc` writes it, who asks. It is read once, when the connection is made.
    #[must_use]
    pub fn credentials_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.credentials = Credentials::File(file.into());
        self
    }

    /// How a connection over TLS is made. Default: TLS if the server asks for it or the address begins with `tls://`, and the system's root certificates.
    #[must_use]
    pub fn tls(mut self, tls: NatsTls) -> Self {
        self.tls = tls;
        self
    }

    /// Keeps every message so long, settled or not, so that a group may [begin with the past](crate::Subscribe::starting). It holds for a stream that is made from
    /// now on; [`Capabilities::replay`](crate::Capabilities::replay) says how it is. Default: a message goes when all groups that want it have settled it.
    ///
    /// The price: a group that is further behind than this **loses what is older**, where it would lose nothing otherwise; and
    /// [`max_messages`](Self::max_messages) and [`max_bytes`](Self::max_bytes) bound all that was published within the span.
    #[must_use]
    pub const fn retain(mut self, span: Duration) -> Self {
        self.retain = Some(span);
        self
    }

    /// On how many servers of a cluster each message lies, from 1 to 5. It holds for streams that are made from now on. Default 1, as a
    /// single server allows no more.
    #[must_use]
    pub const fn replicas(mut self, servers: usize) -> Self {
        self.replicas = servers;
        self
    }

    /// How many messages all groups together may leave unhandled; at the bound a publish waits, and is refused with
    /// [`Error::Full`](crate::Error::Full) in the end. It holds for streams that are made from now on. Default 1,000,000.
    #[must_use]
    pub const fn max_messages(mut self, messages: u64) -> Self {
        self.max_messages = messages;
        self
    }

    /// The same in bytes. The server sets them aside on its disk, beside 64 MiB for notes and
    /// [`Limits::dead_letter_bytes`](crate::Limits::dead_letter_bytes), and refuses to make streams that do not fit. Default 1 GiB.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// For how long the server recognises a message that comes again with the same id, and takes it once. It holds for
    /// streams that are made from now on. Default 2 minutes, the server's own.
    #[must_use]
    pub const fn dedup_window(mut self, span: Duration) -> Self {
        self.dedup_window = span;
        self
    }

    /// After how long without a word of its handler's process a message is delivered to another one. While a handler is at
    /// work its process says so at every third of this. It holds for groups that are made from now on. Default 30 s.
    #[must_use]
    pub const fn ack_wait(mut self, span: Duration) -> Self {
        self.ack_wait = span;
        self
    }

    /// How many messages of one group may be under way or wait for their next attempt; beyond that the group gets no
    /// new ones. It holds for groups that are made from now on. Default 50,000: failing ones should not soon hold up good
    /// ones, and the server remembers each.
    #[must_use]
    pub const fn max_unsettled(mut self, messages: u32) -> Self {
        self.max_unsettled = messages;
        self
    }

    /// How many publishes are on their way to the server at once; others wait for their turn. 0 means the same as 1. Default
    /// 1,024.
    #[must_use]
    pub const fn publish_window(mut self, publishes: usize) -> Self {
        self.publish_window = if publishes == 0 { 1 } else { publishes };
        self
    }

    /// How long a question to the server, or a publish without a nearer deadline, waits for its answer, reconnections
    /// included. Default 5 s.
    #[must_use]
    pub const fn call_within(mut self, span: Duration) -> Self {
        self.call_within = span;
        self
    }

    /// How often the connection is tried. A server that has gone without a word is noticed after three times this. Default 5 s.
    #[must_use]
    pub const fn ping_interval(mut self, span: Duration) -> Self {
        self.ping_interval = span;
        self
    }

    /// Only looks at a broker that is there: connecting to one whose streams are not there fails with
    /// [`NatsError::NoBroker`] instead of making them. For tools, which may have the name wrong.
    #[must_use]
    pub const fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    pub(crate) fn check(&self) -> Result<(), NatsError> {
        let name = &*self.namespace;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return Err(NatsError::Namespace(name.chars().take(32).collect()));
        }
        Ok(())
    }
}

/// Without the credentials.
impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("namespace", &self.namespace)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
