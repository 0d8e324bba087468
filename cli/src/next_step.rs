//! What to do about a pool that the kernel has.
//!
//! Owns the words, and what of a hand-over can be seen in the first block of the kernel's metadata, where the pool's directory knows it: whether
//! it was interrupted on its way there or back. Reads only.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vellum_dm_bridge::format::BLOCK_BYTES;
use vellum_dm_bridge::import::imported_mark;
use vellum_dm_bridge::unfinished_mark;

/// The next step for the pool in this directory. `metadata` is the link to the kernel's metadata.
pub fn of(directory: &Path, metadata: &Path) -> String {
    let mut first = [0; BLOCK_BYTES];
    let read = File::open(metadata).and_then(|file| file.read_exact_at(&mut first, 0));
    let target = std::fs::read_link(metadata).unwrap_or_default();
    let target = target.display();
    if read.is_err() {
        return "if the kernel's metadata is there, `vellum dm import --metadata FILE|DEV` takes the pool back; if it is lost, \
                `vellum dm revoke` tells what that means"
            .to_owned();
    }
    if unfinished_mark(&first).is_some() {
        return format!(
            "`vellum dm export` was interrupted: run it again with `--metadata {target}`, or take the pool back by `vellum dm revoke`"
        );
    }
    if imported_mark(&first).is_some() {
        let what = if directory.join("superblock.imported").exists() { "import" } else { "revoke --force" };
        return format!("`vellum dm {what}` was interrupted: run it again");
    }
    "`vellum dm activate` makes its volumes devices, `vellum dm deactivate` takes the pool back, or `vellum dm import` if \
     something else had it active"
        .to_owned()
}
