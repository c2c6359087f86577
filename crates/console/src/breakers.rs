use gusset_breaker::Circuit;
use gusset_call::Refusal;
use serde_json::{Value, json};

use crate::{Sources, millis};

/// All circuits with their groups: those of gateways by upstream.
pub(crate) fn all(sources: &Sources) -> impl Iterator<Item = (String, Circuit)> + '_ {
    let own = sources
        .circuits
        .iter()
        .flat_map(|(group, read)| read().into_iter().map(|circuit| (group.to_string(), circuit)));
    let of_gateways = sources.gateways.iter().flat_map(|(name, gateway)| {
        let breakers = gateway.current().breakers();
        breakers
            .into_iter()
            .map(move |breaker| (format!("{name} → {}", breaker.upstream), breaker.circuit))
    });
    own.chain(of_gateways)
}

pub(crate) fn page(sources: &Sources) -> Value {
    let breakers = all(sources).map(|(group, circuit)| {
        let (stats, recent) = (circuit.stats(), circuit.recent());
        let refusal = circuit.peek();
        let retry = refusal.as_ref().and_then(Refusal::retry_after);
        json!({
            "group": group,
            "name": circuit.name(),
            "state": circuit.state().as_str(),
            "observing": circuit.is_observing(),
            "successes": stats.successes,
            "failures": stats.failures,
            "ignored": stats.ignored,
            "refused": stats.refused,
            "late": stats.late,
            "window": { "calls": recent.calls, "failures": recent.failures, "slow": recent.slow },
            "retry_ms": retry.map(millis),
            "cause": refusal.as_ref().and_then(|open| open.cause()),
        })
    });
    json!({ "breakers": breakers.collect::<Vec<_>>() })
}

/// What an operator has done with all circuits of this group and name; how many there are.
pub(crate) fn act(
    sources: &Sources,
    (group, name): (&str, &str),
    act: &str,
) -> Result<usize, String> {
    let act: fn(&Circuit) = match act {
        "force_open" => Circuit::force_open,
        "force_closed" => Circuit::force_closed,
        "disable" => Circuit::disable,
        "reset" => Circuit::reset,
        _ => return Err("do is force_open, force_closed, disable or reset".to_owned()),
    };
    let meant = all(sources).filter(|(of, circuit)| of == group && circuit.name() == name);
    match meant.map(|(_, circuit)| act(&circuit)).count() {
        0 => Err("there is no such circuit".to_owned()),
        count => Ok(count),
    }
}
