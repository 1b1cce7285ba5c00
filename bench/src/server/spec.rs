//! The command lines of the servers to compare.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

use crate::server::dialect::Dialect;

/// The placeholder for the server's port in a command line or configuration file.
const PORT: &str = "{port}";

/// The placeholder for a temporary folder in a configuration file.
const SCRATCH: &str = "{scratch}";

/// The publish token of oddswire.
pub const TOKEN: &str = "bench";

/// The folder of the peers' sources, relative to the root of the repository.
const PEERS: &str = "bench/peers";

/// The program of the web server nginx, which loads the module nchan.
pub const NGINX: &str = "nginx";

/// The path to which Debian's package installs the nginx module nchan.
const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// A server to measure: its name in the report, and its command line.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    pub name: String,
    pub dialect: Dialect,
    program: String,
    arguments: Vec<String>,
    /// A configuration file with placeholders. The path of the filled-in copy is the server's last argument.
    template: Option<PathBuf>,
}

impl ServerSpec {
    /// Returns the program and its arguments, with the port in place of each placeholder. Writes the configuration
    /// file, if there is one, into `scratch`.
    pub fn command_line(&self, port: u16, scratch: &Path) -> Result<(String, Vec<String>)> {
        let port = port.to_string();
        let fill = |word: &String| word.replace(PORT, &port);
        let mut arguments: Vec<String> = self.arguments.iter().map(fill).collect();
        if let Some(template) = &self.template {
            let text = fs::read_to_string(template).with_context(|| format!("cannot read {}", template.display()))?;
            let directory = scratch.to_string_lossy();
            let path = scratch.join("server.conf");
            fs::write(&path, fill(&text).replace(SCRATCH, &directory))?;
            arguments.push(path.to_string_lossy().into_owned());
        }
        Ok((fill(&self.program), arguments))
    }

    fn new(name: &str, program: &str, arguments: &str, template: Option<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            dialect: Dialect::of(name),
            program: program.to_owned(),
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            template,
        }
    }
}

impl FromStr for ServerSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("invalid server: expected NAME=PROGRAM-WITH-ARGS")?;
        let name = name.trim();
        ensure!(!name.is_empty(), "the server has no name: expected NAME=PROGRAM-WITH-ARGS");
        ensure!(command.contains(PORT), "the command line has no {PORT}");
        let (program, arguments) = command.trim().split_once(' ').context("the command line has no arguments")?;
        Ok(Self::new(name, program, arguments, None))
    }
}

/// The peers that are not installed, each with the reason.
pub type Missing = Vec<(&'static str, Error)>;

/// Returns the installed servers, and the missing peers. The programs oddswire and stock-warp must be in the same
/// folder as this program. `python` is an interpreter that has `FastAPI`, uvicorn and websockets.
pub fn installed(python: Option<&str>) -> Result<(Vec<ServerSpec>, Missing)> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let directory = program.parent().context("this program is in no folder")?;
    let beside = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let oddswire = format!("--listen 127.0.0.1:{PORT} --admin-listen off --publish-token {TOKEN}");
    let mut specs = vec![
        ServerSpec::new("oddswire", &beside("oddswire"), &oddswire, None),
        ServerSpec::new("stock-warp", &beside("stock-warp"), &format!("--listen 127.0.0.1:{PORT}"), None),
    ];
    let mut missing = Vec::new();
    for (name, peer) in [("fastapi", fastapi(python)), ("nchan", nchan())] {
        match peer {
            Ok(spec) => specs.push(spec),
            Err(reason) => missing.push((name, reason)),
        }
    }
    for spec in &specs[..2] {
        let built = Path::new(&spec.program).exists();
        ensure!(built, "{} is missing: expected a build by `make bench-programs`", spec.program);
    }
    Ok((specs, missing))
}

fn fastapi(python: Option<&str>) -> Result<ServerSpec> {
    let python = python.context("--python is not set: expected an interpreter with fastapi, uvicorn and websockets")?;
    let found = runs(python, &["-c", "import fastapi, uvicorn, websockets"]);
    ensure!(found, "{python} does not have fastapi, uvicorn and websockets");
    let arguments = format!("-m uvicorn --app-dir {PEERS} --log-level warning --port {PORT} fastapi_app:app");
    Ok(ServerSpec::new("fastapi", python, &arguments, None))
}

fn nchan() -> Result<ServerSpec> {
    ensure!(runs(NGINX, &["-v"]), "nginx is not installed");
    ensure!(Path::new(NCHAN_MODULE).exists(), "libnginx-mod-nchan is not installed");
    let template = Path::new(PEERS).join("nchan.conf");
    Ok(ServerSpec::new("nchan", NGINX, "-c", Some(template)))
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let null = Stdio::null;
    let status = Command::new(program).args(arguments).stdin(null()).stdout(null()).stderr(null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_replaces_every_placeholder() -> Result<()> {
        let spec: ServerSpec = "a=prog --listen 127.0.0.1:{port} -p {port} x=y".parse()?;
        assert_eq!((spec.name.as_str(), spec.dialect), ("a", Dialect::Oddswire));
        let (program, arguments) = spec.command_line(81, Path::new("/nowhere"))?;
        assert_eq!(program, "prog");
        assert_eq!(arguments, ["--listen", "127.0.0.1:81", "-p", "81", "x=y"]);
        Ok(())
    }

    #[test]
    fn filled_in_template_is_the_last_argument() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let template = scratch.path().join("template");
        fs::write(&template, "listen {port}; pid {scratch}/pid;")?;
        let spec = ServerSpec::new("nchan", "nginx", "-c", Some(template));
        let (_, arguments) = spec.command_line(81, scratch.path())?;
        let directory = scratch.path().display();
        assert_eq!(arguments, ["-c".to_owned(), format!("{directory}/server.conf")]);
        let filled = fs::read_to_string(&arguments[1])?;
        assert_eq!(filled, format!("listen 81; pid {directory}/pid;"));
        Ok(())
    }

    #[test]
    fn incomplete_specs_are_rejected() {
        for text in ["prog {port}", "=prog {port}", "a=prog", "a="] {
            assert!(text.parse::<ServerSpec>().is_err(), "{text}");
        }
    }
}
