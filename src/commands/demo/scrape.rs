//! Simulates scrape runs. Each run visits the bookmakers in turn and reports its progress. The first run publishes
//! offers.

use std::time::Duration;

use fastrand::Rng;
use oddswire::message::Timestamp;
use serde::Serialize;

use super::market::{EVENTS, Market};
use super::prices::BOOKMAKERS;

/// Time between two reports of a run.
const STEP: Duration = Duration::from_millis(1_500);
/// Time between two runs.
const PAUSE: Duration = Duration::from_secs(20);
/// On average, one of this many runs fails. The first run never fails.
const FAILS: u32 = 8;

/// Produces scrape runs, one after the other.
#[derive(Debug, Default)]
pub(super) struct Runs {
    run: u32,
    step: usize,
    due: Option<Timestamp>,
    began: Option<Timestamp>,
    fails: bool,
}

/// A report of progress, with the fields of a real scraper.
#[derive(Serialize)]
struct Report<'a> {
    platform: Option<&'a str>,
    phase: &'a str,
    current: u32,
    total: u32,
    events_count: usize,
    duration_ms: Option<u64>,
    message: Option<String>,
    /// Time of the report, in UTC without a `Z`.
    timestamp: String,
    scrape_run_id: u32,
    elapsed_ms: u64,
    error: Option<&'a str>,
}

impl Runs {
    /// The messages of the current run that are due at `now`. Only the first run publishes offers, because the market
    /// itself publishes later changes.
    pub(super) fn step(&mut self, rng: &mut Rng, market: &mut Market, now: Timestamp) -> Vec<String> {
        if self.due.is_some_and(|due| now < due) {
            return Vec::new();
        }
        if self.step == 0 {
            self.run += 1;
            self.began = Some(now);
            self.fails = self.run > 1 && rng.u32(..FAILS) == 0;
        }
        let mut messages = Vec::new();
        let bookmaker = self.step.checked_sub(2).filter(|at| *at < BOOKMAKERS.len());
        let broke = self.fails && self.step == 7;
        let wait = match (self.step, bookmaker) {
            (0, _) => self.report(&mut messages, now, "starting", 0, None),
            (1, _) => self.report(&mut messages, now, "discovery", 1, None),
            (_, Some(at)) if !broke => {
                let wait = self.report(&mut messages, now, "scraping", 2, Some(BOOKMAKERS[at].name));
                if self.run == 1 {
                    messages.extend(market.image(0..EVENTS, at..at + 1, now));
                }
                wait
            }
            _ => self.end(&mut messages, now, broke),
        };
        self.due = Some(now.plus(wait));
        messages
    }

    fn end(&mut self, messages: &mut Vec<String>, now: Timestamp, broke: bool) -> Duration {
        let (phase, current) = if broke { ("failed", 0) } else { ("completed", 3) };
        self.report(messages, now, phase, current, None);
        self.step = 0;
        PAUSE
    }

    fn report(
        &mut self,
        messages: &mut Vec<String>,
        now: Timestamp,
        phase: &str,
        current: u32,
        platform: Option<&str>,
    ) -> Duration {
        let elapsed = self.began.map_or(0, |began| now.as_millis().abs_diff(began.as_millis()));
        let scraped = self.step.saturating_sub(1).min(BOOKMAKERS.len());
        let is_over = matches!(phase, "completed" | "failed");
        let report = Report {
            platform,
            phase,
            current,
            total: 3,
            events_count: if self.step == 0 { 0 } else { EVENTS * scraped },
            duration_ms: is_over.then_some(elapsed),
            message: platform.map(|name| format!("{EVENTS} events at {name}")),
            // The timestamps of a real scraper have microseconds, and no `Z`.
            timestamp: now.to_string().trim_end_matches('Z').to_owned() + "000",
            scrape_run_id: self.run,
            elapsed_ms: elapsed,
            error: (phase == "failed").then_some("the bookmaker does not answer"),
        };
        let data = serde_json::to_string(&report).expect("texts and numbers always serialise");
        messages.push(format!(r#"{{"topic":"scrape_progress","type":"scrape_progress","data":{data}}}"#));
        self.step += 1;
        STEP
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn first_run_publishes_all_offers_in_its_phases() {
        let mut rng = Rng::with_seed(1);
        let now = |tick: i64| Timestamp::from_millis(1_790_000_000_000 + tick * 100);
        let mut market = Market::new(&mut rng, now(0));
        let mut runs = Runs::default();
        let (mut phases, mut offers) = (Vec::new(), 0);
        for tick in 0..20_000 {
            for message in runs.step(&mut rng, &mut market, now(tick)) {
                let message: Value = serde_json::from_str(&message).unwrap();
                if message["topic"] == "odds_updates" {
                    offers += 1;
                } else {
                    let data = &message["data"];
                    phases.push((data["scrape_run_id"].as_u64().unwrap(), data["phase"].as_str().unwrap().to_owned()));
                }
            }
        }
        assert_eq!(offers, 6_000);
        let first: Vec<_> = phases.iter().filter(|(run, _)| *run == 1).map(|(_, phase)| phase.as_str()).collect();
        let scraping = std::iter::repeat_n("scraping", 10);
        let expected: Vec<_> = ["starting", "discovery"].into_iter().chain(scraping).chain(["completed"]).collect();
        assert_eq!(first, expected);
        assert!(phases.iter().any(|(_, phase)| phase == "failed"), "some fail");
    }
}
