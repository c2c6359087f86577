//! `/v1/agent/metrics`, in the text format of Prometheus.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use super::{
    answer::{Answer, Failure},
    record::Status,
    request::Call,
    server::{ConsulServer, ConsulStats},
};

/// Services with series of their own. Those behind them, in the order of names, are counted together.
const NAMED: usize = 1_000;
/// The name of all others, which no service has.
const OTHERS: &str = "";

/// Passing, warning, critical.
type Counts = [usize; 3];

impl ConsulServer {
    pub(super) async fn metrics(&self, call: &Call) -> Result<Answer, Failure> {
        if call.query.get("format") != Some("prometheus") {
            return Err(Failure::bad("only format=prometheus is served"));
        }
        let mut services: BTreeMap<Arc<str>, Counts> = BTreeMap::new();
        for entry in self.all_entries().await {
            let counts = services.entry(entry.service.def.name.clone()).or_default();
            counts[entry.status() as usize] += 1;
        }
        Ok(Answer::text(render(&self.stats(), services)))
    }
}

fn render(stats: &ConsulStats, services: BTreeMap<Arc<str>, Counts>) -> String {
    let mut text = String::new();
    family(&mut text, ("gusset_registry_instances", "gauge"), "Instances by their worst check.");
    let mut others: Option<Counts> = None;
    for (place, (name, counts)) in services.into_iter().enumerate() {
        if place < NAMED {
            instances(&mut text, &name, counts);
            continue;
        }
        let others = others.get_or_insert_default();
        others.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    if let Some(counts) = others {
        instances(&mut text, OTHERS, counts);
    }
    let mut number = |name: &str, kind: &str, help: &str, value: u64| {
        family(&mut text, (name, kind), help);
        let _ = writeln!(text, "{name} {value}");
    };
    let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    number("gusset_registry_keys", "gauge", "Keys of the key-value store.", wide(stats.keys));
    number("gusset_registry_watchers", "gauge", "Blocked requests.", wide(stats.watchers));
    let refused = "Requests refused for one of the bounds.";
    number("gusset_registry_refused_total", "counter", refused, stats.refused);
    #[cfg(feature = "file")]
    {
        let unsaved = "Times that the folder could not be written.";
        number("gusset_registry_unsaved_total", "counter", unsaved, stats.unsaved);
    }
    text
}

fn family(text: &mut String, (name, kind): (&str, &str), help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// All states, so that a rule finds the one with none in it.
fn instances(text: &mut String, service: &str, counts: Counts) {
    for status in [Status::Passing, Status::Warning, Status::Critical] {
        text.push_str("gusset_registry_instances{service=\"");
        for letter in service.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(letter),
            }
        }
        let _ = writeln!(text, "\",status=\"{}\"}} {}", status.name(), counts[status as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_services_there_are_the_series_are_bounded() {
        let services = (0..5_000).map(|n| (format!("s{n:04}").into(), [1, 0, 2]));
        let text = render(&ConsulStats::default(), services.collect());
        let series = text.lines().filter(|line| line.starts_with("gusset_registry_instances{"));
        assert_eq!(series.count(), (NAMED + 1) * 3);
        assert!(text.contains("{service=\"\",status=\"critical\"} 8000\n"), "{text}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let mut text = String::new();
        instances(&mut text, "a\"} 1\nb\\", [3, 0, 0]);
        assert!(
            text.starts_with(
                "gusset_registry_instances{service=\"a\\\"} 1\\nb\\\\\",status=\"passing\"} 3\n"
            ),
            "{text}"
        );
    }
}
