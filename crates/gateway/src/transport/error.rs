use std::{fmt, io};

/// Why an instance gave no answer, or none that can be understood.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// No connection could be made, so nothing was sent.
    Connect(io::Error),
    /// A connection that had served before ended without a byte of an answer. As a rule the instance had closed it when the request came.
    Stale(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The answer is no HTTP/1.1, for this reason.
    Malformed(&'static str),
    /// The body is longer or shorter than its length said.
    WrongLength,
}

impl TransportError {
    /// Whether the instance cannot have seen anything of the request.
    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// The connection ended before the answer did.
    pub(crate) fn ended_early() -> Self {
        Self::Broken(io::ErrorKind::UnexpectedEof.into())
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection could be made"),
            Self::Stale(_) => f.write_str("a connection in use ended without an answer"),
            Self::Broken(_) => f.write_str("the connection broke"),
            Self::Malformed(reason) => write!(f, "the answer is no HTTP/1.1: {reason}"),
            Self::WrongLength => f.write_str("the request's body is not as long as it said"),
        }
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Stale(error) | Self::Broken(error) => Some(error),
            Self::Malformed(_) | Self::WrongLength => None,
        }
    }
}
