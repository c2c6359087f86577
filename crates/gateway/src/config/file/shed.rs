use std::num::NonZeroU32;

use serde_json::Value as Json;

use crate::{
    Concurrency, Ratio,
    config::{Fields, Schema, Section, Setting, Span, Value},
};

/// How many requests may wait for upstreams at once, over all routes.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ShedSection(pub(in crate::config) Concurrency);

impl Section for ShedSection {
    const NAME: &'static str = "shed";
    const ABOUT: &'static str = "How many requests may wait for upstreams at once, over all routes; above that they get 503, those of low priority sooner.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let fixed: Option<NonZeroU32> = fields.optional("fixed", "Always so many.");
        let adaptive = fields.optional(
            "adaptive",
            "As many as go well: gradient (falls when upstreams become slow), or aimd (when they say that they are overloaded, or take longer than timeout).",
        );
        fields.one_of(&["fixed", "adaptive"]);
        let min = fields.optional("min", "The least that adaptive may find. Default 4.");
        let max = fields.optional("max", "The most. Default 1000.");
        let initial = fields.optional("initial", "Where it begins. Default 20.");
        let timeout =
            fields.optional("timeout", "Requests that take longer say overload. Default 5s.");
        let low_percent: Option<u8> = fields.optional(
            "low_percent",
            "How many of a hundred places those of low priority may use. Default 80.",
        );
        if low_percent.is_some_and(|percent| percent > 100) {
            fields.wrong("low_percent", "it is a number from 0 to 100");
        }
        for name in ["min", "max", "initial", "timeout"] {
            if fields.has(name) && !fields.has("adaptive") {
                fields.wrong(name, "it is for adaptive, which is not there");
            }
        }
        let (least, most) = (min.map_or(4, NonZeroU32::get), max.map_or(1000, NonZeroU32::get));
        if least > most {
            let name = if fields.has("min") { "min" } else { "max" };
            fields
                .wrong(name, &format!("from {least} to {most} there is nothing; min is the less"));
        }
        let mut policy = match (fixed, adaptive) {
            (Some(places), _) => Concurrency::fixed(places),
            (_, Some(Adaptive::Gradient)) => Concurrency::gradient().between(least, most),
            (_, Some(Adaptive::Aimd)) => Concurrency::aimd().between(least, most),
            (None, None) => return None,
        };
        if let Some(places) = initial.map(NonZeroU32::get) {
            policy = policy.initial(places);
        }
        if let Some(Span(span)) = timeout {
            policy = policy.timeout(span);
        }
        Some(Self(
            low_percent.map_or(policy, |percent| policy.low_share(Ratio::percent(percent.into()))),
        ))
    }
}

/// What a limit follows.
#[derive(Clone, Copy)]
enum Adaptive {
    Gradient,
    Aimd,
}

const ADAPTIVE: [(&str, Adaptive); 2] =
    [("gradient", Adaptive::Gradient), ("aimd", Adaptive::Aimd)];

impl Setting for Adaptive {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.one_of(&ADAPTIVE)
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::choice(&ADAPTIVE.map(|(name, _)| name))
    }
}
