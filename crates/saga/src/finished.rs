use std::sync::Arc;

use serde::Serialize;

use crate::{
    Failure, Json, Record, SagaError, SagaId, Shape, Skipped, State, StepState, StoreError,
    needs::Decode, progress::Progress,
};

/// How a saga ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished<Out> {
    /// All steps are done.
    Completed(Out),
    /// A step was given up, and all that was done is undone.
    Compensated {
        /// What made the saga turn back.
        failure: Failure,
        /// Undos that failed on the way, and were carried out or skipped later.
        undo_failures: Vec<Failure>,
        /// Undos that an operator settled.
        skipped: Vec<Skipped>,
    },
    /// A step was given up, and so was at least one undo: an operator has to act. The others are undone. Or a step behind the pivot was given up.
    Stuck {
        /// What made the saga turn back, or halt.
        failure: Failure,
        /// Every undo that failed, the latest last; at most 100.
        undo_failures: Vec<Failure>,
        /// Undos that an operator settled.
        skipped: Vec<Skipped>,
    },
    /// An operator closed it, with work left to do.
    Closed(Box<Report>),
}

impl<Out> Finished<Out> {
    /// The result, if all steps are done.
    pub fn completed(self) -> Option<Out> {
        match self {
            Self::Completed(output) => Some(output),
            Self::Compensated { .. } | Self::Stuck { .. } | Self::Closed(_) => None,
        }
    }

    /// What made the saga turn back, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Completed(_) => None,
            Self::Closed(report) => report.failure.as_ref(),
            Self::Compensated { failure, .. } | Self::Stuck { failure, .. } => Some(failure),
        }
    }

    pub(crate) fn of(
        saga: &SagaId,
        progress: &Progress,
        needs: &[u32],
        decode: Decode<Out>,
    ) -> Result<Self, SagaError> {
        if progress.state() == State::Closed {
            return Ok(Self::Closed(Box::new(Report::of(saga.clone(), progress))));
        }
        let halted = progress.halts.last().filter(|_| progress.state() == State::Stuck).cloned();
        let Some(failure) = progress.failure.clone().or(halted) else {
            let output = |place: &u32| &progress.steps[*place as usize].output;
            let decoded = match needs {
                // The usual one needs no room for several.
                [place] => decode(output(place).as_slice()),
                _ => decode(
                    &needs.iter().filter_map(|need| output(need).clone()).collect::<Vec<Json>>(),
                ),
            };
            return decoded.map(Self::Completed).map_err(|error| SagaError::Output {
                saga: saga.clone(),
                source: Arc::new(error),
            });
        };
        let (undo_failures, skipped) = (progress.undo_failures.clone(), progress.skipped.clone());
        Ok(if progress.state() == State::Stuck {
            Self::Stuck { failure, undo_failures, skipped }
        } else {
            Self::Compensated { failure, undo_failures, skipped }
        })
    }
}

/// Where a saga stands, without the types of its definition.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The saga.
    pub saga: SagaId,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// Version of its definition.
    pub version: u32,
    /// Where it stands.
    pub state: State,
    /// Why it is [`State::Blocked`], if it is.
    pub blocked: Option<Arc<str>>,
    /// The steps in order.
    pub steps: Vec<StepReport>,
    /// What made it turn back.
    pub failure: Option<Failure>,
    /// Every undo that failed, the latest last; at most 100.
    pub undo_failures: Vec<Failure>,
    /// Every time that a step behind the pivot was given up, the latest last; at most 100.
    pub halts: Vec<Failure>,
    /// Undos that an operator settled.
    pub skipped: Vec<Skipped>,
    shape: Arc<Shape>,
}

/// A step in a [`Report`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub state: StepState,
    /// What its action returned.
    pub output: Option<Json>,
}

impl Report {
    /// What a journal tells.
    ///
    /// # Errors
    ///
    /// When no saga can have written it.
    pub fn replay(saga: SagaId, records: &[Record]) -> Result<Self, SagaError> {
        let progress = Progress::replay(records).map_err(StoreError::from)?;
        Ok(Self::of(saga, &progress))
    }

    pub(crate) fn of(saga: SagaId, progress: &Progress) -> Self {
        let steps = progress.shape.steps.iter().zip(&progress.steps).map(|(shape, step)| {
            let (name, output) = (shape.name.clone(), step.output.clone());
            StepReport { name, state: step.state, output }
        });
        Self {
            saga,
            definition: progress.shape.name.clone(),
            version: progress.shape.version,
            state: progress.state(),
            blocked: progress.blocked.clone(),
            steps: steps.collect(),
            failure: progress.failure.clone(),
            undo_failures: progress.undo_failures.clone(),
            halts: progress.halts.clone(),
            skipped: progress.skipped.clone(),
            shape: progress.shape.clone(),
        }
    }

    /// The definition that it runs.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A Mermaid flow chart of the steps, coloured by where they stand; see [`Shape::to_mermaid`].
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.shape.draw(Some(&self.steps))
    }
}
