use std::{borrow::Cow, fmt, sync::Arc};

use crate::Message;

type Find = dyn Fn(&Message) -> Option<Cow<'_, str>> + Send + Sync;

/// By which key a group keeps the order of its messages.
///
/// Of the messages with one key, one at a time is ready, delayed by a failure or being handled, in the order of publishing; the next goes on when
/// that one is done or dead. So a key that fails holds up only itself. Messages without a key have no order.
///
/// Engines differ in what that costs. In memory and on files each key goes on by itself. On NATS a group with an order is given one message at a time, whichever its key, so a
/// message that fails, or was published for later, holds up its whole group.
#[derive(Clone)]
pub struct OrderBy {
    name: Arc<str>,
    /// Set if the key is the value of a header.
    header: Option<Arc<str>>,
    key: Arc<Find>,
}

impl OrderBy {
    /// By the value of this header.
    #[must_use]
    pub fn header(name: impl Into<Arc<str>>) -> Self {
        let header: Arc<str> = name.into();
        let (name, own) = (format!("header {header}"), header.clone());
        let order =
            Self::key(name, move |message| message.headers().get(&header).map(Cow::Borrowed));
        Self { header: Some(own), ..order }
    }

    /// By what `key` finds in a message; nothing, if the message has no order. It runs in the publish, outside of any lock; what it panics with, the publisher
    /// gets. When a group begins with the past ([`Start`](crate::Start)), it runs for what was retained before the subscription or declaration is ready; a panic there ends
    /// the group. The name tells one way from another: all members of a group give the same.
    #[must_use]
    pub fn key(
        name: impl Into<Arc<str>>,
        key: impl Fn(&Message) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), header: None, key: Arc::new(key) }
    }

    /// What tells it from another.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn header_name(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// The key of this message.
    #[must_use]
    pub fn of<'m>(&self, message: &'m Message) -> Option<Cow<'m, str>> {
        (self.key)(message)
    }
}

impl fmt::Debug for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OrderBy").field(&self.name).finish()
    }
}
