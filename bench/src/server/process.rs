//! Reads the processor time and memory of a process and its descendants from `/proc`.

use std::fs;
use std::ops::{Add, Sub};

use anyhow::{Context, Result};

/// Processor time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Time in user code, in microseconds.
    pub user: f64,
    /// Time in the kernel for this process, in microseconds.
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { user: self.user - other.user, system: self.system - other.system }
    }
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resident {
    /// The current size. If several processes share a page, each process counts a part of the page.
    pub now: u64,
    /// The greatest size so far. For several processes, the sum of their peaks, which counts shared pages several
    /// times. The true peak is not greater.
    pub peak: u64,
}

/// Returns the process ids of a process and its descendants, such as the workers of nginx.
///
/// Not every kernel lists the children of a process, so this function reads the parent of every process.
pub fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end after this loop has found its folder.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        parents.extend(parse_stat(&stat).map(|stat| (pid, stat.parent)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    Ok(family)
}

/// Reads the processor time of these processes and returns the sum.
pub fn cpu(family: &[u32]) -> Result<Cpu> {
    family.iter().try_fold(Cpu::default(), |sum, pid| {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(sum + parse_stat(&text).with_context(|| format!("{path} has an unknown format"))?.cpu)
    })
}

/// Reads the resident memory of these processes and returns the sum.
pub fn resident(family: &[u32]) -> Result<Resident> {
    family.iter().try_fold(Resident::default(), |sum, pid| {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let mut one = Resident { now: kib(&text, "VmRSS:")?, peak: kib(&text, "VmHWM:")? };
        if family.len() > 1 {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            one.now = kib(&text, "Pss:")?;
        }
        Ok(Resident { now: sum.now + one.now, peak: sum.peak + one.peak })
    })
}

/// The kernel's memory for objects such as sockets and for the data in socket buffers, in KiB. It contains the sockets
/// of all processes on the machine.
pub fn kernel_kib() -> Result<u64> {
    let objects = kib(&fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?, "Slab:")?;
    let sockets = fs::read_to_string("/proc/net/sockstat").context("cannot read /proc/net/sockstat")?;
    let pages = buffer_pages(&sockets).context("/proc/net/sockstat has no memory of TCP")?;
    Ok(objects + pages * rustix::param::page_size() as u64 / 1024)
}

/// The number of pages in the buffers of all TCP sockets.
fn buffer_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The busy processor time of the whole machine, in microseconds. Time of other programs than the server and the load
/// generator disturbs the measurement.
pub fn machine() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&text).map(micros).context("/proc/stat has an unknown format")
}

/// The first line has the times of all processors together: user, nice, system, idle, iowait, irq, softirq, steal
/// (proc(5)).
fn busy_ticks(text: &str) -> Option<u64> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let times: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _, _, interrupts, soft, stolen] = times.as_slice() else { return None };
    Some(user + nice + system + interrupts + soft + stolen)
}

#[expect(clippy::cast_precision_loss, reason = "clock ticks are far below 2^53")]
fn micros(ticks: u64) -> f64 {
    ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

/// Counts the fields from the end of the process's name, because this name may contain spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut time = |field: usize| fields.nth(field)?.parse().ok().map(micros);
    // In the file, field 4 is the parent, field 14 the user time, and field 15 the system time.
    let user = time(9)?;
    Some(Stat { parent, cpu: Cpu { user, system: time(0)? } })
}

/// Reads the size, in KiB, from the line that begins with `name`.
fn kib(text: &str, name: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no valid line {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_sizes_are_found_among_other_lines() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t     812 kB\nThreads:\t1\n";
        assert_eq!((kib(status, "VmRSS:").ok(), kib(status, "VmHWM:").ok()), (Some(812), Some(900)));
        assert!(kib("Name:\tx\nState:\tZ (zombie)\n", "VmRSS:").is_err());
    }

    #[test]
    fn pages_of_socket_buffers_are_found() {
        let text = "sockets: used 3\nTCP: inuse 5 orphan 0 tw 4 alloc 10 mem 32\nUDP: inuse 1 mem 2\n";
        assert_eq!(buffer_pages(text), Some(32));
        assert_eq!(buffer_pages("TCP: inuse 5\n"), None);
    }

    #[test]
    fn name_with_spaces_does_not_shift_the_fields() {
        let stat = parse_stat("7 (a) (b c) S 3 7 7 0 -1 0 0 0 0 0 200 100 0 0 20 0").expect("it has all fields");
        assert_eq!(stat.parent, 3);
        let tick = stat.cpu.system / 100.0;
        assert!((stat.cpu.user - 200.0 * tick).abs() < 1e-6);
    }

    #[test]
    fn idle_time_is_not_busy_time() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 1 2 4 1000\n"), Some(63));
        assert_eq!(busy_ticks("cpu  1 2\n"), None);
    }

    #[test]
    fn family_contains_the_child() -> Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let family = family(std::process::id());
        child.kill()?;
        child.wait()?;
        assert!(family?.contains(&child.id()));
        Ok(())
    }
}
