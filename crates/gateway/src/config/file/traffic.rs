//! Who else sees the requests of a route, and how many at once.

use std::num::NonZeroU32;

use serde_json::Value as Json;

use super::{HedgeSection, RolloutSection, StickySection};
use crate::{
    Priority, Ratio,
    config::{Fields, Place, Placed, Schema, Section, Setting, Size, Value},
};

/// Copies of a route's requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct MirrorSection {
    pub(in crate::config) to: Placed<String>,
    pub(in crate::config) share: Option<Ratio>,
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
