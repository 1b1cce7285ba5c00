//! Simulates 200 events. Their odds change, and a goal suspends all markets of an event. New events replace those that
//! end.

use std::time::Duration;

use fastrand::Rng;
use oddswire::message::Timestamp;
use serde::Serialize;

use super::prices::{BOOKMAKERS, Course, Kind, TOTAL};

/// Number of events at any time.
pub(super) const EVENTS: usize = 200;
/// The maximum number of attempts for each wanted price change. An attempt can leave the price unchanged.
const TRIES: usize = 40;
/// How long the markets of an event stay suspended after a goal.
const SUSPENDED: Duration = Duration::from_secs(6);
/// How long the prices of an event stay valid after the event ends, if its keys expire.
const GRACE: Duration = Duration::from_secs(10);

/// Invented towns.
const TOWNS: [&str; 24] = [
    "Alderwick",
    "Barrowmere",
    "Coldharbour",
    "Dunmarsh",
    "Eastvale",
    "Fernhollow",
    "Glasswater",
    "Highmoor",
    "Ironbridge Cross",
    "Kestrel Bay",
    "Lowfield",
    "Marrowdale",
    "Northport",
    "Oakenshaw",
    "Pinehurst Green",
    "Quarry Hill",
    "Ravensmouth",
    "Saltmarsh",
    "Thornbury Vale",
    "Upperwood",
    "Vinehall",
    "Westering",
    "Yewcombe",
    "Zealford",
];
const CLUBS: [&str; 5] = ["Rovers", "United", "Athletic", "City", "Town"];
const LEAGUES: [&str; 4] =
    ["soccer_premier_division", "soccer_northern_league", "soccer_coastal_cup", "soccer_second_division"];

/// All events with their offers.
#[derive(Debug)]
pub(super) struct Market {
    events: Vec<Event>,
    last_id: u32,
}

#[derive(Debug)]
struct Event {
    id: u32,
    league: &'static str,
    home: String,
    away: String,
    starts: Timestamp,
    ends: Timestamp,
    course: Course,
    score: [u32; 2],
    suspended_until: Option<Timestamp>,
    /// Each bookmaker's prices in each market, in hundredths; empty before the first offer.
    offers: [[Vec<u32>; BOOKMAKERS.len()]; Kind::ALL.len()],
}

/// A message that the market publishes.
#[derive(Serialize)]
struct MarketMessage<'a> {
    topic: &'static str,
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    data: Option<Offer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// The `data` of a message: the complete state of the message's key.
#[derive(Serialize)]
struct Offer<'a> {
    sport_key: &'static str,
    commence_time: String,
    home_team: &'a str,
    away_team: &'a str,
    seen_at: String,
    in_play: bool,
    suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<String>,
    outcomes: Vec<Outcome<'a>>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    name: &'a str,
    price: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<f64>,
}

impl Market {
    /// A market that looks as if it had run for a while: some events end soon, some have just been announced.
    pub(super) fn new(rng: &mut Rng, now: Timestamp) -> Self {
        let mut market = Self { events: Vec::with_capacity(EVENTS), last_id: 8300 };
        for _ in 0..EVENTS {
            let mut event = market.announce(rng, now);
            // Move the event up to 30 minutes into the past. It still ends 20 s from now or later.
            let past = i64::from(rng.u32(0..30 * 60_000)).min(event.ends.as_millis() - now.as_millis() - 20_000);
            event.starts = Timestamp::from_millis(event.starts.as_millis() - past);
            event.ends = Timestamp::from_millis(event.ends.as_millis() - past);
            market.events.push(event);
        }
        market
    }

    fn announce(&mut self, rng: &mut Rng, now: Timestamp) -> Event {
        self.last_id += 1;
        let home = rng.usize(..TOWNS.len());
        let away = (home + rng.usize(1..TOWNS.len())) % TOWNS.len();
        let mut club = |town: usize| format!("{} {}", TOWNS[town], CLUBS[rng.usize(..CLUBS.len())]);
        let (home, away) = (club(home), club(away));
        let starts = now.plus(Duration::from_secs(rng.u64(60..20 * 60)));
        Event {
            id: self.last_id,
            league: LEAGUES[rng.usize(..LEAGUES.len())],
            home,
            away,
            starts,
            ends: starts.plus(Duration::from_secs(rng.u64(10 * 60..15 * 60))),
            course: Course { balance: between(rng, -1.2, 1.4), goals: between(rng, 1.8, 3.6) },
            score: [0, 0],
            suspended_until: None,
            offers: Default::default(),
        }
    }

    /// Messages for about `wanted` price changes, and for events that end or are suspended.
    pub(super) fn changes(&mut self, rng: &mut Rng, now: Timestamp, wanted: usize) -> Vec<String> {
        let mut messages = self.turn_over(rng, now);
        let mut tries = wanted * TRIES;
        let mut found = 0;
        while found < wanted && tries > 0 {
            tries -= 1;
            let event = &mut self.events[rng.usize(..EVENTS)];
            // Prices of events in play change more often.
            if !event.in_play(now) && rng.u8(..4) > 0 {
                continue;
            }
            if let Some(message) = event.drift(rng, now) {
                messages.push(message);
                found += 1;
            }
        }
        messages
    }

    /// Messages with every offer of these bookmakers for these events, like the result of a scrape run.
    pub(super) fn image(
        &mut self,
        events: std::ops::Range<usize>,
        bookmakers: std::ops::Range<usize>,
        now: Timestamp,
    ) -> Vec<String> {
        let mut messages = Vec::new();
        for event in &mut self.events[events] {
            for kind in Kind::ALL {
                for bookmaker in bookmakers.clone() {
                    event.price(kind, bookmaker, 0.0);
                    messages.push(event.message(kind, bookmaker, now));
                }
            }
        }
        messages
    }

    /// Replaces events that are over, ends suspensions that are over, and adds random goals.
    fn turn_over(&mut self, rng: &mut Rng, now: Timestamp) -> Vec<String> {
        let mut messages = Vec::new();
        for at in 0..self.events.len() {
            let event = &mut self.events[at];
            if event.ends <= now {
                messages.extend(event.end());
                self.events[at] = self.announce(rng, now);
                messages.extend(self.image(at..at + 1, 0..BOOKMAKERS.len(), now));
            } else if event.suspended_until.is_some_and(|until| until <= now) {
                event.suspended_until = None;
                messages.extend(event.reprice(now));
            // This code runs ten times a second, so an event has about one goal every five minutes.
            } else if event.in_play(now) && event.suspended_until.is_none() && rng.u32(..3_000) == 0 {
                event.goal(rng, now);
                messages.extend(event.reprice(now));
            }
        }
        messages
    }
}

impl Event {
    fn in_play(&self, now: Timestamp) -> bool {
        self.starts <= now
    }

    /// Changes the odds slightly, and updates the prices of one bookmaker in one market. Returns a message if the
    /// prices changed.
    fn drift(&mut self, rng: &mut Rng, now: Timestamp) -> Option<String> {
        if self.suspended_until.is_some() {
            return None;
        }
        let step = if self.in_play(now) { 0.03 } else { 0.01 };
        self.course.balance = (self.course.balance + between(rng, -step, step)).clamp(-3.0, 3.0);
        self.course.goals = (self.course.goals + between(rng, -step, step)).clamp(0.5, 7.0);
        let kind = Kind::ALL[rng.usize(..Kind::ALL.len())];
        let bookmaker = rng.usize(..BOOKMAKERS.len());
        let guess = between(rng, -0.02, 0.02);
        // Change only existing offers: the first offer of a bookmaker comes from a scrape run.
        let offered = !self.offers[kind as usize][bookmaker].is_empty();
        (offered && self.price(kind, bookmaker, guess)).then(|| self.message(kind, bookmaker, now))
    }

    /// Adds a goal: suspends all markets of the event. They reopen at other prices.
    fn goal(&mut self, rng: &mut Rng, now: Timestamp) {
        let home = rng.f64() < 0.5 + self.course.balance / 8.0;
        self.score[usize::from(!home)] += 1;
        self.course.balance = (self.course.balance + if home { 0.6 } else { -0.6 }).clamp(-3.0, 3.0);
        self.course.goals = (self.course.goals + 0.5).min(7.0);
        self.suspended_until = Some(now.plus(SUSPENDED));
    }

    /// Messages with all offers of the event. Updates the prices first, unless the event is suspended.
    fn reprice(&mut self, now: Timestamp) -> Vec<String> {
        let mut messages = Vec::new();
        for kind in Kind::ALL {
            for bookmaker in 0..BOOKMAKERS.len() {
                if self.offers[kind as usize][bookmaker].is_empty() {
                    continue;
                }
                if self.suspended_until.is_none() {
                    self.price(kind, bookmaker, 0.0);
                }
                messages.push(self.message(kind, bookmaker, now));
            }
        }
        messages
    }

    /// Messages that delete the event's keys; none if the keys expire.
    fn end(&self) -> Vec<String> {
        if self.expires() {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for kind in Kind::ALL {
            let offered = self.offers[kind as usize].iter().enumerate().filter(|(_, prices)| !prices.is_empty());
            messages.extend(offered.map(|(bookmaker, _)| {
                json(&MarketMessage {
                    topic: "odds_updates",
                    key: self.key(kind, bookmaker),
                    kind: "odds_update",
                    data: None,
                    expires_at: None,
                })
            }));
        }
        messages
    }

    /// Whether the keys of this event expire, which is true for half of the events. The market deletes the keys of the
    /// other events when they end.
    fn expires(&self) -> bool {
        self.id.is_multiple_of(2)
    }

    fn key(&self, kind: Kind, bookmaker: usize) -> String {
        format!("{}/{}/{}", self.id, kind.segment(), BOOKMAKERS[bookmaker].name)
    }

    /// Sets a bookmaker's prices. Returns whether the prices changed.
    fn price(&mut self, kind: Kind, bookmaker: usize, guess: f64) -> bool {
        let course = Course { balance: self.course.balance + guess, goals: self.course.goals + guess };
        let prices = course.probabilities(kind).into_iter().map(|p| BOOKMAKERS[bookmaker].price(p)).collect();
        let offer = &mut self.offers[kind as usize][bookmaker];
        let changed = *offer != prices;
        *offer = prices;
        changed
    }

    fn message(&self, kind: Kind, bookmaker: usize, now: Timestamp) -> String {
        let names = match kind {
            Kind::HeadToHead => vec![self.home.as_str(), "Draw", self.away.as_str()],
            Kind::Totals => vec!["Over", "Under"],
            Kind::BothScore => vec!["Yes", "No"],
        };
        let prices = &self.offers[kind as usize][bookmaker];
        let outcome = |(name, price): (_, &u32)| Outcome {
            name,
            price: f64::from(*price) / 100.0,
            point: (kind == Kind::Totals).then_some(TOTAL),
        };
        let in_play = self.in_play(now);
        json(&MarketMessage {
            topic: "odds_updates",
            key: self.key(kind, bookmaker),
            kind: "odds_update",
            data: Some(Offer {
                sport_key: self.league,
                commence_time: self.starts.to_string(),
                home_team: &self.home,
                away_team: &self.away,
                seen_at: now.to_string(),
                in_play,
                suspended: self.suspended_until.is_some(),
                score: in_play.then(|| format!("{}:{}", self.score[0], self.score[1])),
                outcomes: names.into_iter().zip(prices).map(outcome).collect(),
            }),
            expires_at: self.expires().then(|| self.ends.plus(GRACE).to_string()),
        })
    }
}

fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("texts and numbers always serialise")
}

fn between(rng: &mut Rng, least: f64, most: f64) -> f64 {
    least + rng.f64() * (most - least)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(messages: &[String]) -> Vec<Value> {
        messages.iter().map(|message| serde_json::from_str(message).unwrap()).collect()
    }

    #[test]
    fn image_has_every_market_of_every_bookmaker() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let mut market = Market::new(&mut Rng::with_seed(1), now);
        let image = read(&market.image(0..EVENTS, 0..BOOKMAKERS.len(), now));
        let keys: std::collections::BTreeSet<_> =
            image.iter().map(|message| message["key"].as_str().unwrap()).collect();
        assert_eq!((image.len(), keys.len()), (6_000, 6_000));
        assert!(image.iter().any(|message| message["data"]["in_play"] == true));
        assert!(image.iter().any(|message| message["data"]["in_play"] == false));
    }

    #[test]
    fn half_an_hour_has_drift_suspensions_and_new_events() {
        let (mut rng, start) = (Rng::with_seed(2), 1_790_000_000_000);
        let now = |tick: i64| Timestamp::from_millis(start + tick * 100);
        let mut market = Market::new(&mut rng, now(0));
        market.image(0..EVENTS, 0..BOOKMAKERS.len(), now(0));
        let (mut drifted, mut suspended, mut deleted, mut expiring) = (0, 0, 0, 0);
        for tick in 1..18_000 {
            let changes = read(&market.changes(&mut rng, now(tick), 2));
            for message in changes {
                match &message["data"] {
                    Value::Null => deleted += 1,
                    data if data["suspended"] == true => suspended += 1,
                    _ => drifted += 1,
                }
                let expires = message["expires_at"].as_str();
                assert!(expires.is_none_or(|at| at > now(tick).to_string().as_str()), "{message}");
                expiring += usize::from(expires.is_some());
            }
        }
        assert_eq!(market.events.len(), EVENTS);
        assert!(market.last_id > 8300 + 250, "events come and go: {}", market.last_id);
        let enough = drifted > 36_000 && suspended > 3_000 && deleted > 1_000 && expiring > 10_000;
        assert!(enough, "{drifted} drifted, {suspended} suspended, {deleted} deleted, {expiring} expiring");
    }
}
