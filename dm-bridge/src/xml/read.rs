//! Reads XML as a stream.
//!
//! Owns what is refused: unknown elements and attributes, missing ones, numbers that are none, text. The order and the ranges
//! of mappings are for the sink to refuse, and what it says gets the place in the text. Definitions (`def`) are kept, as they
//! may be referred to until the end; mappings of devices are not.

use super::{DEF, DEVICE, RANGE_MAPPING, REF, SINGLE_MAPPING, SUPERBLOCK, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::format::DeviceDetails;
use crate::stream::{PoolHeader, Run, Sink};
use quick_xml::events::{BytesStart, Event};
use rustc_hash::FxHashMap;
use std::io::BufRead;

/// Runs in definitions that are kept, 192 MiB of them.
const DEFINED_RUNS_MAX: usize = 6 << 20;

/// A device whose XML names another number of mapped blocks than it has mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// Number of the device.
    pub device: u32,
    /// What the XML says.
    pub declared: u64,
    /// What it has, and what was given to a writer of metadata.
    pub counted: u64,
}

/// Reads a pool from XML into `sink`, and returns where the text's numbers of mapped blocks are wrong.
///
/// Fails with `Xml` if the text is not that of a pool, and with what `sink` says, with the place in the text.
pub fn read_xml(input: impl BufRead, sink: &mut impl Sink) -> Result<Vec<Corrected>> {
    let mut reader = quick_xml::Reader::from_reader(input);
    // `<device/>` and `<device></device>` are the same to us.
    reader.config_mut().expand_empty_elements = true;
    let mut state = State::new(sink);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer);
        let event = event.map_err(|error| xml(error.to_string()).with_xml(reader.error_position()))?;
        let at = reader.buffer_position();
        if matches!(event, Event::Eof) {
            return state.finish().map_err(|error| error.with_xml(at));
        }
        state.event(event).map_err(|error| error.with_xml(at))?;
    }
}

/// The open elements: everything but mappings, which hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Nothing,
    Pool,
    Device,
    Def,
    End,
}

struct State<'a, S> {
    sink: &'a mut S,
    inside: Inside,
    /// An element that holds nothing is open.
    leaf: bool,
    device: (u32, u64),
    counted: u64,
    def: Option<(Vec<u8>, Vec<Run>)>,
    defs: FxHashMap<Vec<u8>, Vec<Run>>,
    defined_runs: usize,
    corrected: Vec<Corrected>,
}

impl<'a, S: Sink> State<'a, S> {
    fn new(sink: &'a mut S) -> Self {
        Self {
            sink,
            inside: Inside::Nothing,
            leaf: false,
            device: (0, 0),
            counted: 0,
            def: None,
            defs: FxHashMap::default(),
            defined_runs: 0,
            corrected: Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(element) if self.leaf => Err(unexpected(&element)),
            Event::Start(element) => self.start(&element),
            Event::End(_) => self.close(),
            Event::Text(text) if text.iter().all(u8::is_ascii_whitespace) => Ok(()),
            Event::Comment(_) | Event::Decl(_) => Ok(()),
            _ => Err(xml("only elements and comments can stand here")),
        }
    }

    fn start(&mut self, element: &BytesStart<'_>) -> Result<()> {
        let name = element.name();
        let name = std::str::from_utf8(name.as_ref()).map_err(|_| unexpected(element))?;
        match (self.inside, name) {
            (Inside::Nothing, SUPERBLOCK) => self.open_pool(element),
            (Inside::Pool, DEVICE) => self.open_device(element),
            (Inside::Pool, DEF) => {
                let ([], [name]) = attributes(element, [], [("name", true)])?;
                self.def = Some((name.unwrap_or_default(), Vec::new()));
                self.inside = Inside::Def;
                Ok(())
            }
            (Inside::Device | Inside::Def, SINGLE_MAPPING) => {
                let names = [("origin_block", true), ("data_block", true), ("time", true)];
                let ([virtual_begin, data_begin, time], []) = attributes(element, names, [])?;
                self.mapping(virtual_begin, data_begin, Some(1), time)
            }
            (Inside::Device | Inside::Def, RANGE_MAPPING) => {
                let names = [("origin_begin", true), ("data_begin", true), ("length", true), ("time", true)];
                let ([virtual_begin, data_begin, length, time], []) = attributes(element, names, [])?;
                self.mapping(virtual_begin, data_begin, length, time)
            }
            (Inside::Device, REF) => self.reference(element),
            _ => Err(unexpected(element)),
        }
    }

    fn open_pool(&mut self, element: &BytesStart<'_>) -> Result<()> {
        let names = [
            ("time", true),
            ("transaction", true),
            ("data_block_size", true),
            ("nr_data_blocks", true),
            ("version", false),
            ("flags", false),
            ("metadata_snap", false),
        ];
        let ([time, transaction, sectors, blocks, version, flags, _], [_]) =
            attributes(element, names, [("uuid", false)])?;
        if let Some(version) = version.filter(|version| *version != VERSION) {
            return Err(xml(format!("version {version}, where only {VERSION} is known")));
        }
        let flags = flags.unwrap_or(0);
        if flags > 1 {
            return Err(xml(format!("unknown flags {flags}")));
        }
        self.inside = Inside::Pool;
        self.sink.begin(&PoolHeader {
            uuid: [0; 16],
            time: narrow("time", time)?,
            transaction_id: transaction.unwrap_or(0),
            needs_check: flags == 1,
            data_block_sectors: narrow("data_block_size", sectors)?,
            nr_data_blocks: blocks.unwrap_or(0),
        })
    }

    fn open_device(&mut self, element: &BytesStart<'_>) -> Result<()> {
        let names = [
            ("dev_id", true),
            ("mapped_blocks", true),
            ("transaction", true),
            ("creation_time", true),
            ("snap_time", true),
        ];
        let ([id, mapped, transaction, creation, snapshot], []) = attributes(element, names, [])?;
        let id = narrow("dev_id", id)?;
        let details = DeviceDetails {
            mapped_blocks: mapped.unwrap_or(0),
            transaction_id: transaction.unwrap_or(0),
            creation_time: narrow("creation_time", creation)?,
            snapshotted_time: narrow("snap_time", snapshot)?,
        };
        self.inside = Inside::Device;
        self.device = (id, details.mapped_blocks);
        self.counted = 0;
        self.sink.device(id, &details)
    }

    fn mapping(
        &mut self,
        virtual_begin: Option<u64>,
        data_begin: Option<u64>,
        length: Option<u64>,
        time: Option<u64>,
    ) -> Result<()> {
        self.leaf = true;
        let run = Run {
            virtual_begin: virtual_begin.unwrap_or(0),
            data_begin: data_begin.unwrap_or(0),
            length: length.unwrap_or(0),
            time: narrow("time", time)?,
        };
        let Some((_, runs)) = &mut self.def else { return self.run(&run) };
        self.defined_runs += 1;
        if self.defined_runs > DEFINED_RUNS_MAX {
            let message = format!("more than {DEFINED_RUNS_MAX} mappings in definitions; dump without them");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        runs.push(run);
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<()> {
        self.counted = self.counted.saturating_add(run.length);
        self.sink.run(run).map_err(|error| error.with_device(self.device.0.into()))
    }

    fn reference(&mut self, element: &BytesStart<'_>) -> Result<()> {
        let ([], [name]) = attributes(element, [], [("name", true)])?;
        let name = name.unwrap_or_default();
        self.leaf = true;
        // Taken out for the while, as the sink needs all of `self`.
        let Some((name, runs)) = self.defs.remove_entry(&name) else {
            let name = String::from_utf8_lossy(&name).into_owned();
            return Err(xml(format!("a reference to {name:?}, which is not defined before")));
        };
        let result = runs.iter().try_for_each(|run| self.run(run));
        self.defs.insert(name, runs);
        result
    }

    fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.leaf) {
            return Ok(());
        }
        match self.inside {
            Inside::Device => {
                let (device, declared) = self.device;
                if declared != self.counted {
                    self.corrected.push(Corrected { device, declared, counted: self.counted });
                }
                self.inside = Inside::Pool;
                self.sink.device_end()
            }
            Inside::Def => {
                self.inside = Inside::Pool;
                let Some((name, runs)) = self.def.take() else { return Ok(()) };
                match self.defs.insert(name, runs) {
                    Some(_) => Err(xml("a second definition of the same name")),
                    None => Ok(()),
                }
            }
            Inside::Pool => {
                self.inside = Inside::End;
                Ok(())
            }
            Inside::Nothing | Inside::End => Err(xml("an end without a beginning")),
        }
    }

    /// The pool is complete only when the text is: what follows it is looked at before the sink ends.
    fn finish(self) -> Result<Vec<Corrected>> {
        if self.inside != Inside::End {
            return Err(xml("the text ends inside the pool, or has none"));
        }
        self.sink.end()?;
        Ok(self.corrected)
    }
}

type Attributes<const N: usize, const T: usize> = ([Option<u64>; N], [Option<Vec<u8>>; T]);

/// The attributes of an element by name, each with whether it must be there: numbers and text.
fn attributes<const N: usize, const T: usize>(
    element: &BytesStart<'_>,
    names: [(&str, bool); N],
    texts: [(&str, bool); T],
) -> Result<Attributes<N, T>> {
    let mut numbers = [None; N];
    let mut values = [const { None }; T];
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| xml(error.to_string()))?;
        let key = attribute.key.as_ref();
        if let Some(at) = names.iter().position(|(name, _)| name.as_bytes() == key) {
            numbers[at] = Some(number(names[at].0, &attribute.value)?);
        } else if let Some(at) = texts.iter().position(|(name, _)| name.as_bytes() == key) {
            values[at] = Some(attribute.value.to_vec());
        } else {
            let name = String::from_utf8_lossy(key).into_owned();
            return Err(xml(format!("{}: unknown attribute {name:?}", name_of(element))));
        }
    }
    let missing = names.iter().zip(numbers.iter().map(Option::is_some));
    let missing = missing.chain(texts.iter().zip(values.iter().map(Option::is_some)));
    match missing.into_iter().find(|((_, required), found)| *required && !found) {
        Some(((name, _), _)) => Err(xml(format!("{}: no attribute {name:?}", name_of(element)))),
        None => Ok((numbers, values)),
    }
}

fn number(name: &str, text: &[u8]) -> Result<u64> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.is_empty();
    let value = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    value.ok_or_else(|| {
        xml(format!("{name} is {:?}, which is no number of 64 bits", String::from_utf8_lossy(text)))
    })
}

fn narrow(name: &str, value: Option<u64>) -> Result<u32> {
    let value = value.unwrap_or(0);
    u32::try_from(value).map_err(|_| xml(format!("{name} is {value}, which is no number of 32 bits")))
}

fn name_of(element: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(element.name().as_ref()).into_owned()
}

fn unexpected(element: &BytesStart<'_>) -> Error {
    xml(format!("the element {:?} cannot stand here", name_of(element)))
}

fn xml(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Xml, message)
}
