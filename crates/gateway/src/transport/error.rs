use std::{fmt, io};

/// Why an instance gave no answer, or none that can be understood.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// No connection could be made, so nothing was sent.
    Connect(io::Error),
    /// The instance says that it has not looked at the request.
    #[cfg(feature = "http2")]
    Refused(h2::Error),
    /// A connection that had served before ended without a byte of an answer. As a rule the instance had closed it when the request came.
    Stale(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The answer is no HTTP/1.1, for this reason.
    Malformed(&'static str),
    /// The body is longer or shorter than its length said.
    WrongLength,
    /// Nothing of the answer's body has come for too long.
    Stalled,
}

impl TransportError {
    /// Whether the instance cannot have seen anything of the request.
    pub(crate) const fn is_unsent(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            #[cfg(feature = "http2")]
            Self::Refused(_) => true,
            _ => false,
        }
    }

    /// Of a stream, or of its connection. What the instance refused (RFC 9113, 8.7) or left out of those that it still serves when it goes away (6.8), it has not looked at.
    #[cfg(feature = "http2")]
    pub(super) fn of_stream(error: h2::Error) -> Self {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        if error.is_remote() && (refused || error.is_go_away()) {
            return Self::Refused(error);
        }
        Self::of_body(error)
    }

    /// Of a stream whose answer has begun, so that the instance has seen the request.
    #[cfg(feature = "http2")]
    pub(super) fn of_body(error: h2::Error) -> Self {
        Self::Broken(error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
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
            #[cfg(feature = "http2")]
            Self::Refused(_) => f.write_str("the instance refused the stream"),
            Self::Stale(_) => f.write_str("a connection in use ended without an answer"),
            Self::Broken(_) => f.write_str("the connection broke"),
            Self::Malformed(reason) => write!(f, "the answer is no HTTP/1.1: {reason}"),
            Self::WrongLength => f.write_str("the request's body is not as long as it said"),
            Self::Stalled => f.write_str("the body of the answer does not go on"),
        }
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Stale(error) | Self::Broken(error) => Some(error),
            #[cfg(feature = "http2")]
            Self::Refused(error) => Some(error),
            Self::Malformed(_) | Self::WrongLength | Self::Stalled => None,
        }
    }
}
