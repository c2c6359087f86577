use std::net::SocketAddr;

use super::RetrySection;
use crate::config::{Fields, Placed, Section};

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct UpstreamSection {
    pub(in crate::config) service: Option<Placed<String>>,
    pub(in crate::config) addresses: Vec<SocketAddr>,
    pub(in crate::config) retry: Option<RetrySection>,
}

impl Section for UpstreamSection {
    const NAME: &'static str = "upstream";
    const ABOUT: &'static str = "A service, or fixed addresses.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let service = fields.optional("service", "A service that the registry knows.");
        let addresses: Vec<_> = fields.list("addresses", "Addresses with ports.");
        fields.one_of(&["service", "addresses"]);
        let retry = fields.optional("retry", "When requests are tried again.");
        Some(Self { service, addresses, retry })
    }
}
