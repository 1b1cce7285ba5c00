//! Describes the machine and the versions of the measured programs, without data that identifies the owner.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use crate::figures::statistics::to_f64;
use crate::server::spec::NGINX;

/// The resources that a server can use.
pub struct Machine {
    pub cores: f64,
    /// The size of the memory in bytes.
    pub memory: f64,
}

impl Machine {
    /// Reads the resources of this machine.
    pub fn this() -> Result<Self> {
        let cores = thread::available_parallelism()?.get();
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("/proc/meminfo has no MemTotal")?;
        let kib: u64 = memory.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cores: to_f64(cores as u64), memory: to_f64(kib) * 1024.0 })
    }
}

/// Describes the machine as a Markdown list. `python` is the interpreter that runs the peer fastapi.
pub fn description(python: Option<&str>) -> Result<String> {
    let Machine { cores, memory } = Machine::this()?;
    let mut lines = vec![
        format!("{cores} cores, {}", processor()?),
        format!("{:.0} GiB of memory", (memory / f64::from(1 << 30)).ceil()),
        format!("Linux {}", kernel(&fs::read_to_string("/proc/sys/kernel/osrelease")?)),
    ];
    let oddswire = std::env::current_exe()?.with_file_name("oddswire");
    lines.extend(output(&oddswire.to_string_lossy(), &["--version"]));
    lines.extend(output("rustc", &["--version"]));
    lines.extend(output(NGINX, &["-v"]).map(|line| line.replace("nginx version: ", "")));
    let nchan = output("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"]);
    lines.extend(nchan.map(|version| format!("nchan {version}")));
    let versions = "import platform, fastapi, uvicorn, websockets; print('Python', platform.python_version() + ',', \
                    'FastAPI', fastapi.__version__ + ',', 'uvicorn', uvicorn.__version__ + ',', \
                    'websockets', websockets.__version__)";
    lines.extend(python.and_then(|python| output(python, &["-c", versions])));
    Ok(format!("- {}\n", lines.join("\n- ")))
}

fn processor() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.trim().to_owned()))
}

/// Removes the suffix that the builder of the kernel appended to its version.
fn kernel(release: &str) -> &str {
    release.trim().split('-').next().unwrap_or_default()
}

/// Runs a program and returns the first line of its output; `None` if the program is missing or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_version_has_no_suffix_of_its_builder() {
        assert_eq!(kernel("6.18.44-builder-v1\n"), "6.18.44");
        assert_eq!(output("no-such-program", &[]), None);
    }
}
