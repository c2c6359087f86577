use gusset_call::TraceContext;

use super::*;
use crate::metrics::{collected::Label, samples::Samples};

fn of(families: impl IntoIterator<Item = Family>) -> Collected {
    Collected { families: families.into_iter().collect(), ..Collected::default() }
}

fn family(name: &'static str, unit: &'static str, kind: FamilyKind) -> Family {
    Family::new(name, "Help.", unit, kind)
}

#[test]
fn names_and_values_of_others_cannot_break_the_format() {
    let mut samples = Samples::default();
    let labels = [("l-1", "x\"y\\z\n"), ("l_1", "twice"), ("__name__", "forged"), ("le", "1")];
    samples.gauge("9 lives\n", "a\\b\nc", &labels, f64::NAN);
    samples.gauge("up", "Up.", &[], f64::INFINITY);
    samples.gauge("u.p", "Up.", &[], 1.0);
    samples.gauge("u_p", "Up.", &[], 2.0);
    samples.counter("u-p", "Up.", &[], 2.0);
    let text = render(&of(samples.into_families()), Format::Text);
    assert!(text.contains("# HELP _9_lives_ a\\\\b\\nc\n# TYPE _9_lives_ gauge\n"), "{text}");
    let labels = "l_1=\"x\\\"y\\\\z\\n\",label__name__=\"forged\",labelle=\"1\"";
    assert!(text.contains(&format!("_9_lives_{{{labels}}} NaN\n")), "{text}");
    assert!(text.contains("\nup +Inf\n"), "{text}");
    assert_eq!(text.matches("\nu_p ").count(), 1, "{text}");
    assert_eq!(text.matches("\nu_p_total 2\n").count(), 1, "{text}");
}

#[test]
fn a_name_ends_in_its_unit_and_a_counters_in_total_once() {
    use FamilyKind::{Counter, Gauge, Histogram, UpDownCounter};
    for (name, unit, kind, expected) in [
        ("http.server.request.duration", "s", Histogram, "http_server_request_duration_seconds"),
        ("http.server.active_requests", "{request}", UpDownCounter, "http_server_active_requests"),
        ("process_cpu_seconds_total", "s", Counter, "process_cpu_seconds_total"),
        ("process.cpu.time", "s", Counter, "process_cpu_time_seconds_total"),
        ("orders", "", Counter, "orders_total"),
        ("sent", "By", Counter, "sent_bytes_total"),
        ("load", "1", Gauge, "load_ratio"),
    ] {
        assert_eq!(prometheus_name(&family(name, unit, kind)), expected);
    }
}

#[test]
fn open_metrics_has_exemplars_and_an_end_and_the_old_text_has_not() {
    let cx: TraceContext =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let exemplar = Exemplar {
        value: 1.5,
        unix_nanos: 1_700_000_000_123_456_789,
        trace_id: cx.trace_id(),
        span_id: cx.span_id(),
    };
    let values = Distribution {
        bounds: (&[0.5, 1.0][..]).into(),
        buckets: vec![2, 1, 1],
        sum: 3.25,
        exemplars: vec![exemplar],
    };
    let labels = vec![("http.route".into(), Label::from("/a"))];
    let times =
        family("wait", "s", FamilyKind::Histogram).with(labels, Value::Distribution(values));
    let orders = family("orders", "", FamilyKind::Counter).with(Vec::new(), Value::Int(7));
    let all = of([times, orders]);
    let new = "# HELP orders Help.\n# TYPE orders counter\norders_total 7\n\
        # HELP wait_seconds Help.\n# TYPE wait_seconds histogram\n\
        wait_seconds_bucket{http_route=\"/a\",le=\"0.5\"} 2\n\
        wait_seconds_bucket{http_route=\"/a\",le=\"1.0\"} 3\n\
        wait_seconds_bucket{http_route=\"/a\",le=\"+Inf\"} 4 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",span_id=\"00f067aa0ba902b7\"} 1.5 1700000000.123\n\
        wait_seconds_sum{http_route=\"/a\"} 3.25\nwait_seconds_count{http_route=\"/a\"} 4\n# EOF\n";
    assert_eq!(render(&all, Format::OpenMetrics), new);
    let old = render(&all, Format::Text);
    assert!(old.starts_with("# HELP orders_total Help.\n# TYPE orders_total counter\n"), "{old}");
    assert!(old.contains("le=\"1\"} 3\n"), "{old}");
    assert!(!old.contains("trace_id") && !old.contains("EOF"), "{old}");
}
