//! Mapped devices, by the program `dmsetup`.
//!
//! Owns its arguments and what it prints. Where udev runs it makes the nodes below `/dev/mapper`, and dmsetup waits for it; where it
//! does not, waiting would never end, and dmsetup makes them itself.

use super::names::MemberUuid;
use super::run::{Error, ErrorKind, Program};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DMSETUP: Program = Program { name: "dmsetup", package: "dmsetup" };
/// There while udev runs.
const UDEV: &str = "/run/udev/control";

/// Device-mapper of this kernel.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMapper {
    udev_runs: bool,
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
        Self { udev_runs: Path::new(UDEV).exists() }
    }
}

impl DeviceMapper {
    fn environment(self) -> &'static [(&'static str, &'static str)] {
        if self.udev_runs { &[] } else { &[("DM_DISABLE_UDEV", "1")] }
    }

    fn run(self, arguments: &[&str]) -> Result<String, Error> {
        DMSETUP.run(self.environment(), arguments)
    }

    /// All devices of pools of Vellum.
    pub fn devices(self) -> Result<Vec<MappedDevice>, Error> {
        // Others may have any name: it stands last.
        let fields = "uuid,major,minor,open,events,attr,name";
        let listed = self.run(&["info", "--columns", "--noheadings", "--separator", "|", "-o", fields])?;
        listed.lines().filter_map(device).collect()
    }

    /// Makes a device and gives its node.
    pub fn create(
        self,
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
    pub fn remove(self, name: &str) -> Result<(), Error> {
        self.run(&["remove", "--retry", name]).map(drop)
    }

    /// The table that is active.
    pub fn table(self, name: &str) -> Result<String, Error> {
        self.run(&["table", name])
    }

    /// What the kernel tells of it.
    pub fn status(self, name: &str) -> Result<String, Error> {
        self.run(&["status", name])
    }

    /// What the kernel tells of all thin devices, anybody's too, by name.
    pub fn thin_statuses(self) -> Result<BTreeMap<String, String>, Error> {
        // They do not change by a commit, and somebody else's pool need not do one for us.
        let listed = self.run(&["status", "--noflush", "--target", "thin"])?;
        Ok(listed.lines().filter_map(named).collect())
    }

    /// Gives a device another table, which takes effect in one step.
    pub fn reload(self, name: &str, table: &str) -> Result<(), Error> {
        self.run(&["load", name, "--table", table])?;
        // The kernel suspends, changes and resumes. Requests that wait for room must not be waited for.
        self.run(&["resume", "--noflush", "--nolockfs", name]).map(drop)
    }

    /// Brings what is on the way to its end, and lets everything else wait.
    pub fn suspend(self, name: &str) -> Result<(), Error> {
        self.run(&["suspend", name]).map(drop)
    }

    /// Lets a device go on.
    pub fn resume(self, name: &str) -> Result<(), Error> {
        self.run(&["resume", name]).map(drop)
    }

    /// Asks a pool for something.
    pub fn message(self, name: &str, text: &str) -> Result<(), Error> {
        self.run(&["message", name, "0", text]).map(drop)
    }

    /// Waits until there was an event behind `event`, at most for some time. Whether there was one.
    pub fn wait(self, name: &str, event: u64, limit: Option<Duration>) -> Result<bool, Error> {
        DMSETUP.run_for(self.environment(), &["wait", "--noflush", name, &event.to_string()], limit)
    }
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
        };
        assert_eq!(found, expected);
        assert_eq!(found.path(), Path::new("/dev/mapper/tank-group:disk@monday"));
        let pool = device(&format!("{UUID}pool|254|0|0|0|L--w|tank-pool")).unwrap().unwrap();
        assert!(pool.uuid.device.is_none() && !pool.suspended && !pool.read_only);
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
