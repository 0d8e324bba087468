//! What only block devices need: their size, a discard, and a look at what they carry before a pool is made on them.
//!
//! Owns the places where others put signatures. Whatever stands there that is not zero refuses the device: a list of
//! known signatures alone would miss the unknown ones.

use super::{Blocking, DiskFile, FileDisk};
use crate::error::{Error, ErrorKind, Result};
use rustix::ioctl;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// `_IO(0x12, 119)` of linux/fs.h.
const BLKDISCARD: ioctl::Opcode = ioctl::opcode::none(0x12, 119);

/// File systems, partition tables, LVM, LUKS, MD, swap and ZFS put theirs into the first or the last MiB.
const LOOKED_AT_BYTES: u64 = 1 << 20;

/// Offset, bytes and name of what is met most often, to be named in the message.
const SIGNATURES: [(usize, &[u8], &str); 14] = [
    (0x438, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0x200, b"LABELONE", "an LVM physical volume"),
    (0x218, b"LVM2 001", "an LVM physical volume"),
    (0x1000, &0xa92b_4efc_u32.to_le_bytes(), "an MD RAID member"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (0x200, b"EFI PART", "a GPT partition table"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0x20, &27_022_010_u64.to_le_bytes(), "dm-thin metadata"),
    (0x1fe, &[0x55, 0xaa], "a partition table or boot sector"),
];

/// The size of a file or block device, in bytes.
pub fn size_bytes(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    // The position is used by nobody: all reads and writes name theirs.
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

/// Tells a device that nobody needs a range any more. Fails as unsupported where it does not want to know.
pub fn discard(file: &File, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two 64-bit numbers, offset and length in bytes, from where its argument points, and writes
    // nothing there. The array lives until the call is over, and the descriptor is open.
    #[allow(unsafe_code)]
    let done = unsafe {
        let range = ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([offset_bytes, length_bytes]);
        ioctl::ioctl(file, range)
    };
    Ok(done?)
}

/// Refuses a disk that carries anything at its beginning or end.
pub fn refuse_signature(path: &Path, disk: &DiskFile) -> Result<()> {
    let size_bytes = disk.size_bytes();
    let head = read(disk, 0, LOOKED_AT_BYTES.min(size_bytes))?;
    let tail_at = size_bytes.saturating_sub(LOOKED_AT_BYTES) / 4096 * 4096;
    let tail = read(disk, tail_at, size_bytes - tail_at)?;
    let used = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    if !used(&head) && !used(&tail) {
        return Ok(());
    }
    let what = signature(&head).unwrap_or("data that this program does not know");
    let message = format!(
        "{}: it carries {what}; if nobody needs that, wipe it first (`wipefs -a`, `blkdiscard`)",
        path.display()
    );
    Err(Error::new(ErrorKind::Exists, message))
}

fn read(disk: &DiskFile, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = super::Buffer::zeroed(length_bytes as usize);
    disk.read(offset_bytes, &mut bytes).map_err(|cause| cause.into_error("read of the signatures"))?;
    Ok(bytes.to_vec())
}

fn signature(head: &[u8]) -> Option<&'static str> {
    let found = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    SIGNATURES.iter().find(|(offset, magic, _)| found(*offset, magic)).map(|(_, _, name)| *name)
}

/// Writes zeros over the first and the last MiB, where signatures stand, so that no other tool takes a pool's device for its own.
pub fn wipe_signatures(disk: &Arc<DiskFile>) -> Result<()> {
    let size_bytes = disk.size_bytes();
    let mut blocking_disk = FileDisk::over(disk.clone());
    let mut blocking = Blocking::data(&mut blocking_disk);
    let tail_at = size_bytes.saturating_sub(LOOKED_AT_BYTES) / 4096 * 4096;
    for (at, length) in [(0, LOOKED_AT_BYTES.min(size_bytes)), (tail_at, size_bytes - tail_at)] {
        blocking.write(at, super::Buffer::zeroed(length as usize).freeze())?;
    }
    blocking.sync()
}

#[cfg(test)]
mod tests {
    use super::super::CacheMode;
    use super::*;
    use std::os::unix::fs::FileExt;

    fn take_over(path: &Path, force: bool) -> Result<DiskFile> {
        DiskFile::take_over(path, CacheMode::Writeback, force)
    }

    #[test]
    fn what_carries_a_signature_is_refused_by_name_unless_forced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        for (offset, magic, name) in SIGNATURES {
            let file = File::create(&path).unwrap();
            file.set_len(8 << 20).unwrap();
            file.write_all_at(magic, offset as u64).unwrap();
            let error = take_over(&path, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exists);
            assert!(error.message().contains(name), "{error}");
            take_over(&path, true).unwrap();
        }
    }

    #[test]
    fn what_is_unknown_or_at_the_end_is_refused_too_and_emptiness_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        take_over(&path, false).unwrap();
        file.write_all_at(&[1], (8 << 20) - 512).unwrap();
        assert_eq!(take_over(&path, false).unwrap_err().kind(), ErrorKind::Exists);
        wipe_signatures(&Arc::new(take_over(&path, true).unwrap())).unwrap();
        take_over(&path, false).unwrap();
    }

    /// A loop device; detached when this is dropped.
    struct Loop(String);

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    #[test]
    fn a_device_forgets_what_is_discarded() {
        let directory = tempfile::tempdir().unwrap();
        let under = directory.path().join("under");
        std::fs::write(&under, vec![7; 4 << 20]).unwrap();
        let attached = std::process::Command::new("losetup").args(["--find", "--show"]).arg(&under).output();
        let attached = Loop(String::from_utf8(attached.unwrap().stdout).unwrap().trim().to_owned());
        let device = File::options().read(true).write(true).open(&attached.0).unwrap();
        discard(&device, 1 << 20, 2 << 20).unwrap();
        let mut read = vec![1; 4 << 20];
        device.read_exact_at(&mut read, 0).unwrap();
        let is_gone = |at| (1 << 20..3 << 20).contains(&at);
        assert!(read.iter().enumerate().all(|(at, byte)| *byte == if is_gone(at) { 0 } else { 7 }));
        assert!(discard(&device, 1, 511).is_err(), "not whole sectors");
    }
}
