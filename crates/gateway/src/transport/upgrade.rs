//! Connections that become another protocol's (RFC 9110, 7.8).

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::{
    connection::Connection,
    goodbye::{Goodbye, Side},
    places::Permit,
};
use crate::{headers::has_member, server::Held};

/// What a client wants its connection to become, if its instance does as well.
#[derive(Clone)]
pub(crate) struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
    /// The place of the client's connection.
    held: Option<Held>,
}

/// An answer whose connection has become one of this protocol.
#[derive(Clone, Debug)]
pub(crate) struct Switched(pub(crate) HeaderValue);

impl Wanted {
    /// What `head` asks for, if it is one of `allowed`. A request with a body asks for nothing: the next bytes would be of either protocol.
    pub(crate) fn of(head: &mut Parts, bodyless: bool, allowed: &[Box<str>]) -> Option<Self> {
        let asks = !allowed.is_empty() && bodyless && head.version == Version::HTTP_11;
        if !asks || !has_member(head.headers.get(header::CONNECTION)?, b"upgrade") {
            return None;
        }
        let mut protocols = head.headers.get_all(header::UPGRADE).iter();
        let (protocol, more) = (protocols.next()?, protocols.next());
        let is_allowed = |name: &str| protocol.as_bytes().eq_ignore_ascii_case(name.as_bytes());
        if more.is_some() || !allowed.iter().any(|name| is_allowed(name)) {
            return None;
        }
        let protocol = protocol.clone();
        let client = head.extensions.remove::<OnUpgrade>()?;
        Some(Self { protocol, client, held: head.extensions.remove() })
    }

    pub(super) const fn protocol(&self) -> &HeaderValue {
        &self.protocol
    }

    /// Whether an answer with these fields switches to what was wanted.
    pub(super) fn is_granted(&self, answer: &HeaderMap) -> bool {
        let granted = answer.get(header::UPGRADE).map(HeaderValue::as_bytes);
        granted.is_some_and(|granted| granted.eq_ignore_ascii_case(self.protocol.as_bytes()))
    }

    /// Passes bytes between the two until both have ended, one has broken, or the server has. Who speaks WebSocket is told before that the server is going away.
    pub(super) async fn tunnel(self, mut connection: Box<Connection>, permit: Option<Permit>) {
        let Self { client, held, protocol } = self;
        // It fails when the client has gone in between.
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        let early = connection.read.split().freeze();
        let leave = || {
            let held = held.clone();
            async move {
                match held {
                    Some(held) => held.leaving().await,
                    None => std::future::pending().await,
                }
            }
        };
        let flow = async {
            if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
                let instance = &mut connection.socket;
                let mut instance = Goodbye::new(instance, Side::Instance, early, leave());
                let mut client = Goodbye::new(client, Side::Client, Bytes::new(), leave());
                return copy_bidirectional(&mut client, &mut instance).await;
            }
            client.write_all(&early).await?;
            copy_bidirectional(&mut client, &mut connection.socket).await
        };
        let over = async {
            match held.clone() {
                Some(mut held) => held.over().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = flow => ended.is_ok(),
            () = over => false,
        };
        // What has ended regularly is closed like that, the rest is reset.
        connection.busy = !ended;
        drop(connection);
        // The place of the call goes with it, and not before.
        drop(permit);
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}
