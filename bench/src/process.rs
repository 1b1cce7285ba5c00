//! What `/proc` tells of a process and the processes that it started.

use std::fs;
use std::ops::{Add, Sub};

use anyhow::{Context, Result};

/// The processor time that a server has used, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// In its own code.
    pub user: f64,
    /// In the kernel, on its behalf.
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

/// The resident memory of a server in units of 1024 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resident {
    pub now: u64,
    /// The most it ever was. Of several processes it is the sum of their peaks, which is no less than the true peak.
    pub peak: u64,
}

/// A process and its descendants. A server with worker processes is the sum of them.
///
/// Not every kernel lists the children of a process, so that they are looked for among all processes.
pub fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("could not read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the two looks at it.
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

/// The processor time of all these processes together.
pub fn cpu(family: &[u32]) -> Result<Cpu> {
    family.iter().try_fold(Cpu::default(), |sum, pid| {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        Ok(sum + parse_stat(&text).with_context(|| format!("{path} is not as expected"))?.cpu)
    })
}

/// The resident memory of all these processes together.
pub fn resident(family: &[u32]) -> Result<Resident> {
    family.iter().try_fold(Resident::default(), |sum, pid| {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let one = parse_status(&text).with_context(|| format!("{path} has no valid VmRSS and VmHWM"))?;
        Ok(Resident { now: sum.now + one.now, peak: sum.peak + one.peak })
    })
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

/// The fields are counted from behind the name, which stands in parentheses and may contain anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "clock ticks of a process are far below 2^53")]
    let mut micros = |field: usize| {
        let ticks: u64 = fields.nth(field)?.parse().ok()?;
        Some(ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64)
    };
    // Field 14 is the user time and 15 the system time; the parent was field 4.
    let user = micros(9)?;
    Some(Stat { parent, cpu: Cpu { user, system: micros(0)? } })
}

fn parse_status(text: &str) -> Option<Resident> {
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Resident { now: value("VmRSS:")?, peak: value("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_sizes_are_found_among_the_other_lines() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t     812 kB\nThreads:\t1\n";
        assert_eq!(parse_status(status), Some(Resident { now: 812, peak: 900 }));
        assert_eq!(parse_status("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = parse_stat("7 (a) (b c) S 3 7 7 0 -1 0 0 0 0 0 200 100 0 0 20 0").expect("it has all fields");
        assert_eq!(stat.parent, 3);
        let tick = stat.cpu.system / 100.0;
        assert!((stat.cpu.user - 200.0 * tick).abs() < 1e-6);
    }

    #[test]
    fn a_family_has_the_process_and_its_children() -> Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let family = family(std::process::id());
        child.kill()?;
        child.wait()?;
        assert!(family?.contains(&child.id()));
        Ok(())
    }
}
