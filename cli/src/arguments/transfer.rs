//! Flags of `vellum send`, `vellum receive` and `vellum snapshot diff`.
//!
//! Owns their words; what goes together beyond what the parser can say is `commands/transfer.rs`'s.

use clap::Args;
use vellum_engine::transfer::ResumeToken;

/// What to send.
#[derive(Debug, Args)]
pub struct SendArguments {
    /// The snapshot.
    #[arg(value_name = "VOLUME@NAME")]
    pub snapshot: String,

    /// Send what differs from this snapshot, which the other pool has: `NAME` or `VOLUME@NAME`.
    #[arg(long, value_name = "NAME", conflicts_with = "since")]
    pub from: Option<String>,

    /// Send what changed since a snapshot of the same volume that the other pool has and this one may have deleted: its
    /// `generation` in JSON. May send more than what changed.
    #[arg(long, value_name = "GENERATION")]
    pub since: Option<u64>,

    /// Go on with a transfer that broke off: what `vellum receive --resume` told.
    #[arg(long, value_name = "TOKEN")]
    pub resume: Option<ResumeToken>,
}

/// What to receive.
#[derive(Debug, Args)]
pub struct ReceiveArguments {
    /// What to call the snapshot; as the sender calls it if this is not given.
    #[arg(value_name = "VOLUME@NAME")]
    pub name: Option<String>,

    /// Receive nothing: tell what has arrived in part, and the token with which `vellum send --resume` goes on.
    #[arg(long, conflicts_with = "abort")]
    pub resume: bool,

    /// Receive nothing: drop what has arrived in part, all of it or that of the name.
    #[arg(long)]
    pub abort: bool,
}

/// What to compare.
#[derive(Debug, Args)]
pub struct DiffArguments {
    /// The older one, then the newer one; snapshots or volumes.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    pub names: Vec<String>,

    /// Compare one with what its volume was at this generation. May tell more than what changed.
    #[arg(long, value_name = "GENERATION")]
    pub since: Option<u64>,
}
