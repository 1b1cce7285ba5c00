//! The order in which the servers are measured.

use anyhow::Result;

use crate::cli::{CommonArgs, ServerSpec};
use crate::report::Series;
use crate::server::Server;

/// One measurement: which server, and which of the runs.
pub struct Round<'a> {
    pub spec: &'a ServerSpec,
    pub run: u32,
    pub runs: u32,
}

/// Measures all servers in turn, `runs` times, each time in a new process.
/// Taking turns spreads what else happens on the machine over all servers.
pub fn measure(
    args: &CommonArgs,
    runs: u32,
    mut figure: impl FnMut(&Round, &Server) -> Result<f64>,
) -> Result<Vec<Series>> {
    args.check()?;
    let mut series = Series::for_servers(&args.servers);
    for run in 1..=runs {
        for (spec, series) in args.servers.iter().zip(&mut series) {
            let mut server = Server::start(spec, args.deadline())?;
            let result = figure(&Round { spec, run, runs }, &server);
            series.values.push(result.map_err(|error| server.explain(error))?);
        }
    }
    Ok(series)
}
