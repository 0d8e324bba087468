//! Pictures: snapshots for somebody who reads the data file without the engine, and knows nothing of layers and holes.
//!
//! Owns how one comes to be, over anything that answers requests. It starts as the snapshot that it shows, as a partial
//! volume, which nobody sees. Each block that is not whole is read and written again as a whole, by the rules of every
//! write: what others share goes to a new block. Then it becomes a snapshot and is held. Its blocks are a snapshot's, so
//! nobody overwrites them in place or frees them; what moves blocks refuses pools that have pictures. The walk goes block by
//! block and keeps nothing, so a picture of any size takes little memory.

use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{PICTURE_TAG, check_tag};
use crate::request::{
    Arrival, Base, MappedRun, Mappings, NewVolume, Outcome, PICTURE_GENERATION, Partial, Request, Segment,
    Source, StreamBase,
};
use crate::transfer::Ask;
use crate::units::{BLOCK_BYTES, VirtualBlock, VolumeId};

/// Blocks that one step writes at most.
const STEP_BLOCKS: u64 = 256;

/// What a step of filling has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Blocks that were written.
    pub blocks: u64,
    /// From where on to go on; nothing at the end.
    pub next: Option<VirtualBlock>,
}

/// Begins a picture of `snapshot`. Its size is that of the snapshot, and whole blocks: so what stands behind the end of the
/// snapshot in its last block is zeros.
///
/// Should nothing come of it, [`Request::AbortReceive`] drops it.
pub fn start(ask: &mut dyn Ask, snapshot: VolumeId, new: NewVolume) -> Result<Partial> {
    let described = match ask.ask(Request::Describe { snapshot, base: Base::Nothing })? {
        Outcome::Snapshot(described) => *described,
        other => return Err(unexpected(&other)),
    };
    // By this it is told from what arrives from another pool.
    let source = Source { volume: snapshot, generation: PICTURE_GENERATION, ..described.source };
    let arrival = Arrival {
        new,
        size_bytes: described.size_bytes.next_multiple_of(BLOCK_BYTES),
        source,
        base: StreamBase::Snapshot(described.new.uuid),
        position_bytes: 0,
        properties: described.properties,
    };
    match ask.ask(Request::StartReceive { arrival: Box::new(arrival) })? {
        Outcome::Receiving(partial) => Ok(partial),
        other => Err(unexpected(&other)),
    }
}

/// Makes some blocks of the picture whole that are not, from `first` on.
pub fn fill(ask: &mut dyn Ask, picture: VolumeId, first: VirtualBlock) -> Result<Filled> {
    let Mappings { runs, next } = mappings(ask, picture, first)?;
    let mut filled = Filled { blocks: 0, next };
    for run in runs.into_iter().filter(|run| !run.is_whole) {
        for virtual_block in blocks_of(&run) {
            if filled.blocks == STEP_BLOCKS {
                return Ok(Filled { next: Some(virtual_block), ..filled });
            }
            rewrite(ask, picture, virtual_block)?;
            filled.blocks += 1;
        }
    }
    Ok(filled)
}

/// Makes the picture a snapshot called `name`, which is held by `tag` and what shows that it is a picture. Both are durable
/// then, and so is all that was filled.
///
/// Fails with `Invalid` if it is not filled to its end, and for a name or tag that cannot be; then it is a picture under way still.
pub fn finish(ask: &mut dyn Ask, picture: &Partial, name: &str, tag: &str) -> Result<()> {
    let &Partial { volume, size_bytes, is_picture, .. } = picture;
    if !is_picture {
        return Err(Error::invalid("it arrives from elsewhere, and is no picture").at(Place::Volume(volume)));
    }
    let tag = format!("{PICTURE_TAG}{tag}");
    check_tag(&tag)?;
    check_whole(ask, volume)?;
    ask.ask(Request::FinishReceive { volume, name: name.to_owned(), size_bytes })?;
    let held = ask.ask(Request::Hold { volume, tag });
    if held.is_err() {
        // The error is the one to tell. What stays is a snapshot like any other.
        let _ = ask.ask(Request::Delete { volumes: vec![volume], deferred: false });
    }
    held.map(drop)
}

fn check_whole(ask: &mut dyn Ask, picture: VolumeId) -> Result<()> {
    let mut next = Some(VirtualBlock(0));
    while let Some(first) = next {
        let batch = mappings(ask, picture, first)?;
        if let Some(run) = batch.runs.iter().find(|run| !run.is_whole) {
            let message =
                format!("the picture is not filled yet: virtual block {} is not whole", run.virtual_block);
            return Err(Error::invalid(message).at(Place::Volume(picture)));
        }
        next = batch.next;
    }
    Ok(())
}

/// Some mappings of a picture or another snapshot, from `first` on.
pub fn mappings(ask: &mut dyn Ask, volume: VolumeId, first: VirtualBlock) -> Result<Mappings> {
    match ask.ask(Request::Mappings { volume, first })? {
        Outcome::Mappings(mappings) => Ok(mappings),
        other => Err(unexpected(&other)),
    }
}

fn blocks_of(run: &MappedRun) -> impl Iterator<Item = VirtualBlock> + use<> {
    (run.virtual_block.0..run.virtual_block.0 + run.blocks).map(VirtualBlock)
}

fn rewrite(ask: &mut dyn Ask, picture: VolumeId, block: VirtualBlock) -> Result<()> {
    let (volume, offset_bytes) = (picture, block.offset_bytes());
    let segments = match ask.ask(Request::Read { volume, offset_bytes, length_bytes: BLOCK_BYTES })? {
        Outcome::Data(segments) => segments,
        other => return Err(unexpected(&other)),
    };
    let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
    for segment in segments {
        match segment {
            Segment::Bytes(piece) => bytes.extend_from_slice(&piece),
            Segment::Zeros(length) => bytes.resize(bytes.len() + length as usize, 0),
        }
    }
    ask.ask(Request::WriteWhole { volume, offset_bytes, bytes: bytes.into() }).map(drop)
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::new(ErrorKind::Invalid, format!("a request for a picture was answered with {outcome:?}"))
}
