//! The texts that Prometheus reads.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Write},
};

use super::collected::{
    Collected, Distribution, Exemplar, Family, FamilyKind, Labels, Point, Value,
};

/// In which form the metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format, version 0.0.4. It has no exemplars.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// Everything in `collected` under names that Prometheus allows: dots become `_`, units in words stand at the end.
pub(crate) fn render(collected: &Collected, format: Format) -> String {
    let mut text = String::new();
    for (name, families) in by_name(&collected.families) {
        // Writing to a string cannot fail.
        let _ = write_family(&mut text, format, &name, &families);
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// Names that differ may be one for Prometheus; of those with one name all have the kind of the first.
fn by_name(families: &[Family]) -> BTreeMap<String, Vec<&Family>> {
    let mut names: BTreeMap<_, Vec<&Family>> = BTreeMap::new();
    for family in families {
        let same = names.entry(prometheus_name(family)).or_default();
        if same.first().is_none_or(|first| type_of(first.kind) == type_of(family.kind)) {
            same.push(family);
        }
    }
    names
}

const fn type_of(kind: FamilyKind) -> &'static str {
    match kind {
        FamilyKind::Counter => "counter",
        FamilyKind::UpDownCounter | FamilyKind::Gauge => "gauge",
        FamilyKind::Histogram => "histogram",
    }
}

fn write_family(
    text: &mut String,
    format: Format,
    name: &str,
    families: &[&Family],
) -> fmt::Result {
    let Some(first) = families.first() else { return Ok(()) };
    let kind = type_of(first.kind);
    // OpenMetrics calls the family without the ending of its samples.
    let title = match format {
        Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        Format::Text => name,
    };
    writeln!(text, "# HELP {title} {}\n# TYPE {title} {kind}", Help(&first.help, format))?;
    let mut seen = HashSet::new();
    for point in families.iter().flat_map(|family| &family.points) {
        let labels = label_text(&point.labels);
        if seen.insert(labels.clone()) {
            write_point(text, format, name, &labels, point)?;
        }
    }
    Ok(())
}

fn write_point(
    text: &mut String,
    format: Format,
    name: &str,
    labels: &str,
    point: &Point,
) -> fmt::Result {
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    match &point.value {
        Value::Int(value) => writeln!(text, "{name}{braced} {value}"),
        Value::Float(value) => writeln!(text, "{name}{braced} {}", Number(*value)),
        Value::Distribution(values) => {
            write_buckets(text, format, name, labels, values)?;
            writeln!(text, "{name}_sum{braced} {}", Number(values.sum))?;
            writeln!(text, "{name}_count{braced} {}", values.count())
        }
    }
}

fn write_buckets(
    text: &mut String,
    format: Format,
    name: &str,
    labels: &str,
    values: &Distribution,
) -> fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0;
    for (bucket, inside) in values.buckets.iter().enumerate() {
        below += inside;
        write!(text, "{name}_bucket{{{labels}{comma}le=\"")?;
        match (values.bounds.get(bucket), format) {
            (None, _) => text.push_str("+Inf"),
            (Some(bound), Format::Text) => write!(text, "{bound}")?,
            // Here 1 is not 1.0.
            (Some(bound), Format::OpenMetrics) => write!(text, "{bound:?}")?,
        }
        write!(text, "\"}} {below}")?;
        let of = |exemplar: &&Exemplar| {
            values.bounds.partition_point(|bound| *bound < exemplar.value) == bucket
        };
        if let Some(exemplar) =
            values.exemplars.iter().find(of).filter(|_| format == Format::OpenMetrics)
        {
            let Exemplar { value, unix_nanos, trace_id, span_id } = exemplar;
            let (seconds, millis) = (unix_nanos / 1_000_000_000, unix_nanos / 1_000_000 % 1_000);
            write!(text, " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} ")?;
            write!(text, "{} {seconds}.{millis:03}", Number(*value))?;
        }
        text.push('\n');
    }
    Ok(())
}

/// The name with its unit and, for a counter, `_total` at the end, each of them once.
fn prometheus_name(family: &Family) -> String {
    let name = sane(&family.name, true);
    let counts = family.kind == FamilyKind::Counter;
    let mut name = match name.strip_suffix("_total") {
        Some(stem) if counts => stem.to_owned(),
        _ => name,
    };
    let unit = match &*family.unit {
        "s" => "seconds",
        "By" => "bytes",
        "1" if family.kind == FamilyKind::Gauge => "ratio",
        _ => "",
    };
    if !unit.is_empty() && !name.ends_with(unit) {
        name = format!("{name}_{unit}");
    }
    if counts {
        name.push_str("_total");
    }
    name
}

/// A name of letters that Prometheus allows.
fn sane(name: &str, colons: bool) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || colons && c == ':';
    let mut sane: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if !sane.starts_with(|c: char| !c.is_ascii_digit()) {
        sane.insert(0, '_');
    }
    sane
}

/// `a="1",b="2"`, or nothing. Of names that are one for Prometheus the first counts, and those that it keeps for itself are spared.
fn label_text(labels: &Labels) -> String {
    let mut names = HashSet::new();
    let mut text = String::new();
    for (name, value) in labels {
        let mut name = sane(name, false);
        if name.starts_with("__") || matches!(&*name, "le" | "quantile") {
            name.insert_str(0, "label");
        }
        if !names.insert(name.clone()) {
            continue;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&name);
        text.push_str("=\"");
        for c in value.to_string().chars() {
            push_escaped(&mut text, c, true);
        }
        text.push('"');
    }
    text
}

fn push_escaped(text: &mut String, c: char, quotes: bool) {
    match c {
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '"' if quotes => text.push_str("\\\""),
        c => text.push(c),
    }
}

struct Help<'a>(&'a str, Format);

impl fmt::Display for Help<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.chars().for_each(|c| push_escaped(&mut text, c, self.1 == Format::OpenMetrics));
        f.write_str(&text)
    }
}

/// A number as Prometheus writes it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => value.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
