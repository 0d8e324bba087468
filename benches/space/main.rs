//! What giving space back costs: a TRIM beside two peers, reads while freed space goes back to the host, and the deletion
//! of a large snapshot.
//!
//! Owns which of them are measured, and the notes below the tables. Needs root, `qemu-nbd`, e2fsprogs and util-linux, and
//! room below `TMPDIR` for three times what is trimmed. Run it alone: `cargo bench -p vellum-benches --bench space`; `trim`,
//! `reads` or `delete` behind `--` takes one of the three.
//!
//! | variable | effect |
//! |---|---|
//! | `VELLUM_TRIM_BYTES` | how much is trimmed; 8 GiB if not set |
//! | `VELLUM_ROUNDS` | how often each figure is taken; 3 if not set |

mod delete;
mod reads;
mod trim;

use std::path::Path;
use std::time::{Duration, Instant};
use vellum_benches::stat::environment;

/// What is measured, and how often.
struct Plan {
    vellum: String,
    trim_bytes: u64,
    rounds: u64,
}

/// The host must have its space back within this time, or the figure says that it had not.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.iter().any(|word| word == "--test" || word == "--list") {
        return;
    }
    if let Err(cause) = measure(&words) {
        eprintln!("bench space: {cause}");
        std::process::exit(1);
    }
}

fn measure(words: &[String]) -> Result<(), String> {
    let known = ["trim", "reads", "delete"];
    if let Some(word) = words.iter().find(|word| !known.contains(&word.as_str())) {
        return Err(format!("there is no `{word}`; choose of {}", known.join(", ")));
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let plan = Plan {
        vellum: vellum_benches::server::build_vellum()?,
        trim_bytes: environment("VELLUM_TRIM_BYTES", 8 << 30)?.next_multiple_of(1 << 20),
        rounds: environment("VELLUM_ROUNDS", 3)?.max(1),
    };
    if wanted("trim") {
        trim::compare(&plan)?;
    }
    if wanted("reads") {
        reads::compare(&plan)?;
    }
    if wanted("delete") {
        delete::measure(&plan)?;
    }
    Ok(())
}

/// What a file takes of its file system.
fn host_bytes(file: &Path) -> Result<u64, String> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(file).map_err(|cause| format!("{}: {cause}", file.display()))?;
    Ok(metadata.blocks() * 512)
}

/// What a file may still take when what was trimmed is back: what it took before, 1 % of the trimmed, and 1 MiB.
fn goal_bytes(before_bytes: u64, trimmed_bytes: u64) -> u64 {
    before_bytes + trimmed_bytes / 100 + (1 << 20)
}

/// Waits until a file takes no more than `goal_bytes`; the time since `begin`, or `None` if it takes longer than
/// [`PATIENCE`].
fn wait_for_return(file: &Path, goal_bytes: u64, begin: Instant) -> Result<Option<Duration>, String> {
    while host_bytes(file)? > goal_bytes {
        if begin.elapsed() > PATIENCE {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(Some(begin.elapsed()))
}
