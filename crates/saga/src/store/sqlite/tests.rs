//! What only a file has to do; what every store must is in `tests/sqlite.rs`.

mod file;
mod kit;
mod room;
mod sharing;
