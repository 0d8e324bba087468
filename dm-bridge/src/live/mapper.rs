//! Mapped devices, by the program `dmsetup`.
//!
//! Owns its arguments and what it prints. Where udev runs it makes the nodes below `/dev/mapper`, and dmsetup waits for it; where it
//! does not, waiting would never end, and dmsetup makes them itself.

use super::names::MemberUuid;
use super::run::{Error, ErrorKind, Program, With};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;
use vellum_engine::request::Uuid;

const DMSETUP: Program = Program { name: "dmsetup", package: "dmsetup" };
/// How long requests that are on their way may keep a device from being suspended.
const SUSPEND: Duration = Duration::from_secs(30);
/// How often a list is asked for that fails if one of its devices, anybody's, vanishes meanwhile.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_millis(50);
/// There while udev runs.
const UDEV: &str = "/run/udev/control";

/// Device-mapper of this kernel.
#[derive(Clone, Debug)]
pub struct DeviceMapper {
    udev_runs: bool,
    lock: Option<Arc<OwnedFd>>,
}

/// A mapped device of a pool of Vellum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedDevice {
    /// What it is.
    pub uuid: MemberUuid,
    /// Its name.
    pub name: String,
    /// Its number, as `major:minor`.
    pub number: String,
    /// How many have it open, other mapped devices among them.
    pub open_count: u64,
    /// Number of the last event.
    pub event: u64,
    /// Whether its requests wait.
    pub suspended: bool,
    /// Whether nobody may write.
    pub read_only: bool,
    /// Whether it is one at all: who made it may have been killed before it had a table.
    pub has_table: bool,
}

impl MappedDevice {
    /// Its node.
    pub fn path(&self) -> PathBuf {
        node(&self.name)
    }
}

fn node(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

impl Default for DeviceMapper {
    fn default() -> Self {
        Self { udev_runs: Path::new(UDEV).exists(), lock: None }
    }
}

impl DeviceMapper {
    /// What is locked stays so as long as a program runs, even if this one is killed.
    pub fn holding(self, lock: OwnedFd) -> Self {
        Self { lock: Some(Arc::new(lock)), ..self }
    }

    fn with(&self) -> With<'_> {
        let environment: &[_] = if self.udev_runs { &[] } else { &[("DM_DISABLE_UDEV", "1")] };
        With { environment, lock: self.lock.as_deref(), in_foreground: false }
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        DMSETUP.run(self.with(), arguments)
    }

    /// Runs what looks at all devices, those of others too.
    fn run_over_all(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut tries = 1;
        loop {
            match self.run(arguments) {
                Err(error) if tries < TRIES && may_have_vanished(error.kind()) => tries += 1,
                listed => return listed,
            }
            sleep(RETRY);
        }
    }

    /// All devices of pools of Vellum.
    pub fn devices(&self) -> Result<Vec<MappedDevice>, Error> {
        // Others may have any name: it stands last.
        let fields = "uuid,major,minor,open,events,attr,name";
        let arguments = ["info", "--columns", "--noheadings", "--separator", "|", "-o", fields];
        self.run_over_all(&arguments)?.lines().filter_map(device).collect()
    }

    /// Makes a device and gives its node.
    pub fn create(
        &self,
        name: &str,
        uuid: &MemberUuid,
        table: &str,
        read_only: bool,
    ) -> Result<PathBuf, Error> {
        let uuid = uuid.to_string();
        let mut arguments = vec!["create", name, "--uuid", &uuid, "--table", table];
        if read_only {
            arguments.push("--readonly");
        }
        self.run(&arguments).map_err(|error| {
            // The kernel's word for a name that is taken.
            let is_taken = error.kind() == ErrorKind::Busy && error.message().contains("create ioctl");
            let taken =
                || Error::new(ErrorKind::Exists, format!("there is a mapped device '{name}' already"));
            if is_taken { taken() } else { error }
        })?;
        let node = node(name);
        if !node.exists()
            && let Err(error) = self.run(&["mknodes", name])
        {
            // Nobody else knows yet that it is there.
            let _ = self.remove(name);
            return Err(error);
        }
        Ok(node)
    }

    /// Removes a device. `Busy` if somebody has it open.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.run(&["remove", "--retry", name]).map(drop)
    }

    /// The table that is active.
    pub fn table(&self, name: &str) -> Result<String, Error> {
        self.run(&["table", name])
    }

    /// What the kernel tells of it.
    pub fn status(&self, name: &str) -> Result<String, Error> {
        self.run(&["status", name])
    }

    /// What the kernel tells of all thin devices, anybody's too, by name.
    pub fn thin_statuses(&self) -> Result<BTreeMap<String, String>, Error> {
        // They do not change by a commit, and somebody else's pool need not do one for us.
        let listed = self.run_over_all(&["status", "--noflush", "--target", "thin"])?;
        Ok(listed.lines().filter_map(named).collect())
    }

    /// Gives a device another table, which takes effect in one step. If it does not, the device goes on with the one that it has.
    pub fn reload(&self, name: &str, table: &str) -> Result<(), Error> {
        let old = self.table(name)?;
        self.run(&["load", name, "--table", table])?;
        // The kernel suspends, changes and resumes. Requests that wait for room must not be waited for.
        let resume = || self.run(&["resume", "--noflush", "--nolockfs", name]).map(drop);
        let Err(error) = resume() else { return Ok(()) };
        if resume().is_ok() {
            return Ok(());
        }
        let back = self.run(&["load", name, "--table", old.trim()]).and_then(|_| resume());
        let what = match &back {
            Ok(()) => "the table that it had is back".to_owned(),
            Err(other) => {
                format!("'{name}' may be suspended, and the table that it had is not back: {other}")
            }
        };
        Err(Error::new(error.kind(), format!("{error}; {what}")))
    }

    /// Brings what is on the way to its end, and lets everything else wait. If that takes too long the device goes on.
    pub fn suspend(&self, name: &str) -> Result<(), Error> {
        let is_done = DMSETUP.run_for(self.with(), &["suspend", name], Some(SUSPEND));
        if matches!(is_done, Ok(true)) {
            return Ok(());
        }
        // It may be suspended although this failed.
        let resumed = self.resume(name);
        is_done?;
        let then =
            resumed.map_or_else(|error| format!("it may be suspended: {error}"), |()| "it goes on".into());
        let message =
            format!("requests to '{name}' did not come to their end in {} s; {then}", SUSPEND.as_secs());
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Lets a device go on.
    pub fn resume(&self, name: &str) -> Result<(), Error> {
        self.run(&["resume", name]).map(drop)
    }

    /// Asks a pool for something.
    pub fn message(&self, name: &str, text: &str) -> Result<(), Error> {
        self.run(&["message", name, "0", text]).map(drop)
    }

    /// Waits until there was an event behind `event`, at most for some time. Whether there was one.
    pub fn wait(&self, name: &str, event: u64, limit: Option<Duration>) -> Result<bool, Error> {
        let with = With { lock: None, in_foreground: true, ..self.with() };
        DMSETUP.run_for(with, &["wait", "--noflush", name, &event.to_string()], limit)
    }
}

/// Whether it can be that a device of the list has gone: the words for that differ.
fn may_have_vanished(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Failed)
}

/// The name of the device that a pool has in the kernel, if it has one. Needs neither programs nor rights.
pub fn active_pool(pool: &Uuid) -> Option<String> {
    let uuid = MemberUuid::pool(pool).to_string();
    let read = |path: PathBuf| std::fs::read_to_string(path).map(|text| text.trim_end().to_owned());
    let devices = std::fs::read_dir("/sys/block").ok()?;
    let mut devices = devices.flatten().map(|device| device.path().join("dm"));
    let found = devices.find(|device| read(device.join("uuid")).is_ok_and(|found| found == uuid))?;
    Some(read(found.join("name")).unwrap_or(uuid))
}

/// A line of the list; nothing if it is somebody else's.
fn device(line: &str) -> Option<Result<MappedDevice, Error>> {
    let fields: Vec<&str> = line.splitn(7, '|').map(str::trim).collect();
    let uuid: MemberUuid = fields.first()?.parse().ok()?;
    let unreadable = || {
        Error::new(ErrorKind::Unreadable, format!("dmsetup lists a device as '{line}', which cannot be read"))
    };
    let [_, major, minor, open, events, attributes, name] = fields[..] else {
        return Some(Err(unreadable()));
    };
    let (Ok(open_count), Ok(event)) = (open.parse(), events.parse()) else { return Some(Err(unreadable())) };
    Some(Ok(MappedDevice {
        uuid,
        name: name.to_owned(),
        number: format!("{major}:{minor}"),
        open_count,
        event,
        suspended: attributes.contains('s'),
        read_only: attributes.contains('r'),
        has_table: attributes.starts_with('L'),
    }))
}

/// `name: status`; no name has a blank.
fn named(line: &str) -> Option<(String, String)> {
    let (name, status) = line.split_once(": ")?;
    Some((name.to_owned(), status.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_by_name() {
        let found = named("tank-group:disk@monday: 0 8200 thin 5248 8199");
        assert_eq!(found, Some(("tank-group:disk@monday".into(), "0 8200 thin 5248 8199".into())));
        assert_eq!(named("No devices found"), None);
    }

    const UUID: &str = "VELLUM-07070707-0707-0707-0707-070707070707-";

    #[test]
    fn lines_of_the_list_become_devices() {
        let found = device(&format!("{UUID}5|254|3|1|7|L-sr|tank-group:disk@monday")).unwrap().unwrap();
        let expected = MappedDevice {
            uuid: MemberUuid::thin(&[7; 16], 5),
            name: "tank-group:disk@monday".into(),
            number: "254:3".into(),
            open_count: 1,
            event: 7,
            suspended: true,
            read_only: true,
            has_table: true,
        };
        assert_eq!(found, expected);
        assert_eq!(found.path(), Path::new("/dev/mapper/tank-group:disk@monday"));
        let pool = device(&format!("{UUID}pool|254|0|0|0|L--w|tank-pool")).unwrap().unwrap();
        assert!(pool.uuid.device.is_none() && !pool.suspended && !pool.read_only && pool.has_table);
        let begun = device(&format!("{UUID}pool|254|0|0|0|---w|tank-pool")).unwrap().unwrap();
        assert!(!begun.has_table);
    }

    #[test]
    fn devices_of_others_are_passed_over_and_broken_lines_are_not() {
        for line in ["", "No devices found", "LVM-abc|254|0|1|0|L--w|vg-lv", "|254|1|0|0|L--w|a|b"] {
            assert!(device(line).is_none(), "{line}");
        }
        for rest in ["pool", "pool|254|0|x|0|L--w|n", "pool|254|0|0"] {
            let error = device(&format!("{UUID}{rest}")).unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreadable);
        }
    }
}
