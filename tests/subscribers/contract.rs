//! Compares the documents in `docs/api` with the server. These tests send every example, receive every type of message,
//! and compare codes, types and paths with the source. The harness checks the responses and messages of all other
//! tests.

use std::collections::BTreeSet;
use std::path::Path;

use oddswire::close::Close;
use oddswire::message::RESERVED_TYPES;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::contract::{self, Document, Place, asyncapi, openapi, schema_of};
use crate::harness::get::get;
use crate::harness::jwt;
use crate::harness::{Answer, App, TOKEN, ws};

/// All examples in a place: the values under `examples` or `example`.
fn examples(of: &Place) -> Vec<&'static Value> {
    let named = of.value.get("examples").and_then(Value::as_object);
    let listed = of.value.get("examples").and_then(Value::as_array);
    let named = named.into_iter().flat_map(serde_json::Map::values).map(|example| &example["value"]);
    named.chain(listed.into_iter().flatten()).chain(of.value.get("example")).collect()
}

/// Finds the examples of all schemas, parameters, messages and media types in a document, each with its schema.
fn examples_with_schemas(document: &'static Document, at: &[&'static str], found: &mut Vec<(Value, Place)>) {
    let Some(place) = document.find(at) else { return };
    let sibling = |name: &'static str| document.find(&[at, &[name]].concat());
    if let (Some(payload), Some(messages)) = (sibling("payload"), place.value.get("examples")) {
        let messages = messages.as_array().expect("a message's examples are a list");
        found.extend(messages.iter().map(|example| (example["payload"].clone(), payload.clone())));
    } else if let Some(schema) = sibling("schema") {
        found.extend(examples(&place).into_iter().map(|example| (example.clone(), schema.clone())));
    } else if place.value.get("type").is_some_and(Value::is_string) {
        found.extend(examples(&place).into_iter().map(|example| (example.clone(), place.clone())));
    }
    for (name, _) in document.children(&place).into_iter().filter(|(name, _)| *name != "examples") {
        // The target of a reference is elsewhere in the document, and this function visits the target there.
        if place.value[name].get("$ref").is_none() {
            examples_with_schemas(document, &[at, &[name]].concat(), found);
        }
    }
}

#[test]
fn every_example_conforms_to_its_schema() {
    for (document, least) in [(openapi(), 20), (asyncapi(), 20)] {
        let mut found = Vec::new();
        examples_with_schemas(document, &[], &mut found);
        assert!(found.len() >= least, "only {} examples were found", found.len());
        for (example, schema) in found {
            document.check(&schema, &example).unwrap_or_else(|why| panic!("{why}: {example}"));
        }
    }
}

/// An operation of `openapi.yaml`, with the examples of its parameters.
struct Operation {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    is_for_operators: bool,
    bodies: Vec<(&'static str, String)>,
}

impl Operation {
    fn all() -> Vec<Self> {
        let mut operations = Vec::new();
        for (path, item) in openapi().children(&openapi().at(&["paths"])) {
            for method in ["get", "post"].into_iter().filter(|method| item.child(method).is_some()) {
                operations.push(Self::read(path, method, &item));
            }
        }
        operations
    }

    fn read(path: &'static str, method: &'static str, item: &Place) -> Self {
        let operation = openapi().at(&["paths", path, method]);
        let is_for_operators = item.value["servers"][0]["url"].as_str().is_some_and(|url| url.ends_with(":9100"));
        let (mut path, mut query, mut headers) = (path.to_owned(), Vec::new(), Vec::new());
        let parameters = operation.child("parameters").map_or_else(Vec::new, |list| openapi().entries(&list));
        for parameter in parameters.iter().map(|parameter| parameter.value) {
            let Some(example) = parameter.get("example") else { continue };
            let name = parameter["name"].as_str().unwrap();
            let text = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            match parameter["in"].as_str().unwrap() {
                "path" => path = path.replace(&format!("{{{name}}}"), &text),
                "query" => query.push(format!("{name}={text}")),
                "header" => headers.push((name, example.as_str().unwrap())),
                other => panic!("a parameter in {other}"),
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let mut bodies = Vec::new();
        for (media, content) in operation.value["requestBody"]["content"].as_object().into_iter().flatten() {
            for example in content["examples"].as_object().unwrap().values() {
                let text = example["value"].as_str().map(str::to_owned);
                bodies.push((media.as_str(), text.unwrap_or_else(|| example["value"].to_string())));
            }
        }
        Self { method, path, headers, is_for_operators, bodies }
    }

    /// Sends the request to a server, once for each example of a body, and returns the statuses.
    async fn send(&self, app: &App) -> Vec<u16> {
        let address = if self.is_for_operators { app.admin } else { app.address };
        // For upgrades and streams the harness has the function `get`, which adds the headers of a handshake.
        if self.path.starts_with("/api/ws") || self.path.starts_with("/api/sse") {
            return vec![get(address, &self.path, &[]).await.1.status];
        }
        let method: Method = self.method.to_uppercase().parse().unwrap();
        let http = reqwest::Client::new();
        let request = || http.request(method.clone(), format!("http://{address}{}", self.path)).bearer_auth(TOKEN);
        if self.bodies.is_empty() {
            return vec![Answer::of(request()).await.status];
        }
        let mut statuses = Vec::new();
        for (media, body) in &self.bodies {
            statuses.push(Answer::of(request().header("content-type", *media).body(body.clone())).await.status);
        }
        statuses
    }
}

#[tokio::test]
async fn every_example_request_gets_the_documented_answer() {
    let app = App::start().await;
    let mut sent = 0;
    for operation in Operation::all() {
        let wanted = if operation.path.starts_with("/api/ws") { 101 } else { 200 };
        for status in operation.send(&app).await {
            assert_eq!(status, wanted, "{} {}", operation.method, operation.path);
            sent += 1;
        }
    }
    assert!(sent >= 18, "only {sent} examples were sent");
}

#[tokio::test]
async fn documented_headers_of_a_handshake_are_accepted() {
    let app = App::start().await;
    let operations = Operation::all();
    let handshake = operations.iter().find(|operation| operation.path.starts_with("/api/ws")).unwrap();
    let head: Vec<String> = handshake.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = head.concat();
    let mut raw = crate::harness::raw::Raw::connect(app.address).await;
    raw.send(format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n", handshake.path).as_bytes()).await;
    raw.accepted().await;
}

/// The names of the messages that a list of references points to.
fn names(messages: &Value) -> BTreeSet<String> {
    let reference = |message: &Value| message["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    messages.as_array().into_iter().flatten().map(reference).collect()
}

#[tokio::test]
async fn every_example_client_message_gets_the_documented_answer() {
    let app = App::with(jwt::required).await;
    let token = jwt::expiring(600);
    for (name, operation) in asyncapi().children(&asyncapi().at(&["operations"])) {
        if operation.value["action"] != "receive" {
            continue;
        }
        let answers = names(&operation.value["reply"]["messages"]);
        for sent in names(&operation.value["messages"]) {
            let examples = asyncapi().at(&["components", "messages", &sent]).value["examples"].as_array().unwrap();
            assert!(!examples.is_empty(), "{sent} has no example");
            for example in examples {
                let mut client = ws::Client::connect(app.address, &format!("topics=odds_updates&token={token}")).await;
                client.send(example["payload"].to_string()).await;
                let answer = client.next().await;
                assert!(answers.contains(&message_of(&answer)), "{name}: {answer}");
            }
        }
    }
}

/// The name in `asyncapi.yaml` for this message from the server.
fn message_of(message: &Value) -> String {
    let schema = format!("#/components/schemas/{}", schema_of(message));
    let messages = asyncapi().at(&["components", "messages"]);
    let found =
        messages.value.as_object().unwrap().iter().find(|(_, described)| described["payload"]["$ref"] == schema);
    found.unwrap_or_else(|| panic!("no message has {schema}")).0.clone()
}

/// The names of all messages that the server can send over a channel.
fn messages_over(channel: &str) -> BTreeSet<String> {
    let operations = asyncapi().children(&asyncapi().at(&["operations"]));
    let of_channel = operations
        .iter()
        .filter(|(_, operation)| operation.value["channel"]["$ref"] == format!("#/channels/{channel}"));
    let said = of_channel.flat_map(|(_, operation)| {
        let unasked = operation.value["action"] == "send";
        names(if unasked { &operation.value["messages"] } else { &operation.value["reply"]["messages"] })
    });
    said.collect()
}

/// A server with a history of one message. After a few messages, a client's position is older than the history.
async fn short_history() -> App {
    App::in_memory(|config| {
        config.history_messages = 1;
        jwt::required(config);
    })
    .await
}

#[tokio::test]
async fn every_type_of_message_over_websocket_conforms_to_its_schema() {
    let mut app = short_history().await;
    let token = jwt::expiring(600);
    let start = app.manager.position();
    for data in [1.5, 1.6, 1.7] {
        app.odds("8301/1x2/betpawa", data).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "type": "progress", "data": {"current": 1}})).await;
    app.publish(&json!({"topic": "scrape_progress", "data": {"current": 2}})).await;
    app.odds("8301/1x2/betpawa", Value::Null).await;

    // Expect the mode `conflated` for the topic with keys, `gap` for the topic without keys, and `snapshot` on request.
    let mut client = app.ws(&format!("since={start}&token={token}")).await;
    let mut received = BTreeSet::from([message_of(&client.ack)]);
    client.send(r#"{"type":"subscribe","topics":["odds_updates/8302","foo"],"since":"snapshot"}"#).await;
    client.send(r#"{"type":"ping"}"#).await;
    client.send(json!({"type": "auth", "token": token}).to_string()).await;
    app.post("/api/broadcast", "application/json", r#"{"type":"maintenance","data":null}"#).await;
    let mut modes = BTreeSet::new();
    app.begin_stop();
    while let Some(Ok(frame)) = client.frame().await {
        let Ok(text) = frame.to_text().map(str::to_owned) else { continue };
        let Ok(message) = serde_json::from_str::<Value>(&text) else { continue };
        contract::message(&message);
        received.insert(message_of(&message));
        let told = message["data"]["topics"].as_object().into_iter().flatten();
        modes.extend(told.filter_map(|(_, entry)| entry["mode"].as_str().map(str::to_owned)));
    }
    assert_eq!(received, messages_over("websocket"));
    assert_eq!(modes, BTreeSet::from(["conflated", "gap", "snapshot"].map(str::to_owned)));
}

#[tokio::test]
async fn every_type_of_message_over_sse_conforms_to_its_schema() {
    let mut app = short_history().await;
    let token = jwt::expiring(600);
    app.odds("8301/1x2/betpawa", 1.5).await;
    let mut client = app.sse(&format!("topics=odds_updates,foo&since=snapshot&token={token}")).await;
    let mut received = BTreeSet::from([message_of(&client.ack)]);
    app.post("/api/broadcast", "application/json", r#"{"type":"maintenance","data":null}"#).await;
    app.begin_stop();
    while let Some(event) = client.event().await {
        let message: Value = serde_json::from_str(&event.data).unwrap();
        contract::message(&message);
        received.insert(message_of(&message));
    }
    assert_eq!(received, messages_over("sse"));
}

/// The text of all source files below a folder, including comments and tests.
fn sources(folder: &str) -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
    text
}

/// The string literals that follow `mark` with only white space in between.
fn literals_after<'a>(text: &'a str, mark: &'a str) -> BTreeSet<&'a str> {
    let literals = text.split(mark).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    literals.filter_map(|rest| rest.split('"').next()).collect()
}

fn listed<'a>(
    document: &'static Document,
    schema: &str,
    of: impl Fn(&'static Value) -> &'a Value,
) -> BTreeSet<&'a str> {
    let list = of(document.at(&["components", "schemas", schema]).value);
    list.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
}

#[test]
fn error_codes_match_the_source() {
    let routes = sources("src/routes");
    let codes = listed(openapi(), "ErrorCode", |schema| &schema["enum"]);
    // Most errors in the source have a status followed by a code. The harness checks the codes of the other errors.
    let statuses = routes.split("StatusCode::").skip(1).filter_map(|rest| rest.split_once(','));
    let given: BTreeSet<&str> =
        statuses.filter_map(|(_, rest)| rest.trim_start().strip_prefix('"')?.split('"').next()).collect();
    assert!(given.len() > 15, "{given:?}");
    assert!(given.is_subset(&codes), "not in openapi.yaml: {:?}", given.difference(&codes));
    for code in &codes {
        assert!(routes.contains(&format!("\"{code}\"")), "{code} is in openapi.yaml but not in the source");
    }

    let talk = sources("src/session") + include_str!("../../src/protocol.rs");
    let codes = listed(asyncapi(), "ErrorCode", |schema| &schema["enum"]);
    let given = literals_after(&talk, "protocol::error(");
    assert!(given.len() > 2 && given.is_subset(&codes), "{given:?}");
    for code in codes {
        assert!(talk.contains(&format!("\"{code}\"")), "{code} is in asyncapi.yaml but not in the source");
    }
}

#[test]
fn reserved_types_match_the_source() {
    for document in [openapi(), asyncapi()] {
        let types = listed(document, "PublishedType", |schema| &schema["not"]["enum"]);
        assert_eq!(types, BTreeSet::from(RESERVED_TYPES));
    }
}

#[test]
fn close_codes_match_the_source() {
    let rows = asyncapi().at(&["channels", "websocket"]).value["x-close-codes"].as_array().unwrap().iter();
    let described: BTreeSet<String> = rows.map(Value::to_string).collect();
    let row = |close: Close| {
        let row = close.row();
        json!({"code": row.code, "reason": row.reason, "reconnect": row.reconnect}).to_string()
    };
    assert_eq!(described, Close::ALL.map(row).into());
}

#[test]
fn paths_match_the_source() {
    let routes = sources("src/routes");
    let path = |inside: &str| {
        let segments = inside.split('/').map(|segment| segment.trim().trim_matches('"'));
        let shown = segments.map(|segment| if segment == "String" { "{}" } else { segment });
        format!("/{}", shown.collect::<Vec<_>>().join("/"))
    };
    let mut served: BTreeSet<String> =
        routes.split("warp::path!(").skip(1).map(|rest| path(rest.split(')').next().unwrap())).collect();
    served.extend(routes.contains("warp::path::end()").then(|| "/".to_owned()));
    let templated = |path: &str| {
        path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
    };
    let paths = openapi().children(&openapi().at(&["paths"]));
    let described: BTreeSet<String> = paths.iter().map(|(path, _)| templated(path)).collect();
    assert_eq!(served, described);
}

#[tokio::test]
async fn documents_are_served_unchanged_and_linked_from_the_page() {
    let app = App::start().await;
    for name in ["openapi.yaml", "asyncapi.yaml"] {
        let path = format!("/api/docs/{name}");
        let answer = app.get(&path).await;
        let file = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api").join(name)).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/yaml"));
        assert_eq!(answer.text, file);
        let again = app.request(Method::GET, &path).header("if-none-match", answer.header("etag"));
        let again = Answer::of(again).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
    }
    for path in ["/api/docs", "/api/docs/"] {
        let page = app.get(path).await;
        let base = reqwest::Url::parse(&app.url(path)).unwrap();
        let links: Vec<&str> = page.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links.len(), 2, "{}", page.text);
        for link in links {
            assert_eq!(app.get(base.join(link).unwrap().path()).await.status, 200, "{path}: {link}");
        }
    }
    assert!(app.get("/nowhere").await.detail().contains("/api/docs/"));
}

#[test]
fn documents_have_the_programs_version() {
    for document in [openapi(), asyncapi()] {
        assert_eq!(document.root["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
