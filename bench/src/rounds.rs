//! Measures the cases of a question, in the order of runs, cases and servers.

use std::path::Path;

use anyhow::Result;

use crate::case::Case;
use crate::deadline::LIMIT;
use crate::figures::record::{self, Figures, Record};
use crate::load::measurement::Measurement;
use crate::load::message::Clock;
use crate::server::Server;
use crate::server::spec::ServerSpec;

/// Measures every case with each of its servers, `runs` times, each time in a new server process. Cases and servers
/// take turns, so that other programs on the machine affect all of them. Returns the records and the number of
/// failures; prints each failure.
pub fn measure(cases: &[Case], servers: &[ServerSpec], runs: u32, file: Option<&Path>) -> Result<(Vec<Record>, u32)> {
    let mut records = Vec::new();
    let mut failed = 0;
    for run in 1..=runs {
        for case in cases {
            for spec in servers.iter().filter(|spec| case.servers.contains(&spec.dialect)) {
                let label = format!("{}, {}, run {run} of {runs}", case.name, spec.name);
                match one(case, spec, label.clone()) {
                    Ok(figures) => {
                        let record = Record { case: case.name.clone(), server: spec.name.clone(), run, figures };
                        file.map_or(Ok(()), |file| record::append(file, &record))?;
                        records.push(record);
                    }
                    Err(error) => {
                        eprintln!("{label}: {error:#}");
                        failed += 1;
                    }
                }
            }
        }
    }
    Ok((records, failed))
}

fn one(case: &Case, spec: &ServerSpec, label: String) -> Result<Figures> {
    let mut server = Server::start(spec, case.deployment, case.arguments(spec.dialect), LIMIT)?;
    let result = (case.measure)(&Measurement { server: &server, clock: Clock::start(), label });
    result.map_err(|error| server.explain(error))
}
