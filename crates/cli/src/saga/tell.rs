//! How sagas are printed.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use gusset_saga::{Event, Failure, Json, Order, Record, Report, State, Summary};
use serde::Serialize;

use crate::text::{clean, date};

/// Longest value that a story shows, in characters; JSON has all of it.
const LONGEST: usize = 200;

pub(super) fn state(state: State) -> String {
    word(&state)
}

/// As JSON has it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

fn at(millis: u64) -> String {
    date(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

/// Columns as wide as they have to be.
pub(super) fn table(page: &[Summary]) -> String {
    let heads = ["ID", "STATE", "DEFINITION", "RECORDS", "BEGAN", "CHANGED", "HELD BY"];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(page.iter().map(|saga| {
        [
            saga.saga.to_string(),
            state(saga.state),
            format!("{} {}", clean(&saga.definition), saga.version),
            saga.records.to_string(),
            at(saga.created_at),
            at(saga.changed_at),
            saga.node.as_deref().map_or_else(|| "-".into(), clean),
        ]
    }));
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn json_lines(page: &[Summary]) -> String {
    page.iter().map(|saga| serde_json::to_string(saga).unwrap_or_default() + "\n").collect()
}

pub(super) fn json(report: &Report, records: &[Record]) -> String {
    #[derive(Serialize)]
    struct Story<'a> {
        report: &'a Report,
        records: &'a [Record],
    }
    serde_json::to_string(&Story { report, records }).unwrap_or_default() + "\n"
}

pub(super) fn story(report: &Report, records: &[Record]) -> String {
    let mut text = String::new();
    let mut tell = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {}", clean(value));
    };
    tell("saga", report.saga.as_str());
    tell("definition", &format!("{} {}", report.definition, report.version));
    tell("state", &state(report.state));
    if let Some(reason) = &report.blocked {
        tell("blocked", reason);
    }
    if let Some(failure) = &report.failure {
        tell("turned back", &failure.to_string());
    }
    for skipped in &report.skipped {
        tell("skipped", &format!("undo of {}: {}", skipped.step, skipped.note));
    }
    for step in &report.steps {
        tell("step", &format!("{}: {}", step.name, word(&step.state)));
    }
    text.push('\n');
    let mut back = false;
    for record in records {
        let (sequence, epoch) = (record.sequence, record.epoch);
        let what = clean(&happened(report, &record.event));
        let millis = record.at % 1_000;
        let date = at(record.at).replace('Z', &format!(".{millis:03}Z"));
        back |= turns(&record.event);
        let opens = opens(report, record, back);
        let _ = writeln!(text, "{sequence:>4}  {date}  epoch {epoch}  {what}{opens}");
        for error in earlier(&record.event) {
            let _ = writeln!(text, "{:<40}  earlier: {}", "", clean(error));
        }
    }
    text
}

fn turns(event: &Event) -> bool {
    match event {
        Event::Failed { .. } | Event::Expired { .. } => true,
        Event::Ordered { order, refused, .. } => *order == Order::TurnBack && refused.is_none(),
        _ => false,
    }
}

fn name(report: &Report, step: u32) -> &str {
    report.steps.get(step as usize).map_or("?", |step| &step.name)
}

fn opens(report: &Report, record: &Record, back: bool) -> String {
    if record.opens.is_empty() {
        return String::new();
    }
    let names: Vec<_> = record.opens.iter().map(|step| name(report, *step)).collect();
    let undo = if back { "undo of " } else { "" };
    clean(&format!("; begins {undo}{}", names.join(", ")))
}

fn happened(report: &Report, event: &Event) -> String {
    let name = |step: &u32| name(report, *step);
    match event {
        Event::Started { input, .. } => format!("started with {}", short(input)),
        Event::Opened => "goes on".into(),
        Event::Done { step, output } => format!("{} done: {}", name(step), short(output)),
        Event::Failed { failure, maybe, .. } => {
            let effect = if *maybe { "; it may have had an effect" } else { "" };
            format!("{}{effect}", gave_up(failure))
        }
        Event::Halted { failure, .. } => format!("{}; an operator has to act", gave_up(failure)),
        Event::Expired { failure } => failure.to_string(),
        Event::Undone { step } => format!("{} undone", name(step)),
        Event::UndoFailed { failure, .. } => {
            format!("undo: {}; an operator has to act", gave_up(failure))
        }
        Event::Signalled { name, payload } => format!("signal {name}: {}", short(payload)),
        Event::Ordered { order, note, refused, .. } => {
            let refused = refused.as_ref().map(|why| format!("; refused: {why}"));
            format!("ordered: {}{}{}", ordered(order), noted(note), refused.unwrap_or_default())
        }
        Event::Blocked { reason } => format!("blocked: {reason}"),
        Event::Unblocked => "blocked no longer".into(),
        other => format!("{other:?}"),
    }
}

fn gave_up(failure: &Failure) -> String {
    format!("{failure} ({})", word(&failure.kind))
}

fn noted(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(" ({note})") }
}

fn ordered(order: &Order) -> String {
    match order {
        Order::Retry => "retry".into(),
        Order::Skip { step } => format!("skip the undo of {step}"),
        Order::Supply { step, output } => format!("supply {step} with {}", short(output)),
        Order::TurnBack => "turn back".into(),
        Order::Close => "close".into(),
        other => format!("{other:?}"),
    }
}

/// What the attempts before the last one said.
fn earlier(event: &Event) -> &[std::sync::Arc<str>] {
    match event {
        Event::Failed { failure, .. }
        | Event::Halted { failure, .. }
        | Event::UndoFailed { failure, .. } => {
            failure.errors.split_last().map_or(&[], |(_, earlier)| earlier)
        }
        _ => &[],
    }
}

fn short(json: &Json) -> String {
    let mut text: String = json.get().chars().take(LONGEST).collect();
    if text.len() < json.get().len() {
        text.push_str(" ...");
    }
    text
}
