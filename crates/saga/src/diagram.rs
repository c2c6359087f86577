//! Mermaid.

use std::fmt::Write;

use crate::{Shape, StepKind, StepReport, StepState};

impl Shape {
    /// The steps as a flow chart in Mermaid's language, which many viewers of Markdown draw. Boxes are actions (a doubled border: they have an undo), a
    /// hexagon is the pivot, a stadium a timer, a flag a signal that is waited for.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.draw(None)
    }

    pub(crate) fn draw(&self, states: Option<&[StepReport]>) -> String {
        let mut text = "flowchart TD\n".to_owned();
        for (place, step) in self.steps.iter().enumerate() {
            let (open, close) = match step.kind {
                StepKind::Pivot => ("{{", "}}"),
                StepKind::Timer { .. } => ("([", "])"),
                StepKind::Signal { .. } => (">", "]"),
                _ if step.undo => ("[[", "]]"),
                _ => ("[", "]"),
            };
            let state = states.and_then(|states| states.get(place)).map(|step| step.state);
            let (label, class) = state.map_or(("", ""), look);
            let name = escaped(&step.name);
            let gap = if label.is_empty() { "" } else { "<br/>" };
            // A text always has room.
            let _ = writeln!(text, "    s{place}{open}\"{name}{gap}{label}\"{close}{class}");
        }
        for (place, step) in self.steps.iter().enumerate() {
            for before in &step.needs {
                let _ = writeln!(text, "    s{before} --> s{place}");
            }
            for before in step.after.iter().filter(|before| !step.needs.contains(before)) {
                let _ = writeln!(text, "    s{before} -.-> s{place}");
            }
        }
        if states.is_some() {
            text.push_str(CLASSES);
        }
        text
    }
}

const CLASSES: &str = "    classDef done fill:#cfc\n    classDef now fill:#ffc\n    classDef back fill:#ccf\n    classDef bad fill:#fcc\n";

const fn look(state: StepState) -> (&'static str, &'static str) {
    match state {
        StepState::Waiting => ("", ""),
        StepState::Acting => ("under way", ":::now"),
        StepState::Done => ("done", ":::done"),
        StepState::Failed => ("failed", ":::bad"),
        StepState::Unknown => ("unknown", ":::bad"),
        StepState::Undoing => ("undoing", ":::now"),
        StepState::Undone => ("undone", ":::back"),
        StepState::UndoFailed => ("undo failed", ":::bad"),
        StepState::Skipped => ("undo skipped", ":::back"),
        StepState::Halted => ("halted", ":::bad"),
    }
}

/// Names are visible ASCII; these would end the label or begin an entity.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        match letter {
            '"' | '#' | '&' | '<' | '>' | '`' | '\\' => {
                let _ = write!(text, "#{};", u32::from(letter));
            }
            _ => text.push(letter),
        }
    }
    text
}
