//! Owns the emulator's process: how it is started, waited for, and that it never outlives who started it.
//!
//! Emulates instead of using hardware's virtualisation, which nested machines often have and cannot use.

use super::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const EMULATOR: &str = "qemu-system-x86_64";

/// The kernel speaks on the first serial port and ends the machine when it panics.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 panic=-1 oops=panic mitigations=off random.trust_cpu=on no_timer_check";

/// A running emulator; killed when dropped, and by the kernel when the thread that started it dies.
pub struct Machine {
    child: Child,
}

impl Machine {
    /// Boots the kernel in `boot` with the host's root and the folder `job` exported.
    pub fn start(
        boot: &Path,
        job: &Path,
        disks: &[impl AsRef<Path>],
        memory_mib: u32,
    ) -> Result<Machine, Error> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", EMULATOR]);
        command
            .args("-accel tcg,thread=multi -cpu max -smp 2 -nodefaults -display none -no-reboot".split(' '));
        command.arg("-m").arg(memory_mib.to_string());
        command.arg("-serial").arg(format!("file:{}", option(&job.join("console"))));
        command.arg("-kernel").arg(boot.join("vmlinuz")).arg("-initrd").arg(boot.join("initrd"));
        command.args(["-append", KERNEL_ARGUMENTS]);
        // Without the remapping, files of different file systems of the host could look like one.
        let share = "security_model=none,multidevs=remap";
        command.arg("-virtfs").arg(format!("local,path=/,mount_tag=host,readonly=on,{share}"));
        command.arg("-virtfs").arg(format!("local,path={},mount_tag=job,{share}", option(job)));
        for disk in disks {
            let disk = option(disk.as_ref());
            command.arg("-drive").arg(format!("file={disk},format=raw,if=virtio,discard=unmap"));
        }
        let log = File::create(job.join("emulator")).map_err(host)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(host)?).stderr(log);
        let child = command.env("PATH", super::search_path()).spawn().map_err(host)?;
        Ok(Machine { child })
    }

    /// Waits for the end; false if `limit` passed before.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).map_err(host)?;
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(host)?;
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(host(error)),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself; then there is only its status to collect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn host(error: impl std::fmt::Display) -> Error {
    Error::Host(error.to_string())
}

/// `path` as part of an option of the emulator, where a comma is written twice.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
