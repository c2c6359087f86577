//! Which of several upstreams takes a request, and how many take how much at once.

mod load;
mod mirror;
mod rollout;
mod sample;
mod split;
mod sticky;

pub use mirror::{Mirror, MirrorStats};
pub use rollout::{Rollout, RolloutAbort, RolloutState, RolloutStatus};
pub use split::{Split, SplitError, Variant, VariantStats};
pub use sticky::Sticky;

pub(crate) use load::{Held, Placed, Places};
pub(crate) use mirror::{BodyCopy, Mirroring};
pub(crate) use sample::Outcome;
pub(crate) use sticky::SplitKey;
