use gusset_gateway::{Rollout, RolloutState, Split};
use serde_json::{Value, json};

use crate::{Sources, millis};

pub(crate) fn page(sources: &Sources) -> Value {
    let splits = sources.splits.iter().map(|(name, split)| {
        let variants = split.stats().into_iter().map(|variant| {
            json!({
                "name": &*variant.name,
                "upstream": variant.upstream.to_string(),
                "weight": variant.weight,
                "calls": variant.calls,
                "failures": variant.failures,
                "p95_ms": millis(variant.p95),
            })
        });
        let rollout = split.rollout().map(|rollout| {
            let (state, why) = match rollout.state {
                RolloutState::Running => ("running", None),
                RolloutState::Done => ("done", None),
                RolloutState::Aborted(why) => ("aborted", Some(why.to_string())),
                _ => ("other", None),
            };
            json!({
                "variant": &*rollout.variant,
                "percent": rollout.percent,
                "state": state,
                "why": why,
                "calls": rollout.calls,
                "failures": rollout.failures,
            })
        });
        let variants = variants.collect::<Vec<_>>();
        json!({ "name": &**name, "variants": variants, "rollout": rollout })
    });
    json!({ "splits": splits.collect::<Vec<_>>() })
}

/// What an operator has done with a split.
pub(crate) fn act(sources: &Sources, split: &str, act: &str, variant: &str) -> Result<(), String> {
    let found = sources.splits.iter().find(|(name, _)| **name == *split);
    let split: &Split = &found.ok_or("there is no such split")?.1;
    let done = match act {
        "roll_out" => split.roll_out(variant, Rollout::new()),
        "promote" => split.switch_to(variant),
        "abort" => {
            split.revert();
            Ok(())
        }
        _ => return Err("do is roll_out, promote or abort".to_owned()),
    };
    done.map_err(|error| error.to_string())
}
