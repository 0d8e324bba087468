//! The command `vellum`.

#![forbid(unsafe_code)]

fn main() {}
