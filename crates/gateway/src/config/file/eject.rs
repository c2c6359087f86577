use std::num::{NonZeroU32, NonZeroUsize};

use gusset_registry::{Ejection, Ratio, SuccessRate};
use serde_json::{Value as Json, json};

use crate::config::{Fields, Schema, Section, Setting, Span, Value};

/// Which instances are left out for a while.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Eject {
    Nobody,
    Those(EjectSection),
}

impl Eject {
    pub(in crate::config) fn ejection(&self) -> Option<Ejection> {
        match self {
            Self::Nobody => None,
            Self::Those(section) => Some(section.ejection()),
        }
    }
}

impl Setting for Eject {
    fn read(value: &Value<'_>) -> Option<Self> {
        if value.flag() == Some(false) {
            return Some(Self::Nobody);
        }
        if !value.is_table() {
            value.wrong("is neither false nor a table; write { failures_in_a_row = 5 }");
            return None;
        }
        <EjectSection as Setting>::read(value).map(Self::Those)
    }

    fn describe(schema: &mut Schema) -> Json {
        json!({ "anyOf": [{ "const": false }, EjectSection::describe(schema)] })
    }
}

/// When an instance is left out, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct EjectSection {
    failures_in_a_row: Option<NonZeroU32>,
    base: Option<Span>,
    longest: Option<Span>,
    share: Option<Ratio>,
    interval: Option<Span>,
    min_calls: Option<NonZeroU32>,
    min_instances: Option<NonZeroUsize>,
    deviations: Option<f64>,
}

impl EjectSection {
    fn ejection(&self) -> Ejection {
        let mut rate = SuccessRate::default();
        if let Some(span) = self.interval {
            rate = rate.interval(span.0);
        }
        if let Some(calls) = self.min_calls {
            rate = rate.min_calls(calls.get());
        }
        if let Some(instances) = self.min_instances {
            rate = rate.min_endpoints(instances.get());
        }
        if let Some(deviations) = self.deviations {
            rate = rate.deviations(deviations);
        }
        let mut ejection = Ejection::by_comparison().success_rate(rate);
        if let Some(failures) = self.failures_in_a_row {
            ejection = ejection.consecutive(failures.get());
        }
        if let Some(span) = self.base {
            ejection = ejection.base(span.0);
        }
        if let Some(span) = self.longest {
            ejection = ejection.longest(span.0);
        }
        match self.share {
            Some(share) => ejection.share(share),
            None => ejection,
        }
    }
}

impl Section for EjectSection {
    const NAME: &'static str = "eject";
    const ABOUT: &'static str =
        "Which instances are left out for a while because they fail more than the others.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let section = Self {
            failures_in_a_row: fields.optional(
                "failures_in_a_row",
                "After so many. Default: that is what the breaker judges by.",
            ),
            base: fields.optional("base", "For how long the first time. Default 30s."),
            longest: fields.optional("longest", "For how long at most. Default 5m."),
            share: fields.optional(
                "share",
                "Which part of the instances may be out at once, 0 to 1. Default 0.5.",
            ),
            interval: fields
                .optional("interval", "How often success rates are compared. Default 10s."),
            min_calls: fields.optional(
                "min_calls",
                "Instances with fewer requests in it are left aside. Default 100.",
            ),
            min_instances: fields.optional(
                "min_instances",
                "With fewer that have enough requests nothing is compared. Default 5.",
            ),
            deviations: fields.optional(
                "deviations",
                "How many standard deviations below the mean are too many. Default 1.9.",
            ),
        };
        if section.deviations.is_some_and(|deviations| deviations <= 0.0) {
            fields.wrong("deviations", "it is more than 0");
        }
        Some(section)
    }
}
