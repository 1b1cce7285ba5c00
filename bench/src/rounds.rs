//! The order in which cases and servers are measured.

use std::path::Path;

use anyhow::Result;

use crate::case::{Case, Kind};
use crate::measurement::{Round, Setup};
use crate::record::{self, Figures, Record};
use crate::server::Server;
use crate::servers::ServerSpec;
use crate::{connect, fanout, idle, image, retained};

/// Measures the cases of a scenario with all servers that take part, `runs` times, each time in a new process. Taking
/// turns spreads what else happens on the machine over all of them. A measurement that fails is said and left out.
/// Returns the records, and how many measurements failed.
pub fn measure(
    cases: &[Case],
    servers: &[ServerSpec],
    runs: u32,
    setup: &Setup,
    file: Option<&Path>,
) -> Result<(Vec<Record>, u32)> {
    let mut records = Vec::new();
    let mut failed = 0;
    for run in 1..=runs {
        for case in cases {
            for spec in servers.iter().filter(|spec| case.concerns(spec.dialect)) {
                let round = Round { case, spec, run, runs };
                match one(setup, &round) {
                    Ok(figures) => {
                        let record = Record { case: case.name.clone(), server: spec.name.clone(), run, figures };
                        file.map_or(Ok(()), |file| record::append(file, &record))?;
                        records.push(record);
                    }
                    Err(error) => {
                        eprintln!("{}, {}, run {run}: {error:#}", case.name, spec.name);
                        failed += 1;
                    }
                }
            }
        }
    }
    Ok((records, failed))
}

fn one(setup: &Setup, round: &Round) -> Result<Figures> {
    let mut server =
        Server::start(round.spec, round.case.deployment, round.case.arguments(round.spec.dialect), setup.limit)?;
    let result = match &round.case.kind {
        Kind::Idle { connections } => idle::measure(*connections, setup, round, &server),
        Kind::Connect { total, concurrent } => connect::measure(*total, *concurrent, setup, round, &server),
        Kind::Image { clients, state } => image::measure(*clients, state, setup, round, &server),
        Kind::Retained { keys } => retained::measure(keys, setup, round, &server),
        Kind::Fanout(fanout) => fanout.check().and_then(|()| fanout::measure(fanout, setup, round, &server)),
    };
    result.map_err(|error| server.explain(error))
}
