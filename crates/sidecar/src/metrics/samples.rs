//! Figures of others, which are asked for whenever the metrics are read.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use super::collected::{Family, FamilyKind, Label, Labels, Value, count};

/// Figures of others, as a source adds them to a reading; see [`Metrics::on_render`](crate::Metrics::on_render).
///
/// The unit is read from the end of the name, as Prometheus wants it there: `_seconds`, `_bytes`, `_ratio`, before `_total` if it is a count.
#[derive(Debug, Default)]
pub struct Samples {
    families: BTreeMap<String, Gathered>,
    count: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Gathered {
    family: Family,
    /// Where the point of these labels is: one combination of labels has one value, the last one given.
    places: HashMap<Labels, usize>,
}

/// At most this many samples of others are read; the rest is counted in `gusset_samples_dropped_total`.
const MAX_SAMPLES: usize = 10_000;

impl Samples {
    /// Adds a value that goes up and down.
    ///
    /// Letters that Prometheus does not allow in names become `_` on its page. A name that was used for the other kind before is
    /// ignored, and counted as a dropped sample.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.add(FamilyKind::Gauge, name, help, labels, value);
    }

    /// Adds a count that only grows; by convention its name ends in `_total`, and on Prometheus' page it always does.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.add(FamilyKind::Counter, name, help, labels, value);
    }

    fn add(
        &mut self,
        kind: FamilyKind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        if !self.families.contains_key(name) {
            if self.count >= MAX_SAMPLES {
                self.dropped += 1;
                return;
            }
            let family = Family::new(name.to_owned(), help.to_owned(), unit_of(name), kind);
            let gathered = Gathered { family, places: HashMap::new() };
            self.families.insert(name.to_owned(), gathered);
        }
        let Some(Gathered { family, places }) = self.families.get_mut(name) else { return };
        if family.kind != kind {
            self.dropped += 1;
            return;
        }
        let labels: Labels = labels
            .iter()
            .map(|(name, value)| (Cow::Owned((*name).to_owned()), Label::from((*value).to_owned())))
            .collect();
        let value = Value::Float(value);
        if let Some(place) = places.get(&labels) {
            family.points[*place].value = value;
        } else if self.count >= MAX_SAMPLES {
            self.dropped += 1;
        } else {
            self.count += 1;
            places.insert(labels.clone(), family.points.len());
            family.add(labels, value);
        }
    }

    /// All families, and one that tells how many samples were dropped.
    pub(crate) fn into_families(self) -> impl Iterator<Item = Family> {
        let dropped = Family::new(
            "gusset_samples_dropped_total",
            "Samples of sources beyond their bound, or of two kinds under one name.",
            "",
            FamilyKind::Counter,
        );
        let dropped = dropped.with(Vec::new(), count(self.dropped));
        self.families.into_values().map(|gathered| gathered.family).chain([dropped])
    }
}

/// The unit that a name in Prometheus' manner ends with.
pub(crate) fn unit_of(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit_once('_').map(|(_, unit)| unit) {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(samples: Samples, name: &str) -> Family {
        samples.into_families().find(|family| family.name == name).unwrap()
    }

    #[test]
    fn one_combination_of_labels_has_one_value_the_last() {
        let mut samples = Samples::default();
        samples.counter("c_total", "C.", &[("a", "1")], 1.0);
        samples.counter("c_total", "C.", &[("a", "1")], 2.0);
        samples.counter("c_total", "C.", &[("a", "2")], 3.0);
        let values: Vec<_> =
            family(samples, "c_total").points.into_iter().map(|point| point.value).collect();
        assert_eq!(values, [Value::Float(2.0), Value::Float(3.0)]);
    }

    #[test]
    fn more_samples_than_allowed_are_dropped_and_counted() {
        let mut samples = Samples::default();
        for n in 0..MAX_SAMPLES + 5 {
            samples.gauge("g", "G.", &[("n", &n.to_string())], 0.0);
        }
        samples.counter("g", "G.", &[], 1.0);
        for n in 0..MAX_SAMPLES {
            samples.gauge(&n.to_string(), "G.", &[], 0.0);
        }
        assert!(samples.families.len() == 1, "nor are names without end kept");
        let dropped = family(samples, "gusset_samples_dropped_total");
        assert_eq!(dropped.points[0].value, Value::Int(6 + MAX_SAMPLES as i64));
    }

    #[test]
    fn the_unit_stands_at_the_end_of_the_name() {
        for (name, unit) in [
            ("process_cpu_seconds_total", "s"),
            ("queue_bytes", "By"),
            ("gusset_retries_total", ""),
            ("seconds", ""),
        ] {
            assert_eq!(unit_of(name), unit, "{name}");
        }
    }
}
