//! Retries, deadlines, traces and metrics as tower layers.
