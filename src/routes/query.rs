//! Reads a subscriber's query string: `topics`, `since`, `conflate_ms`.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

use super::access::{Incoming, check_allowed};
use super::{App, Refusal};
use crate::auth::Access;
use crate::log::Since;
use crate::manager::{Connect, TooManySubscriptions};
use crate::protocol::{QUERY_PARAMETERS, UnknownParameter};
use crate::shortened::shortened;
use crate::topic::Subscription;

/// The maximum length of a conflation window, in milliseconds.
const MAX_CONFLATE_MS: u64 = 60_000;
/// The maximum number of unknown parameters that the server reports to a client.
const MAX_UNKNOWN: usize = 3;
/// The server suggests a known name for an unknown name if they are at least this similar; 1 means equal.
const LEAST_LIKENESS: f64 = 0.6;

/// A subscriber's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    subscriptions: Option<Vec<Subscription>>,
    pub(super) since: Option<Since>,
    conflate: Option<Duration>,
    /// The first [`MAX_UNKNOWN`] unknown parameters, without duplicates.
    pub(super) unknown: Vec<UnknownParameter>,
}

impl Query {
    /// Reads a query string. Unknown parameters have no effect; the result lists them.
    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        Self::read(query).map_err(Refusal::bad_request)
    }

    fn read(query: &str) -> Result<Self, String> {
        let mut subscriptions = Vec::new();
        let (mut since, mut conflate, mut unknown) = (None, None, Vec::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "topics" => {
                    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                        subscriptions.push(entry.parse().map_err(|error| format!("topics: {error}"))?);
                    }
                }
                "since" => since = Some(value.parse::<Since>().map_err(|error| error.to_string())?),
                "conflate_ms" => conflate = window(&value)?,
                name if QUERY_PARAMETERS.contains(&name) || unknown.len() == MAX_UNKNOWN => {}
                name => {
                    let name = shortened(name);
                    if !unknown.contains(&name) {
                        unknown.push(name);
                    }
                }
            }
        }
        // Comparing names takes time, so only a few names are compared.
        let unknown = unknown.into_iter().map(unknown_parameter).collect();
        let subscriptions = (!subscriptions.is_empty()).then_some(subscriptions);
        Ok(Self { subscriptions, since, conflate, unknown })
    }

    /// Makes the request to the manager, and lists the subscriptions to unknown topics. A query without topics gets all
    /// subscriptions that the token allows. Refuses a query with topics that the token does not allow.
    pub(super) fn connect(
        self,
        incoming: &Incoming,
        app: &App,
        access: &Access,
    ) -> Result<(Connect, Vec<Subscription>), Refusal> {
        let (known, unknown) = match self.subscriptions.or_else(|| access.everything()) {
            None => (None, Vec::new()),
            Some(asked) => {
                let (known, unknown) = app.manager.topics().partition(asked);
                (Some(known), unknown)
            }
        };
        let asked = known.as_deref().unwrap_or_default();
        check_allowed(access, asked)?;
        let limit = app.manager.subscriptions_limit();
        // Count a subscription once even if the query repeats it.
        let distinct = asked.iter().collect::<BTreeSet<_>>().len();
        if distinct > limit {
            let error = TooManySubscriptions { asked: distinct, limit };
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "too_many_subscriptions", error.to_string()));
        }
        let since = self.since.unwrap_or_default();
        let (peer, expires) = (incoming.shown_peer(app), access.expires);
        Ok((Connect { subscriptions: known, since, conflate: self.conflate, peer, expires }, unknown))
    }
}

fn unknown_parameter(name: String) -> UnknownParameter {
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, known);
    let nearest = QUERY_PARAMETERS.into_iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    UnknownParameter { nearest: nearest.filter(|known| likeness(known) >= LEAST_LIKENESS), name }
}

fn window(text: &str) -> Result<Option<Duration>, String> {
    let millis = text.parse::<u64>().ok().filter(|millis| *millis <= MAX_CONFLATE_MS);
    let wrong = || {
        let shown = shortened(text);
        format!("conflate_ms is '{shown}': expected a number of milliseconds from 0 to {MAX_CONFLATE_MS}")
    };
    let millis = millis.ok_or_else(wrong)?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(query: &str) -> Option<Vec<String>> {
        let subscriptions = Query::read(query).unwrap().subscriptions?;
        Some(subscriptions.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn topics_are_split_at_commas_and_trimmed() {
        let both = Some(vec!["a".to_owned(), "b/8301".to_owned()]);
        assert_eq!(topics("topics=a,b/8301"), both);
        assert_eq!(topics("topics=a%2Cb%2F8301"), both);
        assert_eq!(topics("topics=+a+,+b/8301+,"), both);
        assert_eq!(topics("topics=a&topics=b/8301"), both);
    }

    #[test]
    fn query_without_topics_means_all_topics() {
        for query in ["", "topics=", "topics=,+,", "other=1"] {
            assert_eq!(topics(query), None, "{query}");
        }
    }

    #[test]
    fn window_is_0_to_60000_milliseconds() {
        let conflate = |query: &str| Query::read(query).map(|query| query.conflate);
        assert_eq!(conflate("conflate_ms=0"), Ok(None));
        assert_eq!(conflate("conflate_ms=60000"), Ok(Some(Duration::from_mins(1))));
        for bad in ["60001", "-1", "1.5", "", "x"] {
            let error = conflate(&format!("conflate_ms={bad}")).unwrap_err();
            assert!(error.contains(&format!("'{bad}'")) && error.contains("from 0 to 60000"), "{error}");
        }
    }

    #[test]
    fn unknown_parameters_get_the_nearest_known_one() {
        let unknown = |query: &str| {
            let unknown = Query::read(query).unwrap().unknown;
            unknown.into_iter().map(|unknown| (unknown.name, unknown.nearest)).collect::<Vec<_>>()
        };
        let nearest = [
            ("topic", "topics"),
            ("Topics", "topics"),
            ("conflate", "conflate_ms"),
            ("conflateMs", "conflate_ms"),
            ("sinse", "since"),
            ("tokne", "token"),
        ];
        for (name, known) in nearest {
            assert_eq!(unknown(&format!("{name}=1")), [(name.to_owned(), Some(known))]);
        }
        for name in ["", "t", "channel", "_", "last_event_id"] {
            assert_eq!(unknown(&format!("{name}=1")), [(name.to_owned(), None)]);
        }
        assert_eq!(unknown("topics=a&since=now&conflate_ms=0&token=x"), []);
    }

    #[test]
    fn three_unknown_parameters_are_named_each_once_and_short() {
        let names = |query: &str| Query::read(query).unwrap().unknown.into_iter().map(|unknown| unknown.name);
        assert!(names("a=1&a=2&b&c=&d=4").eq(["a", "b", "c"]));
        let long = names(&format!("{}=1", "x".repeat(10_000))).next().unwrap();
        assert!(long.chars().count() <= 81, "{long}");
    }

    #[test]
    fn error_about_a_value_names_its_parameter() {
        assert!(Query::read("topics=Odds").unwrap_err().starts_with("topics: invalid topic 'Odds'"));
        assert!(Query::read("since=yesterday").unwrap_err().starts_with("since: invalid position 'yesterday'"));
    }
}
