//! Which faults there are.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// Something that goes wrong on purpose. It is written as it is named over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Payments take 700 ms longer.
    PaymentSlow,
    /// Payments are answered 503, and are not made.
    PaymentFails,
    /// Payments are not answered, and are not made.
    PaymentHangs,
    /// Payments are made, and answered 503 all the same.
    PaymentMute,
    /// `payment-service-1` of two is killed.
    PaymentKilled,
    /// `payment-service-1` of two stands still.
    PaymentFrozen,
    /// `product-service-2` of three is killed.
    ProductKilled,
    /// `product-service-2` of three stands still.
    ProductFrozen,
    /// `order-service-1` of two is killed.
    OrderKilled,
    /// `order-service-1` of two stands still.
    OrderFrozen,
    /// `user-service-1`, the only one, is killed.
    UserKilled,
    /// Every other message is lost: before it is taken, after that, on its way to a handler, or when that says that it is done.
    MessagesDropped,
    /// Messages are delivered 500 ms later.
    MessagesDelayed,
    /// Mails take 200 ms each.
    MailSlow,
    /// No mail can be sent.
    MailFails,
    /// The registry answers nothing but errors. Who is silent for longer than the TTL of the registry is taken for dead, and so all may be, by and by.
    RegistryFails,
    /// The registry answers nothing.
    RegistryFrozen,
    /// The Redis of the shop is not there.
    RedisDown,
    /// The PostgreSQL of the shop is not there.
    PostgresDown,
    /// The server of the shop's broker is not there.
    BrokerDown,
    /// The server of the shop's registry stands still.
    RegistryStopped,
}

/// What happens to an instance as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hurt {
    Killed,
    Frozen,
}

/// Everything about a fault, in the order of the enum.
const TABLE: [(Fault, &str, &str); 21] = {
    use Fault::{
        BrokerDown, MailFails, MailSlow, MessagesDelayed, MessagesDropped, OrderFrozen,
        OrderKilled, PaymentFails, PaymentFrozen, PaymentHangs, PaymentKilled, PaymentMute,
        PaymentSlow, PostgresDown, ProductFrozen, ProductKilled, RedisDown, RegistryFails,
        RegistryFrozen, RegistryStopped, UserKilled,
    };
    [
        (PaymentSlow, "payment-slow", "payments take 700 ms longer"),
        (PaymentFails, "payment-fails", "payments are refused with 503"),
        (PaymentHangs, "payment-hangs", "payments are not answered"),
        (PaymentMute, "payment-mute", "payments are made, and answered 503"),
        (PaymentKilled, "payment-killed", "one of two instances of the payment service is killed"),
        (
            PaymentFrozen,
            "payment-frozen",
            "one of two instances of the payment service stands still",
        ),
        (
            ProductKilled,
            "product-killed",
            "one of three instances of the product service is killed",
        ),
        (
            ProductFrozen,
            "product-frozen",
            "one of three instances of the product service stands still",
        ),
        (OrderKilled, "order-killed", "one of two instances of the order service is killed"),
        (OrderFrozen, "order-frozen", "one of two instances of the order service stands still"),
        (UserKilled, "user-killed", "the only instance of the user service is killed"),
        (MessagesDropped, "messages-dropped", "every other message or its acknowledgement is lost"),
        (MessagesDelayed, "messages-delayed", "messages are delivered 500 ms later"),
        (MailSlow, "mail-slow", "a mail takes 200 ms"),
        (MailFails, "mail-fails", "no mail can be sent"),
        (RegistryFails, "registry-fails", "the registry answers with errors"),
        (RegistryFrozen, "registry-frozen", "the registry does not answer"),
        (RedisDown, "redis-down", "Redis is not there"),
        (PostgresDown, "postgres-down", "PostgreSQL is not there"),
        (BrokerDown, "broker-down", "the broker's server is not there"),
        (RegistryStopped, "registry-stopped", "the registry's server stands still"),
    ]
};

impl Fault {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.into_iter().map(|(fault, ..)| fault)
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// What it means, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// Whether it is about a server beside the shop.
    #[must_use]
    pub const fn is_of_a_server(self) -> bool {
        matches!(
            self,
            Self::RedisDown | Self::PostgresDown | Self::BrokerDown | Self::RegistryStopped
        )
    }

    /// What it does to which instance, if that is what it does.
    pub(crate) const fn on_instance(self) -> Option<(&'static str, Hurt)> {
        Some(match self {
            Self::PaymentKilled => ("payment-service-1", Hurt::Killed),
            Self::PaymentFrozen => ("payment-service-1", Hurt::Frozen),
            Self::ProductKilled => ("product-service-2", Hurt::Killed),
            Self::ProductFrozen => ("product-service-2", Hurt::Frozen),
            Self::OrderKilled => ("order-service-1", Hurt::Killed),
            Self::OrderFrozen => ("order-service-1", Hurt::Frozen),
            Self::UserKilled => ("user-service-1", Hurt::Killed),
            _ => return None,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = TABLE.into_iter().find(|(_, name, _)| *name == text);
        found.map(|(fault, ..)| fault).ok_or_else(|| format!("there is no fault {text:?}"))
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Some faults.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::all().filter(move |&fault| self.has(fault))
    }

    /// Whether that changed anything.
    pub(crate) const fn set(&mut self, fault: Fault, on: bool) -> bool {
        let before = self.0;
        let bit = 1 << fault as u32;
        self.0 = if on { before | bit } else { before & !bit };
        self.0 != before
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(all: I) -> Self {
        let mut faults = Self::default();
        for fault in all {
            faults.set(fault, true);
        }
        faults
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
