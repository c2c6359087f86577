//! How the client is told to connect, and to connect again.

use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use rand::RngExt;
use tokio::sync::watch;

use super::{NatsError, NatsOptions, NatsTls, options::Credentials};

pub(super) async fn client_options(options: &NatsOptions) -> Result<ConnectOptions, NatsError> {
    let mut connect = match &options.credentials {
        Credentials::None => ConnectOptions::new(),
        Credentials::Token(token) => ConnectOptions::with_token(token.clone()),
        Credentials::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.clone())
        }
        Credentials::Nkey(seed) => ConnectOptions::with_nkey(seed.clone()),
        Credentials::File(file) => ConnectOptions::with_credentials_file(file)
            .await
            .map_err(|error| NatsError::Credentials(error.into()))?,
    };
    let NatsTls { roots, identity, required } = options.tls.clone();
    if let Some(roots) = roots {
        connect = connect.add_root_certificates(roots);
    }
    if let Some((certificate, key)) = identity {
        connect = connect.add_client_certificate(certificate, key);
    }
    if required {
        connect = connect.require_tls(true);
    }
    let connect = connect
        .name(format!("gusset-broker {}", options.namespace))
        .connection_timeout(options.call_within)
        // Two without an answer end the connection: a server that is gone without a word is noticed after three spans.
        .ping_interval(options.ping_interval)
        .request_timeout(None)
        .reconnect_delay_callback(reconnect_delay);
    Ok(connect)
}

/// Exponential up to 2 s, the upper half of it at random, so that the clients of a server that comes back do not all
/// come at once.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
    let ceiling = Duration::from_millis(50 << doublings).min(Duration::from_secs(2));
    ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
}

pub(super) fn with_events(options: ConnectOptions, count: watch::Sender<u64>) -> ConnectOptions {
    let count = std::sync::Arc::new(count);
    options.event_callback(move |event| {
        match &event {
            Event::Connected => {
                count.send_modify(|count| *count += 1);
                tracing::info!("connected to NATS");
            }
            Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                tracing::warn!(%event, "NATS");
            }
            _ => tracing::info!(%event, "NATS"),
        }
        std::future::ready(())
    })
}

pub(super) fn wants_tls(servers: &str) -> bool {
    servers.split(',').any(|server| {
        server.split_once("://").is_some_and(|(scheme, _)| matches!(scheme.trim(), "tls" | "wss"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_before_a_reconnection_grows_to_two_seconds() {
        for attempt in [0, 1, 2, 5, 6, 7, 1_000, usize::MAX] {
            let delay = reconnect_delay(attempt);
            assert!(delay <= Duration::from_secs(2), "{attempt} {delay:?}");
        }
        assert!(reconnect_delay(1) <= Duration::from_millis(50));
        assert!(reconnect_delay(100) >= Duration::from_millis(800));
    }

    #[test]
    fn addresses_that_need_tls_are_recognised() {
        assert!(wants_tls("nats://a, tls://b"));
        assert!(!wants_tls("nats://a:4222,b:4222"));
    }
}
