//! The binary of the family. What it does is in the library beside it, so that other programs may do the same in a process of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    gusset_cli::run(std::env::args_os().skip(1))
}
