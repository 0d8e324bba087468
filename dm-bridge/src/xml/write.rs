//! Writes a stream as XML.

use super::{DEVICE, RANGE_MAPPING, SINGLE_MAPPING, SUPERBLOCK, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::format::DeviceDetails;
use crate::stream::{PoolHeader, Run, Sink};
use quick_xml::events::{BytesEnd, BytesStart, Event};
use std::fmt::Write as _;
use std::io;

/// Takes a stream and writes it as XML, element by element.
pub struct XmlWriter<W: io::Write> {
    writer: quick_xml::Writer<W>,
    /// Kept, so that an element costs no allocation.
    text: String,
}

impl<W: io::Write> XmlWriter<W> {
    /// Writes to `output`, which should have a buffer.
    pub fn new(output: W) -> Self {
        Self { writer: quick_xml::Writer::new_with_indent(output, b' ', 2), text: String::new() }
    }

    /// Gives the output back.
    pub fn into_inner(self) -> W {
        self.writer.into_inner()
    }

    fn put(&mut self, event: Event<'_>) -> Result<()> {
        self.writer.write_event(event).map_err(failed)
    }

    /// Writes an element of `name` with the attributes that `attributes` appends.
    fn element(&mut self, name: &str, empty: bool, attributes: std::fmt::Arguments<'_>) -> Result<()> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.push_str(name);
        text.write_fmt(attributes).map_err(|_| failed(io::Error::other("formatting failed")))?;
        let start = BytesStart::from_content(text.as_str(), name.len());
        let result = self.put(if empty { Event::Empty(start) } else { Event::Start(start) });
        self.text = text;
        result
    }
}

impl<W: io::Write> Sink for XmlWriter<W> {
    /// Neither the uuid, which is zero in practice, nor flags are written: thin_restore would not keep them.
    fn begin(&mut self, header: &PoolHeader) -> Result<()> {
        let PoolHeader { time, transaction_id, data_block_sectors, nr_data_blocks, .. } = header;
        let attributes = format_args!(
            " uuid=\"\" time=\"{time}\" transaction=\"{transaction_id}\" version=\"{VERSION}\" \
             data_block_size=\"{data_block_sectors}\" nr_data_blocks=\"{nr_data_blocks}\""
        );
        self.element(SUPERBLOCK, false, attributes)
    }

    fn device(&mut self, id: u32, details: &DeviceDetails) -> Result<()> {
        let DeviceDetails { mapped_blocks, transaction_id, creation_time, snapshotted_time } = details;
        let attributes = format_args!(
            " dev_id=\"{id}\" mapped_blocks=\"{mapped_blocks}\" transaction=\"{transaction_id}\" \
             creation_time=\"{creation_time}\" snap_time=\"{snapshotted_time}\""
        );
        self.element(DEVICE, false, attributes)
    }

    fn run(&mut self, run: &Run) -> Result<()> {
        let Run { virtual_begin, data_begin, length, time } = run;
        if *length == 1 {
            let attributes =
                format_args!(" origin_block=\"{virtual_begin}\" data_block=\"{data_begin}\" time=\"{time}\"");
            return self.element(SINGLE_MAPPING, true, attributes);
        }
        let attributes = format_args!(
            " origin_begin=\"{virtual_begin}\" data_begin=\"{data_begin}\" length=\"{length}\" time=\"{time}\""
        );
        self.element(RANGE_MAPPING, true, attributes)
    }

    fn device_end(&mut self) -> Result<()> {
        self.put(Event::End(BytesEnd::new(DEVICE)))
    }

    fn end(&mut self) -> Result<()> {
        self.put(Event::End(BytesEnd::new(SUPERBLOCK)))?;
        let output = self.writer.get_mut();
        output.write_all(b"\n").and_then(|()| output.flush()).map_err(failed)
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("writing XML: {error}"))
}
