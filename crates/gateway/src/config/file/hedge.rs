use std::num::NonZeroU32;

use gusset_sidecar::{HedgePolicy, Ratio};

use crate::config::{Fields, Section, Size, Span};

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
