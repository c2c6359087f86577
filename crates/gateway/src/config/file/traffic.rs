//! Which of several upstreams takes a request of a route, and how many at once.

use std::{num::NonZeroU32, time::Duration};

use http::HeaderName;
use serde_json::{Value as Json, json};

use gusset_sidecar::{HedgePolicy, Ratio};

use crate::{
    Priority, Rollout, Sticky,
    config::{Fields, Place, Placed, Schema, Section, Setting, Size, Span, Value},
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
    errors: Option<f64>,
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

/// Copies of a route's requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct MirrorSection {
    pub(in crate::config) to: Placed<String>,
    pub(in crate::config) share: Option<f64>,
    pub(in crate::config) body_limit: Option<Size>,
    pub(in crate::config) at_once: Option<NonZeroU32>,
    pub(in crate::config) place: Place,
}

impl Section for MirrorSection {
    const NAME: &'static str = "mirror";
    const ABOUT: &'static str =
        "Copies of the requests go to another upstream, whose answers nobody sees.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let to = fields.required("to", "The upstream, by its name here.");
        let share =
            fields.optional("share", "The part of the requests that is copied, 0 to 1. Default 1.");
        let body_limit = fields
            .optional("body_limit", "Requests with longer bodies are not copied. Default 64KiB.");
        let at_once = fields.optional("at_once", "How many copies may be under way. Default 64.");
        Some(Self { to: to?, share, body_limit, at_once, place: fields.place("") })
    }
}

/// When slow requests are made a second time.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct HedgeSection {
    percentile: Option<u8>,
    floor: Option<Span>,
    min_samples: Option<u32>,
    hedges: Option<NonZeroU32>,
    bearable_percent: Option<u8>,
    body_limit: Option<Size>,
}

impl HedgeSection {
    pub(in crate::config) fn policy(&self) -> HedgePolicy {
        let mut policy = HedgePolicy::default();
        if let Some(percent) = self.percentile {
            policy = policy.quantile(Ratio::percent(percent.into()));
        }
        if let Some(span) = self.floor {
            policy = policy.floor(span.0);
        }
        if let Some(calls) = self.min_samples {
            policy = policy.min_samples(calls);
        }
        if let Some(hedges) = self.hedges {
            policy = policy.hedges(hedges.get());
        }
        if let Some(percent) = self.bearable_percent {
            policy = policy.bearable(Ratio::percent(percent.into()));
        }
        match self.body_limit {
            Some(size) => policy.body_limit(size.in_memory()),
            None => policy,
        }
    }
}

impl Section for HedgeSection {
    const NAME: &'static str = "hedge";
    const ABOUT: &'static str = "A slow request that may be made twice is made a second time, to another instance, and the first answer is taken; {} has all defaults.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let percentile = fields.optional(
            "percentile",
            "A request is slow when it takes longer than so many of a hundred did lately, 1 to 99. Default 95.",
        );
        if percentile.is_some_and(|percent: u8| !(1..=99).contains(&percent)) {
            fields.wrong("percentile", "it is a number from 1 to 99");
        }
        let floor = fields.optional("floor", "None is slow sooner than this. Default 1ms.");
        let min_samples =
            fields.optional("min_samples", "None is slow before so many were timed. Default 100.");
        let hedges = fields.optional("hedges", "How often one request is made again. Default 1.");
        let bearable_percent = fields.optional(
            "bearable_percent",
            "When more of a hundred are late or fail, none is made again, 1 to 100. Default 20.",
        );
        if bearable_percent.is_some_and(|percent: u8| !(1..=100).contains(&percent)) {
            fields.wrong("bearable_percent", "it is a number from 1 to 100");
        }
        let body_limit =
            fields.optional("body_limit", "The longest body that is kept for it. Default 64KiB.");
        Some(Self { percentile, floor, min_samples, hedges, bearable_percent, body_limit })
    }
}

/// What a route says of all that.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct TrafficFields {
    pub(in crate::config) sticky: Option<StickySection>,
    pub(in crate::config) rollout: Option<RolloutSection>,
    pub(in crate::config) mirror: Option<MirrorSection>,
    pub(in crate::config) hedge: Option<HedgeSection>,
    pub(in crate::config) in_flight: Option<NonZeroU32>,
    pub(in crate::config) priority: Option<Priority>,
}

impl TrafficFields {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let read = Self {
            sticky: fields
                .optional("sticky", "Clients stay with their variant. Default by chance."),
            rollout: fields.optional("rollout", "A variant takes over step by step."),
            mirror: fields.optional("mirror", "Copies of the requests go elsewhere as well."),
            hedge: fields
                .optional("hedge", "Slow requests are made a second time. Default not at all."),
            in_flight: fields.optional(
                "in_flight",
                "How many requests may be under way at once; above that they get 503. Default no limit.",
            ),
            priority: fields.optional(
                "priority",
                "Who is refused first where places are scarce: low before normal. Default normal.",
            ),
        };
        for name in ["sticky", "rollout"] {
            if fields.has(name) && !fields.has("split") {
                fields.wrong(name, "it is for the variants of split, which is not there");
            }
        }
        read
    }
}

const PRIORITIES: [(&str, Priority); 2] = [("normal", Priority::Normal), ("low", Priority::Low)];

impl Setting for Priority {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.one_of(&PRIORITIES)
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::choice(&PRIORITIES.map(|(name, _)| name))
    }
}
