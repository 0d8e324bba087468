//! The oracle: what every sector of every volume may hold after a power cut, and after a kill.
//!
//! Owns the promise of `docs/format.md` as sets of values. It sees requests and replies only, and
//! knows nothing of records or syncs. Read next: `state.rs`.

use crate::disk::Tag;
use crate::tree::{SECTORS, Sectors, VOLUMES, each};

/// A set of tags, a bit each; for the existence of a volume, a set of `ABSENT` and `PRESENT`.
pub type Tags = u16;

pub const ABSENT: Tags = 1;
pub const PRESENT: Tags = 2;

/// What one sector, or the existence of one volume, may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Register {
    /// After a power cut.
    pub allowed: Tags,
    /// Now, and after a kill.
    pub now: Tags,
    /// After a power cut, once the flush under way is acknowledged.
    pub flushed: Tags,
}

impl Register {
    /// A value known to be durable.
    pub fn certain(values: Tags) -> Register {
        Register { allowed: values, now: values, flushed: values }
    }

    fn add(&mut self, values: Tags) {
        self.allowed |= values;
        self.now |= values;
        self.flushed |= values;
    }
}

/// What was promised to clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Promise {
    pub exists: [Register; VOLUMES],
    pub sectors: [[Register; SECTORS]; VOLUMES],
}

impl Promise {
    /// The volume is there, and its creation was acknowledged.
    pub fn present(&self, volume: usize) -> bool {
        self.exists[volume].now == PRESENT
    }

    /// The volume is not there, and no crash can bring it back.
    pub fn gone(&self, volume: usize) -> bool {
        self.exists[volume].allowed == ABSENT
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Register> {
        self.exists.iter_mut().chain(self.sectors.iter_mut().flatten())
    }

    /// A write or discard was issued.
    pub fn issue(&mut self, volume: usize, sectors: Sectors, tags: [Tag; SECTORS]) {
        each(sectors).for_each(|s| self.sectors[volume][s].add(1 << tags[s]));
    }

    /// It was acknowledged; `others` are the values that requests still under way would put there.
    pub fn acknowledge(&mut self, volume: usize, sector: usize, tag: Tag, others: Tags) {
        self.sectors[volume][sector].now = 1 << tag | others;
    }

    /// A snapshot was issued.
    pub fn issue_snapshot(&mut self, from: usize, to: usize) {
        self.exists[to].add(PRESENT);
        self.sectors[to] = self.sectors[from];
    }

    /// A snapshot was acknowledged: it stays, and it stays as it reads now.
    pub fn acknowledge_snapshot(&mut self, to: usize, read: [Tag; SECTORS]) {
        self.exists[to] = Register::certain(PRESENT);
        self.sectors[to] = read.map(|tag| Register::certain(1 << tag));
    }

    /// A deletion was issued.
    pub fn issue_delete(&mut self, volume: usize) {
        self.exists[volume].add(ABSENT);
    }

    /// A deletion was acknowledged.
    pub fn acknowledge_delete(&mut self, volume: usize) {
        self.exists[volume].now = ABSENT;
    }

    /// A flush arrived.
    pub fn issue_flush(&mut self) {
        self.all().for_each(|r| r.flushed = r.now);
    }

    /// It was acknowledged.
    pub fn acknowledge_flush(&mut self) {
        self.all().for_each(|r| r.allowed = r.flushed);
    }

    /// Power was lost, or the process died: what holds now is for recovery to tell.
    pub fn crash(&mut self, keep_now: bool) {
        self.all().for_each(|r| *r = Register { flushed: 0, now: if keep_now { r.now } else { 0 }, ..*r });
    }

    /// Recovery has found this.
    pub fn hold(&mut self, volume: usize, present: bool, read: [Tag; SECTORS]) {
        self.exists[volume] = Register::certain(if present { PRESENT } else { ABSENT });
        self.sectors[volume] =
            read.map(|tag| if present { Register::certain(1 << tag) } else { Register::default() });
    }

    /// Drops what no longer matters, so that equal states are equal.
    pub fn tidy(&mut self, flush: bool) {
        for volume in 0..VOLUMES {
            if self.gone(volume) {
                self.sectors[volume] = Default::default();
            }
        }
        if !flush {
            self.all().for_each(|r| r.flushed = 0);
        }
    }

    /// Every tag that some volume may hold.
    pub fn tags(&self) -> Tags {
        self.sectors.iter().flatten().fold(0, |tags, r| tags | r.allowed | r.now | r.flushed)
    }

    /// Renames every tag.
    pub fn rename(&mut self, names: &[Tag; 16]) {
        let rename =
            |tags: Tags| (0..16).filter(|t| tags >> t & 1 == 1).fold(0, |set, t| set | 1 << names[t]);
        for register in self.sectors.iter_mut().flatten() {
            *register = Register {
                allowed: rename(register.allowed),
                now: rename(register.now),
                flushed: rename(register.flushed),
            };
        }
    }

    /// Is it one of the states promised? `exact` asks for what was acknowledged.
    pub fn holds(&self, volume: usize, present: bool, read: [Tag; SECTORS], exact: bool) -> bool {
        let set = |r: &Register| if exact { r.now } else { r.allowed };
        let life = if present { PRESENT } else { ABSENT };
        let sectors = (0..SECTORS).all(|s| set(&self.sectors[volume][s]) >> read[s] & 1 == 1);
        set(&self.exists[volume]) & life != 0 && (!present || sectors)
    }
}
