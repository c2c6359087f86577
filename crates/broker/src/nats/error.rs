/// What is wrong with a NATS server, or with what lies there. The source of an
/// [`Error::Engine`](crate::Error::Engine).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// No connection, or no answer in time.
    #[error("NATS server cannot be reached")]
    Unreachable(#[source] gusset_call::BoxError),
    /// No answer in time. What was asked for may have been done.
    #[error("no answer from the NATS server in time")]
    Late,
    /// The server does not run JetStream, or not for this account.
    #[error("the NATS server has no JetStream here; start it with -js")]
    NoJetStream,
    /// The server is too old for what this engine needs.
    #[error("NATS server {0} is older than 2.9")]
    OldServer(String),
    /// The file with the credentials cannot be read.
    #[error("the credentials for NATS cannot be read")]
    Credentials(#[source] gusset_call::BoxError),
    /// TLS is needed: feature `nats-tls`.
    #[error("the connection needs TLS: enable the feature nats-tls")]
    NoTls,
    /// Not a name for a namespace.
    #[error("{0:?} is no namespace")]
    Namespace(String),
    /// There is no such stream, and none was to be [made](crate::NatsOptions::existing).
    #[error("no broker there: no stream {0}")]
    NoBroker(String),
    /// A stream or a consumer of this name is there, and was not made by this engine.
    #[error("{0} exists and is none of this broker's")]
    Foreign(String),
    /// It was written by a later version.
    #[error("{what} has format {format}, this program knows formats up to 1")]
    Newer {
        /// What it is.
        what: String,
        /// Its format.
        format: u32,
    },
    /// The server refused.
    #[error("NATS server refused: {description} (error {code})")]
    Refused {
        /// JetStream's number of the error.
        code: u64,
        /// What the server says.
        description: String,
    },
    /// The answer of the server is none that this engine can read.
    #[error("strange answer of the NATS server: {0}")]
    Strange(String),
    /// The client has ended.
    #[error("the connection to NATS is closed")]
    Ended,
}
