//! The time that credentials speak of.

use std::time::SystemTime;

/// The clock on the wall, which others set.
#[expect(clippy::disallowed_methods, reason = "credentials expire by the clock on the wall")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
