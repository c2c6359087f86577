//! Several upstreams by weight, and what becomes of the weights.

use std::time::Duration;

use http::HeaderName;
use serde_json::{Value as Json, json};

use crate::{
    Ratio, Rollout, Sticky,
    config::{Fields, Place, Placed, Schema, Section, Setting, Value},
};

/// One of the upstreams that share the requests of a route.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct VariantSection {
    pub(in crate::config) name: Option<String>,
    pub(in crate::config) to: Placed<String>,
    pub(in crate::config) weight: u32,
}

impl VariantSection {
    /// What it is called.
    pub(in crate::config) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.to.value)
    }
}

impl Section for VariantSection {
    const NAME: &'static str = "variant";
    const ABOUT: &'static str = "One of the upstreams that share the requests of a route.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.optional("name", "What it is called. Default as its upstream.");
        let to = fields.required("to", "The upstream, by its name here.");
        let weight = fields.required(
            "weight",
            "Its part of the sum of all; with 0 it gets nothing until that changes.",
        );
        Some(Self { name, to: to?, weight: weight? })
    }
}

/// Upstreams that several routes share by weight.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct SplitSection {
    pub(in crate::config) variants: Placed<Vec<VariantSection>>,
    pub(in crate::config) sticky: Option<StickySection>,
    pub(in crate::config) rollout: Option<RolloutSection>,
}

impl Section for SplitSection {
    const NAME: &'static str = "split";
    const ABOUT: &'static str = "Several upstreams by weight, for all routes that name it: their weights and their rollout are one.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let variants = fields.required("variants", "The upstreams and their weights.");
        let sticky = fields.optional(
            "sticky",
            "Clients stay with their variant, on routes that do not say otherwise. Default by chance.",
        );
        let rollout = fields.optional("rollout", "A variant takes over step by step.");
        Some(Self { variants: variants?, sticky, rollout })
    }
}

/// The split of a route.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum SplitField {
    Own(Placed<Vec<VariantSection>>),
    Named(Placed<String>),
}

impl Setting for SplitField {
    fn read(value: &Value<'_>) -> Option<Self> {
        match value.is_text() {
            true => Placed::read(value).map(Self::Named),
            false => Placed::read(value).map(Self::Own),
        }
    }

    fn describe(schema: &mut Schema) -> Json {
        json!({ "anyOf": [Vec::<VariantSection>::describe(schema), { "type": "string" }] })
    }
}

/// What keeps clients with their variant.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct StickySection(pub(in crate::config) Sticky);

impl Section for StickySection {
    const NAME: &'static str = "sticky";
    const ABOUT: &'static str = "Clients stay with the variant that they got.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let cookie: Option<String> = fields.optional(
            "cookie",
            "By a cookie of this name, which clients without one get for the session of the browser.",
        );
        let header: Option<HeaderName> =
            fields.optional("header", "By this field; requests without it go by chance.");
        let sender: Option<bool> = fields.optional(
            "sender",
            "true: by the authenticated sender where the route asks for one, and else by the address.",
        );
        fields.one_of(&["cookie", "header", "sender"]);
        if sender == Some(false) {
            fields.wrong("sender", "nothing is left to tell clients by; leave sticky out");
        }
        // Names of cookies and of fields are both tokens of HTTP.
        if cookie.as_deref().is_some_and(|name| name.parse::<HeaderName>().is_err()) {
            fields.wrong("cookie", "it is no name of a cookie");
        }
        match (cookie, header, sender) {
            (Some(name), _, _) => Some(Self(Sticky::cookie(name))),
            (_, Some(name), _) => Some(Self(Sticky::header(name.as_str()))),
            (_, _, Some(true)) => Some(Self(Sticky::sender())),
            _ => None,
        }
    }
}

/// How a variant takes over step by step.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RolloutSection {
    pub(in crate::config) variant: String,
    steps: Option<Vec<u8>>,
    hold: Option<Duration>,
    calls: Option<u64>,
    errors: Option<Ratio>,
    slower: Option<Slower>,
    pub(in crate::config) place: Place,
}

impl RolloutSection {
    pub(in crate::config) fn plan(&self) -> Rollout {
        let mut plan = Rollout::new();
        if let Some(steps) = &self.steps {
            plan = plan.steps(steps.iter().copied());
        }
        if let Some(span) = self.hold {
            plan = plan.hold(span);
        }
        if let Some(count) = self.calls {
            plan = plan.calls(count);
        }
        if let Some(share) = self.errors {
            plan = plan.errors(share);
        }
        match self.slower {
            Some(Slower(times)) => plan.slower(times),
            None => plan,
        }
    }
}

impl Section for RolloutSection {
    const NAME: &'static str = "rollout";
    const ABOUT: &'static str = "A variant gets more and more of the requests, and nothing as soon as it does worse than the others. It begins when the gateway starts, and when the file says something else of the split; over other reloads it goes on, and what an operator has ended stays so.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let variant = fields.required("variant", "The one that takes over, by its name.");
        let steps = fields.optional(
            "steps",
            "Parts in percent, 1 to 100, each more than the one before. Default [1, 5, 25, 50, 100].",
        );
        let hold = fields.optional("hold", "How long a step lasts at least. Default 5m.");
        let calls =
            fields.optional("calls", "How many requests a step takes at least. Default 100.");
        let errors = fields.optional(
            "errors",
            "By how much its share of failures may be above that of the others, 0 to 1. Default 0.01.",
        );
        let slower = fields.optional(
            "slower",
            "How many times longer it may take, or false: that does not matter. Default 1.5.",
        );
        let place = fields.place("");
        Some(Self { variant: variant?, steps, hold, calls, errors, slower, place })
    }
}

/// How many times longer a variant may take, if that matters.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slower(Option<f64>);

impl Setting for Slower {
    fn read(value: &Value<'_>) -> Option<Self> {
        match value.flag() {
            Some(false) => Some(Self(None)),
            _ => f64::read(value).map(|times| Self(Some(times))),
        }
    }

    fn describe(schema: &mut Schema) -> Json {
        json!({ "anyOf": [f64::describe(schema), { "const": false }] })
    }
}
