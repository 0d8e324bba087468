//! Whole servers on real files, and clients that do everything right and everything wrong.
//!
//! `handshake`, `commands` and `structured` are the conformance suite: each prints a table of what was tried and what
//! came back (`cargo test -p vellum-tests --test nbd conform -- --nocapture --test-threads 1`). `model` compares a
//! volume with a plain vector. `limits` is about volumes with limits; `vanish`, `pressure`, `noise` and `lifecycle` about clients that nobody wishes for.
//! Everything is done with both reactors. Read next: `fixture.rs`, `harness/nbd_client.rs`.

mod changes;
mod commands;
mod fixture;
mod handshake;
mod lifecycle;
mod limits;
mod model;
mod noise;
mod pressure;
mod structured;
mod table;
mod vanish;
