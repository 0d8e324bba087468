//! Where metadata lies: a file, a block device, or memory; and reading blocks of it.
//!
//! Owns offsets and the end of the device. Knows no structure. All reads say where they read, so that one open device can be
//! walked in several places at once.

use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Block};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What metadata is read from.
pub trait Source {
    /// Its size in bytes.
    fn length_bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from a byte offset. Fails if the end comes before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What metadata is written to. It is also read, to find out which nodes are there already.
pub trait Target: Source {
    /// Writes all of `bytes` at a byte offset.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

impl Source for File {
    fn length_bytes(&self) -> io::Result<u64> {
        // A block device has no length in its attributes.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Target for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Source for Vec<u8> {
    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Target for Vec<u8> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::StorageFull)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.get_mut(start..end).ok_or(io::ErrorKind::StorageFull)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn length_bytes(&self) -> io::Result<u64> {
        (**self).length_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
}

impl<T: Source + ?Sized> Source for &mut T {
    fn length_bytes(&self) -> io::Result<u64> {
        (**self).length_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
}

impl<T: Target + ?Sized> Target for &mut T {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }
}

/// A source with another first block than it has.
pub struct WithFirst<S> {
    /// Everything but the first block.
    pub rest: S,
    /// The first block.
    pub first: Box<Block>,
}

impl<S: Source> Source for WithFirst<S> {
    fn length_bytes(&self) -> io::Result<u64> {
        self.rest.length_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.rest.read_at(offset, buffer)?;
        if let Ok(from) = usize::try_from(offset)
            && let Some(first) = self.first.get(from..)
        {
            let length = first.len().min(buffer.len());
            buffer[..length].copy_from_slice(&first[..length]);
        }
        Ok(())
    }
}

/// A source seen as numbered blocks.
#[derive(Clone, Debug)]
pub(crate) struct Blocks<S> {
    source: S,
    count: u64,
}

impl<S: Source> Blocks<S> {
    pub fn new(source: S) -> Result<Self> {
        let length = source.length_bytes().map_err(|error| Error::io(0, "asking for the size", error))?;
        Ok(Self { source, count: length / BLOCK_BYTES as u64 })
    }

    /// Whole blocks of the device.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn read(&self, number: u64) -> Result<Box<Block>> {
        if number >= self.count {
            let message = format!("the metadata device has only {} blocks", self.count);
            return Err(Error::damaged(number, 0, message));
        }
        let mut block = Box::new([0; BLOCK_BYTES]);
        let offset = number * BLOCK_BYTES as u64;
        self.source.read_at(offset, &mut block[..]).map_err(|error| Error::io(offset, "reading", error))?;
        Ok(block)
    }
}
