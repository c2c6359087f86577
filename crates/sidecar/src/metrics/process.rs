//! What the system says about this process, under the names that Prometheus' own clients use.

use std::{fs, str::FromStr};

use super::{registry::Metrics, samples::Samples};

impl Metrics {
    /// Adds what the system says of this process: `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
    /// `process_open_fds`, `process_max_fds`, `process_threads` and `process_start_time_seconds`. On Linux; elsewhere it adds nothing. They are asked for when the metrics are
    /// read, which takes longer with thousands of open files. To add them twice changes nothing.
    pub fn report_process(&self) {
        if !self.registry().reports_process() {
            self.on_render(|samples| {
                // Nothing of it exists elsewhere, and nobody else is told of what cannot be read.
                let read = |name: &str| fs::read_to_string(format!("/proc/{name}"));
                let text = |name| read(name).unwrap_or_default();
                let process = [text("self/stat"), text("self/status"), text("self/limits")];
                report(samples, &process, &text("stat"));
                if let Ok(files) = fs::read_dir("/proc/self/fd") {
                    // One of them is the look at them.
                    let open = files.count().saturating_sub(1);
                    let help = "Number of open file descriptors.";
                    samples.gauge("process_open_fds", help, &[], open as f64);
                }
            });
        }
    }
}

/// What Linux tells user programs the length of a clock tick is, on every processor that Rust knows.
const TICKS: f64 = 100.0;

fn report(samples: &mut Samples, [stat, status, limits]: &[String; 3], system: &str) {
    // The name of the program stands in brackets, and may have any letters in it.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    // Numbered as in proc(5), where the state after the name is the third.
    let field = |number: usize| number_in(fields, number - 3);
    if let (Some(user), Some(kernel)) = (field(14), field(15)) {
        let help = "Total user and system CPU time spent in seconds.";
        samples.counter("process_cpu_seconds_total", help, &[], (user + kernel) / TICKS);
    }
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            samples.gauge(name, help, &[], value);
        }
    };
    gauge("process_threads", "Number of threads.", field(20));
    let booted = line(system, "btime").and_then(|rest| number_in(rest, 0));
    gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        field(22).zip(booted).map(|(ticks, booted)| booted + ticks / TICKS),
    );
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23));
    let resident = line(status, "VmRSS:").and_then(|rest| number_in(rest, 0));
    let resident = resident.map(|kibibytes| kibibytes * 1024.0);
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident);
    let most = line(limits, "Max open files").and_then(|rest| number_in(rest, 0));
    gauge("process_max_fds", "Maximum number of open file descriptors.", most);
}

/// What stands behind `name` at the beginning of a line.
fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn number_in(text: &str, place: usize) -> Option<f64> {
    f64::from_str(text.split_whitespace().nth(place)?).ok().filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::collected::Value;

    fn figures(process: [&str; 3], system: &str) -> Vec<(String, f64)> {
        let mut samples = Samples::default();
        report(&mut samples, &process.map(str::to_owned), system);
        let all = samples.into_families().flat_map(|family| {
            let name = family.name.into_owned();
            family.points.into_iter().map(move |point| (name.clone(), point.value))
        });
        let floats = all.filter_map(|(name, value)| match value {
            Value::Float(value) => Some((name, value)),
            _ => None,
        });
        floats.collect()
    }

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "4242 (a b) R) S 1 4242 4242 0 -1 4194560 1 2 3 4 250 150 0 0 20 0 9 0 1000 12345678 99 18446744073709551615";
        let status = "Name:\ta b\nVmRSS:\t    512 kB\n";
        let limits = "Limit Soft Limit Hard Limit Units\nMax open files            1024                 524288               files\n";
        let figures = figures([stat, status, limits], "cpu 1 2\nbtime 1700000000\n");
        assert_eq!(
            figures,
            [
                ("process_cpu_seconds_total".into(), 4.0),
                ("process_max_fds".into(), 1_024.0),
                ("process_resident_memory_bytes".into(), 524_288.0),
                ("process_start_time_seconds".into(), 1_700_000_010.0),
                ("process_threads".into(), 9.0),
                ("process_virtual_memory_bytes".into(), 12_345_678.0),
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(figures(["", "VmRSS: x", "Max open files unlimited"], "btime"), []);
        assert_eq!(figures(["1 (", ") S 1", ""], ""), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_real() {
        let metrics = Metrics::new();
        metrics.report_process();
        metrics.report_process();
        let families = metrics.collect().families;
        let of = |name: &str| match families.iter().find(|family| family.name == name) {
            Some(family) => match family.points[..] {
                [ref point] => match point.value {
                    Value::Float(value) => value,
                    ref other => panic!("{other:?}"),
                },
                ref other => panic!("{other:?}"),
            },
            None => panic!("{name} is not there"),
        };
        assert!(of("process_resident_memory_bytes") > 100_000.0);
        assert!(of("process_virtual_memory_bytes") > of("process_resident_memory_bytes"));
        assert!(of("process_open_fds") >= 3.0 && of("process_open_fds") <= of("process_max_fds"));
        assert!(of("process_threads") >= 1.0 && of("process_cpu_seconds_total") >= 0.0);
        // Not long ago, and the clock of the wall may be wrong by a little.
        let now = metrics.collect().unix_nanos as f64 / 1e9;
        let age = now - of("process_start_time_seconds");
        assert!((-60.0..100_000.0).contains(&age), "{age}");
    }
}
