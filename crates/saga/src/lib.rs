//! Sagas: all steps of a process happen, or all of them are undone.
