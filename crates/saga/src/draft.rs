use std::{
    collections::{BTreeSet, HashSet},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

use crate::{
    Definition, DefinitionError, InvalidName, Policy, Shape, StepKind, StepShape,
    builder::Wiring,
    definition::{Plan, PlannedStep},
    id::check_name,
    needs::{Needs, StepRef},
    shape::Graph,
    step::Action,
    typed::collecting,
};

/// A definition without its types. What is wrong is remembered until the end.
pub(crate) struct Draft {
    /// Tells the handles of this definition from those of others.
    mark: u64,
    name: Arc<str>,
    version: u32,
    pub(crate) deadline: Option<u64>,
    shapes: Vec<StepShape>,
    steps: Vec<PlannedStep>,
    /// Steps that none waits for yet.
    last: BTreeSet<u32>,
    pivot: Option<u32>,
    error: Option<DefinitionError>,
}

pub(crate) struct NewStep {
    pub(crate) wiring: Wiring,
    pub(crate) kind: StepKind,
    pub(crate) planned: PlannedStep,
}

impl Draft {
    pub(crate) fn new(name: Arc<str>, version: u32) -> Self {
        static MARKS: AtomicU64 = AtomicU64::new(0);
        Self {
            mark: MARKS.fetch_add(1, Relaxed),
            name,
            version,
            deadline: None,
            shapes: Vec::new(),
            steps: Vec::new(),
            last: BTreeSet::new(),
            pivot: None,
            error: None,
        }
    }

    /// Places of the steps that `whose` names.
    pub(crate) fn places(&mut self, needs: &impl Needs, whose: &Arc<str>) -> Vec<u32> {
        let mut places = Vec::new();
        needs.each(&mut |mark, place| {
            if mark == self.mark {
                places.push(place);
            } else {
                self.error.get_or_insert_with(|| DefinitionError::ForeignStep(whose.clone()));
            }
        });
        places
    }

    pub(crate) fn add<Out>(&mut self, step: NewStep) -> StepRef<Out> {
        let Wiring { name, needs, mut after, names } = step.wiring;
        let place = self.shapes.len() as u32;
        if !names {
            after.extend(place.checked_sub(1));
        }
        let behind = |pivot| needs.iter().chain(&after).all(|before| *before < pivot);
        after.extend(self.pivot.filter(|pivot| behind(*pivot)));
        self.push(StepShape {
            name,
            kind: step.kind,
            undo: step.planned.undo.is_some(),
            needs,
            after,
        });
        self.steps.push(step.planned);
        StepRef::new(self.mark, place)
    }

    fn push(&mut self, step: StepShape) {
        for before in step.needs.iter().chain(&step.after) {
            self.last.remove(before);
        }
        self.last.insert(self.shapes.len() as u32);
        self.shapes.push(step);
    }

    /// The last step becomes the pivot, behind all others.
    pub(crate) fn pivot(&mut self, (mark, place): (u64, u32)) {
        let last = (self.shapes.len() as u32).checked_sub(1);
        match self.shapes.last_mut() {
            Some(step)
                if (mark, Some(place)) == (self.mark, last) && step.kind == StepKind::Action =>
            {
                step.kind = StepKind::Pivot;
                let others = self.last.iter().filter(|other| **other != place);
                step.after.extend(others);
                self.last = [place].into();
                self.pivot = Some(place);
            }
            _ => {
                self.error.get_or_insert(DefinitionError::PivotNotLast);
            }
        }
    }

    /// The steps of `child` as steps of this one, between one that makes its input and one that makes its result.
    pub(crate) fn child<CIn, Out: Serialize + 'static>(
        &mut self,
        wiring: Wiring,
        child: &Definition<CIn, Out>,
        input: Arc<Action>,
    ) -> StepRef<Out> {
        let name = wiring.name.clone();
        let plan = &child.plan;
        if plan.shape.steps.iter().any(|step| step.kind == StepKind::Pivot) {
            self.error.get_or_insert_with(|| DefinitionError::ChildPivot(name.clone()));
        }
        let begin = Wiring { name: format!("{name}.begin").into(), ..wiring };
        let (_, begin) = self.add::<()>(pure(begin, input)).parts();
        let base = begin + 1;
        let shift = |places: &[u32]| places.iter().map(|place| place + base).collect::<Vec<_>>();
        for (place, (shape, planned)) in (0..).zip(plan.shape.steps.iter().zip(&plan.steps)) {
            let (needs, mut after) = (shift(&shape.needs), shift(&shape.after));
            if plan.graph.before(place).is_empty() {
                after.push(begin);
            }
            let name = format!("{name}.{}", shape.name).into();
            self.push(StepShape { name, needs, after, ..shape.clone() });
            let input_from = Some(planned.input_from.map_or(begin, |from| from + base));
            self.steps.push(PlannedStep { input_from, ..planned.clone() });
        }
        let after = self.last.range(base..).copied().collect();
        let wiring = Wiring { name, needs: shift(&child.needs), after, names: true };
        self.add(pure(wiring, collecting(child.decode)))
    }

    pub(crate) fn finish<In, N: Needs>(
        mut self,
        result: &N,
    ) -> Result<Definition<In, N::Values>, DefinitionError> {
        let name = self.name.clone();
        check_name(&name)?;
        let needs = self.places(result, &name);
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut names = HashSet::new();
        for step in &self.shapes {
            check_name(&step.name)?;
            if step.name.contains('/') {
                return Err(InvalidName(step.name.to_string()).into());
            }
            if !names.insert(&step.name) {
                return Err(DefinitionError::DuplicateStep(step.name.clone()));
            }
        }
        if names.is_empty() {
            return Err(DefinitionError::NoSteps);
        }
        let (version, deadline, steps) = (self.version, self.deadline, self.shapes);
        let shape = Arc::new(Shape { name, version, deadline, steps });
        // Handles of this definition are of earlier steps, so this does not happen.
        let graph =
            Graph::of(&shape).ok_or_else(|| DefinitionError::ForeignStep(shape.name.clone()))?;
        Ok(Definition {
            plan: Arc::new(Plan::new(shape, Arc::new(graph), self.steps)),
            needs: needs.into(),
            decode: result.decoder(),
            input: PhantomData,
        })
    }
}

/// A step that only computes.
fn pure(wiring: Wiring, action: Arc<Action>) -> NewStep {
    let policy = Policy::step().attempts(1);
    let (undo_policy, action) = (Policy::undo(), Some(action));
    let planned = PlannedStep { policy, undo_policy, input_from: None, action, undo: None };
    NewStep { wiring, kind: StepKind::Action, planned }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("name", &self.name).field("steps", &self.shapes).finish()
    }
}
