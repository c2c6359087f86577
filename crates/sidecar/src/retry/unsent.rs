//! Which errors prove that the service never saw a request.

use std::{error::Error, io};

/// `error` and what caused it.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        // The source of an `io::Error` is that of what it wraps, which itself would be passed over.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
        Some(cause)
    })
}

pub(super) fn never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(never_connected) || by_client(cause)
    })
}

fn never_connected(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::AddrNotAvailable
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

#[cfg(feature = "hyper")]
fn by_client(cause: &(dyn Error + 'static)) -> bool {
    use hyper_util::client::legacy;

    // Whatever was missing, from the address to the TLS handshake.
    cause.downcast_ref().is_some_and(legacy::Error::is_connect)
        // The connection was over before the request was written: hyper gives it back.
        || cause.downcast_ref().is_some_and(hyper::Error::is_canceled)
        || cause.downcast_ref().is_some_and(refused_by_peer)
}

/// RFC 9113: section 8.7 on `REFUSED_STREAM`; section 6.8 on `GOAWAY`, which h2 reports to the streams that it names as
/// not processed, and to no other.
#[cfg(feature = "hyper")]
fn refused_by_peer(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

#[cfg(not(feature = "hyper"))]
fn by_client(_: &(dyn Error + 'static)) -> bool {
    false
}
