use super::*;
use crate::metrics::text::{Format, render};

fn page(metrics: &Metrics) -> String {
    render(&metrics.collect(), Format::Text)
}

#[test]
fn who_asks_for_a_name_again_gets_the_same_instrument() {
    let metrics = Metrics::new();
    metrics.counter("orders_total", "Orders.").add(2);
    metrics.counter("orders_total", "Orders.").increment();
    let by =
        |channel| metrics.counter_by("sales_total", "Sales.", ["channel"]).with([channel]).clone();
    by("web").increment();
    by("web").increment();
    by("phone").increment();
    assert_eq!(metrics.counter("orders_total", "Orders.").get(), 3);
    let text = page(&metrics);
    assert!(text.contains("\norders_total 3\n"), "{text}");
    assert!(
        text.contains("sales_total{channel=\"phone\"} 1\nsales_total{channel=\"web\"} 2\n"),
        "{text}"
    );
}

#[test]
fn a_name_that_is_taken_for_something_else_leaves_that_alone() {
    let metrics = Metrics::new();
    metrics.counter("orders_total", "Orders.").increment();
    metrics.gauge("orders_total", "Orders.").set(9.0);
    metrics.counter_by("orders_total", "Orders.", ["channel"]).with(["web"]).add(9);
    let text = page(&metrics);
    assert!(text.contains("\norders_total 1\n") && !text.contains('9'), "{text}");
    assert!(text.contains("gusset_instruments_refused_total 2\n"), "{text}");
}

#[test]
fn more_names_than_allowed_are_refused_and_counted() {
    let metrics = Metrics::new();
    for n in 0..MAX_FAMILIES + 3 {
        metrics.counter(format!("c{n}_total"), "C.").increment();
    }
    let text = page(&metrics);
    assert!(text.contains("\nc999_total 1\n") && !text.contains("\nc1000_total"));
    assert!(text.contains("gusset_instruments_refused_total 3\n"));
}

#[test]
fn values_without_end_are_counted_together() {
    let metrics = Metrics::new();
    let logins = metrics.counter_by("logins_total", "Logins.", ["user"]);
    for n in 0..MAX_MEMBERS + 7 {
        logins.with([&n.to_string()]).increment();
    }
    logins.with(["3"]).increment();
    let text = page(&metrics);
    assert!(text.contains("logins_total{user=\"3\"} 2\n"), "the old ones still count");
    assert!(text.contains("logins_total{otel_metric_overflow=\"true\"} 7\n"));
}

#[test]
fn values_are_not_mixed_up_by_where_one_ends() {
    let metrics = Metrics::new();
    let by = metrics.gauge_by("g", "G.", ["a", "b"]);
    by.with(["x", "yz"]).set(1.0);
    by.with(["xy", "z"]).set(2.0);
    assert_eq!((by.with(["x", "yz"]).get(), by.with(["xy", "z"]).get()), (1.0, 2.0));
}

#[test]
fn what_is_no_number_does_not_spoil_the_sum() {
    let metrics = Metrics::new();
    let sizes = metrics.histogram("sizes_bytes", "Sizes.", &[100.0, f64::NAN, 10.0, 10.0]);
    for value in [f64::NAN, f64::INFINITY, 10.0, 11.0, -1.0, 1e9] {
        sizes.record(value);
    }
    let spread = sizes.read();
    assert_eq!((&*spread.bounds, spread.buckets), (&[10.0, 100.0][..], vec![2, 1, 1]));
    assert_eq!(spread.sum, 1e9 + 20.0);
}

#[test]
fn a_histogram_has_room_for_as_many_bounds_as_it_says() {
    let bounds: Vec<_> = (0..100).map(f64::from).collect();
    let histogram = Metrics::new().histogram("h", "H.", &bounds);
    (0..100).for_each(|n| histogram.record(f64::from(n)));
    let spread = histogram.read();
    assert_eq!((spread.bounds.len(), spread.count(), spread.sum), (30, 100, 4_950.0));
    assert_eq!(spread.buckets[30], 70);
}

#[test]
fn what_is_held_is_given_back_even_by_a_panic() {
    let held = Metrics::new().gauge("held", "Held.");
    let thrown = std::panic::catch_unwind(|| {
        let (_one, _other) = (held.hold(), held.hold());
        panic!("{}", held.get())
    });
    assert_eq!(*thrown.unwrap_err().downcast::<String>().unwrap(), "2");
    assert_eq!(held.get(), 0.0);
}
