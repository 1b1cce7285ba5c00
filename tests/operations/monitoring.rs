//! `deploy/grafana.json` and `deploy/alerts.yml`, checked against the server's metrics and with a real Prometheus.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::program::deploy;
use crate::harness::prometheus::{Prometheus, promtool};
use crate::harness::{Answer, App, PATIENCE, sse, within, ws};

/// A server with room for three clients and one key. One more client or key is beyond the limit.
async fn small_server() -> App {
    App::with(|config| (config.max_connections, config.state_keys, config.history_messages) = (3, 1, 1)).await
}

/// Clients that stay connected.
struct Clients {
    _socket: ws::Client,
    _events: sse::Client,
}

/// Causes every event for which the metrics have a separate series.
async fn traffic(app: &App) -> Clients {
    for number in 0..3 {
        app.publish(&json!({"topic": "scrape_progress", "data": number})).await;
    }
    app.odds("1", 0).await;
    app.odds("1", 0).await;
    // Resume from a position before the oldest message in the history. That causes a gap in only one of the two topics.
    let epoch = app.manager.position().epoch;
    let socket = app.ws(&format!("since={epoch}-1")).await;
    let events = app.sse("since=snapshot").await;
    let leaves = app.ws("").await;
    assert_eq!(app.get("/api/sse").await.code(), "full");
    leaves.close().await;
    within(async { while !exposition(app).await.contains("\noddswire_disconnects_total{") {} }).await;
    assert_eq!(app.get("/nowhere").await.code(), "not_found");
    assert_eq!(app.get("/api/sse?topics=Odds").await.code(), "bad_request");
    let second_key = json!({"topic": "odds_updates", "key": "2", "data": 1}).to_string();
    assert_eq!(app.post("/api/publish", "application/json", second_key).await.code(), "state_full");
    Clients { _socket: socket, _events: events }
}

async fn exposition(app: &App) -> String {
    within(Answer::of(reqwest::Client::new().get(format!("http://{}/metrics", app.admin)))).await.text
}

/// The name and type of a metric in the exposition.
#[derive(Debug)]
struct Metric<'a> {
    name: &'a str,
    kind: &'a str,
}

impl Metric<'_> {
    /// The names of the metric's series.
    fn series(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.kind {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.name)).collect()
    }
}

fn metrics(exposition: &str) -> Vec<Metric<'_>> {
    let types = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| Metric { name, kind }).collect()
}

/// A file of `deploy/` without comment lines.
fn text(file: &str) -> String {
    let text = std::fs::read_to_string(deploy(file)).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| line.to_owned() + "\n").collect()
}

/// The names of oddswire's series in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("oddswire_")).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&text("grafana.json")).expect("JSON")
}

/// The Prometheus expressions in the dashboard.
fn queries(dashboard: &Value) -> Vec<&str> {
    members(dashboard, "expr").into_iter().map(|query| query.as_str().unwrap()).collect()
}

/// All values of a member with this name, at any depth.
fn members<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| members(item, name)).collect(),
        Value::Object(fields) => {
            let deeper = fields.values().flat_map(|field| members(field, name));
            fields.get(name).into_iter().chain(deeper).collect()
        }
        _ => Vec::new(),
    }
}

// Without Prometheus.

#[tokio::test]
async fn dashboard_and_alerts_use_every_metric_and_no_unknown_one() {
    let app = small_server().await;
    let _clients = traffic(&app).await;
    let exposition = exposition(&app).await;
    let metrics = metrics(&exposition);
    // Read only the expressions of the alerts, since a metric in an alert's description does not count as used.
    let (dashboard, alerts) = (dashboard(), text("alerts.yml"));
    let conditions = alerts.split("expr: ").skip(1).map(|rest| rest.split("labels:").next().unwrap());
    let expressions: String = queries(&dashboard).into_iter().chain(conditions).collect::<Vec<_>>().join("\n");
    let used = names(&expressions);
    let unused = metrics.iter().filter(|metric| !metric.series().iter().any(|name| used.contains(name.as_str())));
    let unused: Vec<&str> = unused.map(|metric| metric.name).collect();
    assert!(unused.is_empty(), "neither in grafana.json nor in alerts.yml: {unused:?}");
    let exposed: BTreeSet<String> = metrics.iter().flat_map(Metric::series).collect();
    let files = text("grafana.json") + &alerts;
    let unknown: Vec<&str> = names(&files).into_iter().filter(|name| !exposed.contains(*name)).collect();
    assert!(unknown.is_empty(), "in a file but not exposed: {unknown:?}");
}

#[tokio::test]
async fn series_in_alerts_are_exposed_before_their_first_event() {
    let app = App::start().await;
    let exposition = exposition(&app).await;
    let alerts = text("alerts.yml");
    let selectors = alerts.split("oddswire_").skip(1).filter_map(|rest| {
        let (name, labels) = rest.split_once('}')?.0.split_once('{')?;
        // Skip a name without labels that precedes the brace of another metric. Skip matchers for several values.
        (!name.contains(|c: char| c != '_' && !c.is_ascii_lowercase()) && labels.contains("=\""))
            .then_some((name, labels))
    });
    let selectors: BTreeSet<String> =
        selectors.map(|(name, labels)| format!("oddswire_{name}{{{labels}}} 0\n")).collect();
    assert!(selectors.len() >= 4, "{selectors:?}");
    for series in selectors {
        assert!(exposition.contains(&series), "{series}{exposition}");
    }
}

#[test]
fn dashboard_can_be_imported_anywhere() {
    let dashboard = dashboard();
    for source in members(&dashboard["panels"], "datasource") {
        assert_eq!(source, &json!({"type": "prometheus", "uid": "${datasource}"}));
    }
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(!members(panel, "unit").is_empty(), "{panel}");
        let texts = [&panel["title"], &panel["description"]].into_iter().chain(members(panel, "legendFormat"));
        for text in texts {
            assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{panel}");
        }
    }
}

#[test]
fn memory_alert_uses_the_memory_limit_of_the_deployments() {
    assert!(text("alerts.yml").contains("oddswire_process_resident_memory_bytes > 0.85 * 1024 * 1024 * 1024"));
    assert!(text("compose.yaml").contains("mem_limit: 1g"));
    assert!(text("kubernetes.yaml").contains("limits:\n              memory: 1Gi"));
}

// With promtool.

/// The exposition converted to Prometheus' text format, which `promtool check metrics` needs. That format has no type
/// `info`, and the suffix of a counter belongs to the counter's name.
fn in_text_format(exposition: &str) -> String {
    let kinds = metrics(exposition);
    let comment = |line: &str| {
        let mut words = line.splitn(4, ' ').skip(1);
        let (word, name, rest) = (words.next()?, words.next()?, words.next()?);
        let metric = kinds.iter().find(|metric| metric.name == name)?;
        let name = if metric.kind == "histogram" { name.to_owned() } else { metric.series().remove(0) };
        let rest = if (word, rest) == ("TYPE", "info") { "gauge" } else { rest };
        (word != "UNIT").then(|| format!("# {word} {name} {rest}\n"))
    };
    let line = |line: &str| if line.starts_with('#') { comment(line) } else { Some(format!("{line}\n")) };
    exposition.lines().filter_map(line).collect()
}

#[tokio::test]
async fn promtool_reports_no_problem_in_the_metrics() {
    let app = small_server().await;
    let _clients = traffic(&app).await;
    let text = in_text_format(&exposition(&app).await);
    let Some(output) = promtool(&["check", "metrics"], &text).await else { return };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}{text}");
}

#[tokio::test]
async fn alerts_are_valid_and_each_fires_exactly_when_it_should() {
    for (command, file) in [("check", "alerts.yml"), ("test", "alerts_test.yml")] {
        let file = deploy(file);
        let Some(output) = promtool(&[command, "rules", file.to_str().unwrap()], "").await else { return };
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
    let (alerts, tests) = (text("alerts.yml"), text("alerts_test.yml"));
    let mut count = 0;
    for name in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        count += 1;
        let of_this = |case: &&str| case.lines().next() == Some(name);
        let cases: Vec<&str> = tests.split("- name: ").filter(of_this).collect();
        assert!(cases.iter().any(|case| case.contains("exp_samples")), "no test has {name} firing");
        let asked = format!("{{alertname=\"{name}\", alertstate=\"firing\"}}");
        let is_complete = cases.iter().all(|case| case.matches(&asked).count() == 2);
        assert!(is_complete, "each test of {name} also checks that it does not fire too early");
    }
    assert_eq!(count, tests.split("- name: ").skip(1).filter(|case| case.contains("exp_samples")).count());
}

// With a Prometheus that scrapes the server.

/// Changes an expression so that it has a result whenever its series exist and match. Comparisons return 0 or 1 instead
/// of filtering, and `absent` becomes `count`.
fn without_condition(expression: &str) -> String {
    let (mut said, mut in_braces) = (String::new(), false);
    let mut rest = expression.replace("absent(", "count(");
    while let Some(first) = rest.chars().next() {
        in_braces = (in_braces || first == '{') && first != '}';
        let comparison = ["==", "!=", ">=", "<=", ">", "<"].into_iter().find(|sign| rest.starts_with(sign));
        match comparison.filter(|_| !in_braces) {
            Some(sign) => {
                said.extend([sign, " bool"]);
                rest.drain(..sign.len());
            }
            None => said.push(rest.remove(0)),
        }
    }
    said
}

#[test]
fn without_condition_keeps_matchers() {
    let asked = r#"absent(up{a!="b > c"}) == 0 and x / (y > 0) >= 2"#;
    let expected = r#"count(up{a!="b > c"}) == bool 0 and x / (y > bool 0) >= bool 2"#;
    assert_eq!(without_condition(asked), expected);
}

/// Publishes a message at each tick until every expression has results, and all of them are finite.
async fn all_have_results(app: &App, prometheus: &Prometheus, mut expressions: Vec<String>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for number in 0.. {
        ticks.tick().await;
        app.odds("1", number).await;
        let mut missing = Vec::new();
        for expression in expressions {
            let result = prometheus.query(&expression).await;
            // A division by 0 results in NaN or infinity.
            if result.is_empty() || !result.iter().all(|value| value.is_finite()) {
                missing.push(expression);
            }
        }
        if missing.is_empty() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "these expressions have no result:\n{}", missing.join("\n"));
        expressions = missing;
    }
}

#[tokio::test]
async fn every_query_has_a_result_in_prometheus() {
    let app = small_server().await;
    let Some(prometheus) = Prometheus::start(&app).await else { return };
    let _clients = traffic(&app).await;

    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 20);
    let substituted = queries.iter().map(|query| {
        assert!(query.contains(r#"{instance=~"$instance"}"#), "{query}");
        query.replace("$instance", &app.admin.to_string()).replace("$__rate_interval", "1m")
    });
    let mut expressions: Vec<String> = substituted.map(|query| without_condition(&query)).collect();

    let rules = prometheus.get("/api/v1/rules").await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().is_some_and(|text| text.len() > 20), "{rule}");
        }
        expressions.push(without_condition(rule["query"].as_str().unwrap()));
    }
    let variables = expressions.iter().find(|expression| expression.contains('$'));
    assert_eq!(variables, None, "every variable is substituted");
    all_have_results(&app, &prometheus, expressions).await;
}

#[tokio::test]
async fn alert_fires_after_a_single_refused_client() {
    let app = small_server().await;
    let Some(prometheus) = Prometheus::start(&app).await else { return };
    let _clients = traffic(&app).await;
    let expected = [
        ("OddswireFull", format!("oddswire {} rejects clients", app.admin)),
        ("OddswireStateFull", format!("oddswire {} has no room for new keys", app.admin)),
    ];
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let alerts = prometheus.get("/api/v1/alerts").await;
        let alerts = alerts["alerts"].as_array().unwrap();
        let firing = |name: &str| alerts.iter().find(|at| at["labels"]["alertname"] == name && at["state"] == "firing");
        if expected.iter().all(|(name, _)| firing(name).is_some()) {
            for (name, summary) in expected {
                let texts = &firing(name).unwrap()["annotations"];
                assert_eq!(texts["summary"], summary);
                assert!(!texts.to_string().contains("<error"), "{texts}");
            }
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "only these fire: {alerts:?}");
    }
}

#[tokio::test]
async fn prometheus_reads_the_type_and_help_of_each_metric() {
    let app = small_server().await;
    let _clients = traffic(&app).await;
    let Some(prometheus) = Prometheus::start(&app).await else { return };
    let known = prometheus.get("/api/v1/targets/metadata").await;
    let known = known.as_array().unwrap();
    let exposition = exposition(&app).await;
    for Metric { name, kind } in metrics(&exposition) {
        let found = known.iter().find(|metadata| metadata["metric"] == name);
        let found = found.unwrap_or_else(|| panic!("{name} is not known: {known:?}"));
        assert_eq!(found["type"], kind, "{name}");
        assert!(found["help"].as_str().is_some_and(|help| help.ends_with('.')), "{found}");
    }
    // Prometheus has kept every sample of the exposition.
    let samples = exposition.lines().filter(|line| !line.starts_with('#')).count();
    let kept = format!("scrape_samples_post_metric_relabeling == {samples}");
    assert_eq!(prometheus.query(&kept).await.len(), 1, "{samples}");
}
