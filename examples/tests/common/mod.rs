//! The programs of this package, as cargo built them beside the test.

use std::{env, path::PathBuf};

/// Where `gusset` is. `cargo test` builds it before any test runs; with `-p examples` alone it does not.
#[allow(dead_code, reason = "most start examples only")]
pub(crate) fn gusset() -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap().join("gusset");
    assert!(built.exists(), "{} is not built: cargo build -p gusset-cli", built.display());
    built
}

/// Where an example is. `cargo test` builds all examples before any test runs; with `--test` alone it does not.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(built.exists(), "{} is not built: cargo build -p examples --examples", built.display());
    built
}
