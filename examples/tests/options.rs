//! The tests in the options of the demo: those of an example are not run where it is built as a program.

#![allow(dead_code, reason = "only the tests are of use here")]

#[path = "../ecommerce_demo/options.rs"]
mod options;
