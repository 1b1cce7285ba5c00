//! The servers to compare, and how each is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

use crate::dialect::Dialect;

/// What stands for the port number in the command line of a server.
const PORT: &str = "{port}";

/// What stands for a directory of its own in a configuration file.
const SCRATCH: &str = "{scratch}";

/// The token that oddswire takes publishes with.
pub const TOKEN: &str = "bench";

/// Where Debian's package has the module of nchan.
const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// A server to measure: its name in the report and how to start it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    pub name: String,
    pub dialect: Dialect,
    program: String,
    arguments: Vec<String>,
    /// A configuration file in which the port and the scratch directory are filled in; its path is the last argument.
    template: Option<PathBuf>,
}

impl ServerSpec {
    /// Returns the program and its arguments with the port filled in.
    pub fn command_line(&self, port: u16, scratch: &Path) -> Result<(String, Vec<String>)> {
        let port = port.to_string();
        let fill = |word: &String| word.replace(PORT, &port);
        let mut arguments: Vec<String> = self.arguments.iter().map(fill).collect();
        if let Some(template) = &self.template {
            let text = fs::read_to_string(template).with_context(|| format!("no {}", template.display()))?;
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
        let (name, command) = text.split_once('=').context("expected NAME=PROGRAM-WITH-ARGS")?;
        let name = name.trim();
        ensure!(!name.is_empty(), "the name of the server is empty");
        ensure!(command.contains(PORT), "the command line does not contain {PORT}");
        let (program, arguments) = command.trim().split_once(' ').context("the command line has no arguments")?;
        Ok(Self::new(name, program, arguments, None))
    }
}

/// Where the parts of the comparison are.
pub struct Places<'a> {
    /// The directory of `peers/`.
    pub bench: &'a Path,
    /// An interpreter that has `FastAPI` and uvicorn.
    pub python: Option<&'a str>,
    pub nginx: &'a str,
}

/// The peers that cannot be started, and why.
pub type Missing = Vec<(&'static str, Error)>;

/// Returns the servers that can be started here, and why each of the others cannot. Oddswire and stock-warp are expected
/// beside this program.
pub fn installed(places: &Places) -> Result<(Vec<ServerSpec>, Missing)> {
    let program = std::env::current_exe().context("could not find this program")?;
    let directory = program.parent().context("this program is in no directory")?;
    let beside = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let oddswire = format!("--listen 127.0.0.1:{PORT} --admin-listen off --publish-token {TOKEN}");
    let mut specs = vec![
        ServerSpec::new("oddswire", &beside("oddswire"), &oddswire, None),
        ServerSpec::new("stock-warp", &beside("stock-warp"), &format!("--listen 127.0.0.1:{PORT}"), None),
    ];
    let mut missing = Vec::new();
    for (name, peer) in [("fastapi", fastapi(places)), ("nchan", nchan(places))] {
        match peer {
            Ok(spec) => specs.push(spec),
            Err(reason) => missing.push((name, reason)),
        }
    }
    for spec in &specs[..2] {
        ensure!(Path::new(&spec.program).exists(), "{} is not built: cargo build --release --workspace", spec.name);
    }
    Ok((specs, missing))
}

fn fastapi(places: &Places) -> Result<ServerSpec> {
    let python = places.python.context("--python names no interpreter that has fastapi and uvicorn")?;
    let found = runs(python, &["-c", "import fastapi, uvicorn, websockets"]);
    ensure!(found, "the interpreter of --python has no fastapi, uvicorn and websockets");
    let directory = places.bench.join("peers");
    let arguments =
        format!("-m uvicorn --app-dir {} --log-level warning --port {PORT} fastapi_app:app", directory.display());
    Ok(ServerSpec::new("fastapi", python, &arguments, None))
}

fn nchan(places: &Places) -> Result<ServerSpec> {
    ensure!(runs(places.nginx, &["-v"]), "nginx is not installed");
    ensure!(Path::new(NCHAN_MODULE).exists(), "libnginx-mod-nchan is not installed");
    let template = places.bench.join("peers/nchan.conf");
    Ok(ServerSpec::new("nchan", places.nginx, "-c", Some(template)))
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
    fn the_port_is_filled_in_wherever_it_is_named() -> Result<()> {
        let spec: ServerSpec = "a=prog --listen 127.0.0.1:{port} -p {port} x=y".parse()?;
        assert_eq!((spec.name.as_str(), spec.dialect), ("a", Dialect::Oddswire));
        let (program, arguments) = spec.command_line(81, Path::new("/nowhere"))?;
        assert_eq!(program, "prog");
        assert_eq!(arguments, ["--listen", "127.0.0.1:81", "-p", "81", "x=y"]);
        Ok(())
    }

    #[test]
    fn a_template_is_filled_in_and_named_last() -> Result<()> {
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
    fn incomplete_specifications_are_refused() {
        for text in ["prog {port}", "=prog {port}", "a=prog", "a="] {
            assert!(text.parse::<ServerSpec>().is_err(), "{text}");
        }
    }
}
