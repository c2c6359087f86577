tokio::task_local! {
    /// Id of the group whose message this task is handling.
    pub(crate) static HANDLING: u64;
}

/// The group whose handler this task is in.
pub(crate) fn handling() -> Option<u64> {
    HANDLING.try_with(|group| *group).ok()
}
