use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a definition looks like from outside: the part that the journal keeps, and that must be the same to carry a saga on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shape {
    /// Name of the definition.
    pub name: Arc<str>,
    /// Version of the definition.
    pub version: u32,
    /// How long a saga may take before it turns back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// The steps; each comes behind those that it waits for. Records name them by their place here.
    pub steps: Vec<StepShape>,
}

/// A step as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepShape {
    /// Name of the step.
    pub name: Arc<str>,
    /// What it does.
    #[serde(default, skip_serializing_if = "StepKind::is_action")]
    pub kind: StepKind,
    /// Whether it has an undo.
    pub undo: bool,
    /// Places of the steps whose outputs it needs.
    pub needs: Vec<u32>,
    /// Places of further steps that must be done before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<u32>,
}

/// What a step does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepKind {
    /// Calls an action.
    #[default]
    Action,
    /// Calls an action after whose success the saga does not turn back.
    Pivot,
    /// Calls an action until it succeeds: behind the pivot.
    Certain,
    /// Lets time pass.
    Timer {
        /// How much, in milliseconds, from the record that opened it.
        millis: u64,
    },
    /// Waits for a signal of the step's name.
    Signal {
        /// How long, in milliseconds, from the record that opened it; without: for ever.
        within: Option<u64>,
    },
}

impl StepKind {
    fn is_action(&self) -> bool {
        *self == Self::Action
    }

    /// Whether it waits instead of calling something.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self, Self::Timer { .. } | Self::Signal { .. })
    }
}

/// Who comes after whom, both ways, in two lists each: all work on it is linear in their length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Graph {
    before: Edges,
    after: Edges,
}

#[derive(Debug, PartialEq, Eq)]
struct Edges {
    /// Where each step's neighbours begin in `to`, and where the last one's end.
    from: Vec<u32>,
    to: Vec<u32>,
}

impl Edges {
    fn of(&self, step: u32) -> &[u32] {
        let step = step as usize;
        let range = self.from.get(step).copied().zip(self.from.get(step + 1).copied());
        range.and_then(|(from, to)| self.to.get(from as usize..to as usize)).unwrap_or_default()
    }
}

impl Graph {
    /// `None` if a step waits for itself or for one behind it.
    pub(crate) fn of(shape: &Shape) -> Option<Self> {
        let steps = shape.steps.len();
        let mut before = Edges { from: vec![0], to: Vec::new() };
        // Behind the place of each step: how many wait for it.
        let mut after = vec![0_u32; steps + 1];
        for (place, step) in shape.steps.iter().enumerate() {
            let mut mine: Vec<u32> = step.needs.iter().chain(&step.after).copied().collect();
            mine.sort_unstable();
            mine.dedup();
            if mine.last().is_some_and(|last| *last as usize >= place) {
                return None;
            }
            for other in &mine {
                after[*other as usize + 1] += 1;
            }
            before.to.append(&mut mine);
            before.from.push(u32::try_from(before.to.len()).ok()?);
        }
        for place in 0..steps {
            after[place + 1] += after[place];
        }
        let mut to = vec![0; before.to.len()];
        let mut next = after.clone();
        for place in 0..steps as u32 {
            for other in before.of(place) {
                let slot = &mut next[*other as usize];
                to[*slot as usize] = place;
                *slot += 1;
            }
        }
        Some(Self { before, after: Edges { from: after, to } })
    }

    /// The steps that `step` waits for.
    pub(crate) fn before(&self, step: u32) -> &[u32] {
        self.before.of(step)
    }

    /// The steps that wait for `step`.
    pub(crate) fn after(&self, step: u32) -> &[u32] {
        self.after.of(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(waits_for: &[&[u32]]) -> Shape {
        let steps = waits_for.iter().enumerate().map(|(place, after)| StepShape {
            name: format!("s{place}").into(),
            kind: StepKind::Action,
            undo: true,
            needs: after.iter().take(1).copied().collect(),
            after: after.to_vec(),
        });
        Shape { name: "test".into(), version: 1, deadline: None, steps: steps.collect() }
    }

    #[test]
    fn edges_lead_both_ways_and_count_once() {
        let graph = Graph::of(&shape(&[&[], &[0], &[0], &[1, 2]])).unwrap();
        assert_eq!((graph.before(3), graph.before(0)), (&[1, 2][..], &[][..]));
        assert_eq!(
            (graph.after(0), graph.after(1), graph.after(3)),
            (&[1, 2][..], &[3][..], &[][..])
        );
        assert_eq!(graph.after(9), &[] as &[u32]);
    }

    #[test]
    fn a_step_that_waits_for_itself_or_a_later_one_is_no_graph() {
        assert!(Graph::of(&shape(&[&[0]])).is_none());
        assert!(Graph::of(&shape(&[&[], &[2], &[0]])).is_none());
        assert!(Graph::of(&shape(&[&[7]])).is_none());
    }
}
