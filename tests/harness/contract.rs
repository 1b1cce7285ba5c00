//! Checks responses and messages against the two documents in `docs/api`. The harness checks every response and every
//! message that a test receives. So a test fails if the server does what the documents do not describe.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

/// Headers that clients act on. If a response has one of these headers, the document must describe the header.
const MEANT_FOR_CLIENTS: [&str; 10] = [
    "accept-encoding",
    "allow",
    "cache-control",
    "connection",
    "etag",
    "retry-after",
    "sec-websocket-version",
    "upgrade",
    "www-authenticate",
    "x-accel-buffering",
];

/// `docs/api/openapi.yaml`: the HTTP endpoints.
pub fn openapi() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| Document::read(include_str!("../../docs/api/openapi.yaml"), Draft::Draft202012))
}

/// `docs/api/asyncapi.yaml`: the messages over WebSocket and SSE.
pub fn asyncapi() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| Document::read(include_str!("../../docs/api/asyncapi.yaml"), Draft::Draft7))
}

pub struct Document {
    pub root: Value,
    draft: Draft,
    /// Compiled validators, by the JSON pointer of the schema. Compiling a schema takes longer than all checks of a
    /// test with it.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// A value in a document, with its JSON pointer.
#[derive(Clone)]
pub struct Place {
    pub pointer: String,
    pub value: &'static Value,
}

impl Document {
    fn read(text: &str, draft: Draft) -> Self {
        let root = serde_saphyr::from_str(text).expect("the document is YAML");
        Self { root, draft, validators: Mutex::default() }
    }

    /// Returns the value at a path of names (a JSON pointer, RFC 6901), and follows references. `None` if there is no
    /// such value.
    pub fn find(&'static self, names: &[&str]) -> Option<Place> {
        self.find_in(&Place { pointer: String::new(), value: &self.root }, names)
    }

    /// The same as `find`, but the path starts at a place in the document.
    pub fn find_in(&'static self, place: &Place, names: &[&str]) -> Option<Place> {
        names.iter().try_fold(place.clone(), |place, name| Some(self.resolve(place.child(name)?)))
    }

    /// The same as `find`, but panics if the document has no such value.
    pub fn at(&'static self, names: &[&str]) -> Place {
        self.find(names).unwrap_or_else(|| panic!("the document has no {names:?}"))
    }

    fn resolve(&'static self, mut place: Place) -> Place {
        while let Some(reference) = place.value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("references stay within the document").to_owned();
            let value = self.root.pointer(&pointer).unwrap_or_else(|| panic!("{reference} does not exist"));
            place = Place { pointer, value };
        }
        place
    }

    /// The children of a place, each with its name. References are followed.
    pub fn children(&'static self, place: &Place) -> Vec<(&'static str, Place)> {
        let Some(children) = place.value.as_object() else { return Vec::new() };
        let named = |name: &'static String| (name.as_str(), self.resolve(place.child(name).expect("the child exists")));
        children.keys().map(named).collect()
    }

    /// The entries of a list. References are followed.
    pub fn entries(&'static self, place: &Place) -> Vec<Place> {
        let count = place.value.as_array().map_or(0, Vec::len);
        let entry = |at: usize| Place { pointer: format!("{}/{at}", place.pointer), value: &place.value[at] };
        (0..count).map(|at| self.resolve(entry(at))).collect()
    }

    /// Checks a value against a schema. The error says why the value does not conform.
    pub fn check(&self, schema: &Place, value: &Value) -> Result<(), String> {
        let mut validators = self.validators.lock().unwrap();
        let validator = validators.entry(schema.pointer.clone()).or_insert_with(|| {
            let mut whole = self.root.clone();
            whole["$ref"] = json!(format!("#{}", schema.pointer));
            let built = jsonschema::options().with_draft(self.draft).build(&whole);
            Arc::new(built.unwrap_or_else(|error| panic!("{} is not a valid schema: {error}", schema.pointer)))
        });
        let validator = Arc::clone(validator);
        drop(validators);
        validator
            .validate(value)
            .map_err(|error| format!("{error} at '{}', against the schema {}", error.instance_path(), schema.pointer))
    }
}

impl Place {
    /// The child with this name. If the child is a reference, returns the reference itself.
    pub fn child(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name)?;
        let escaped = name.replace('~', "~0").replace('/', "~1").replace('{', "%7B").replace('}', "%7D");
        Some(Self { pointer: format!("{}/{escaped}", self.pointer), value })
    }
}

/// The name of the schema for a message from the server. The type of the message selects the schema.
pub fn schema_of(message: &Value) -> &'static str {
    match message["type"].as_str() {
        Some("connection_ack") => "ConnectionAck",
        Some("subscription_update") => "SubscriptionUpdate",
        Some("catch_up") => "CatchUpMessage",
        Some("caught_up") => "CaughtUpMessage",
        Some("error") => "ErrorMessage",
        Some("pong") => "Pong",
        Some("auth_ack") => "AuthAck",
        Some("reconnect") => "ReconnectMessage",
        _ if message.get("topic").is_some() => "TopicMessage",
        _ => "BroadcastMessage",
    }
}

/// Fails the test if a message of the server does not conform to its schema.
pub fn message(message: &Value) {
    let schema = asyncapi().at(&["components", "schemas", schema_of(message)]);
    if let Err(why) = asyncapi().check(&schema, message) {
        panic!("the message does not conform to docs/api/asyncapi.yaml: {why}: {message}");
    }
}

/// The parts of a response that `openapi.yaml` describes.
#[derive(Debug)]
pub struct Response<'a> {
    pub method: &'a str,
    /// The path of the request. It may include a query, which the check ignores.
    pub path: &'a str,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The JSON body, or null; `None` if the test did not read it.
    pub body: Option<&'a Value>,
}

impl Response<'_> {
    /// Fails the test if the response does not conform to the document.
    pub fn check(&self) {
        if let Err(why) = self.fits() {
            panic!("the response does not conform to docs/api/openapi.yaml: {why}: {self:?}");
        }
    }

    fn fits(&self) -> Result<(), String> {
        // Any path can return these responses, so the document describes them once, in its `description`.
        let is_preflight = self.method == "OPTIONS" && self.status == 204;
        let is_nowhere = self.status == 404 && self.body.is_some_and(|body| body["error"]["code"] == "not_found");
        if is_preflight || is_nowhere || self.status == 431 {
            return Ok(());
        }
        let item = self.item().ok_or("there is no such path")?;
        let method = if self.method == "HEAD" { "get".to_owned() } else { self.method.to_lowercase() };
        // The document has no operation for a refused method. It describes the 405 under the methods that the path
        // allows.
        let operations = openapi().children(&item);
        let operation = operations
            .iter()
            .find(|(name, _)| *name == method)
            .or_else(|| operations.iter().find(|(name, _)| self.status == 405 && matches!(*name, "get" | "post")));
        let (_, operation) = operation.ok_or("there is no such method")?;
        let response = operation.child("responses").and_then(|responses| responses.child(&self.status.to_string()));
        let response = openapi().resolve(response.ok_or("there is no such status")?);
        self.check_headers(&response)?;
        self.check_body(&response)
    }

    /// The path item of the document whose path or template matches the requested path.
    fn item(&self) -> Option<Place> {
        let path = self.path.split('?').next().unwrap_or_default();
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let is_match = |template: &str| {
            let (mut given, mut wanted) = (path.split('/'), template.split('/'));
            given.by_ref().zip(wanted.by_ref()).all(|(given, wanted)| wanted.starts_with('{') || given == wanted)
                && path.split('/').count() == template.split('/').count()
        };
        let mut items = openapi().children(&openapi().at(&["paths"]));
        // Literal paths take precedence over templates.
        items.sort_by_key(|(template, _)| template.contains('{'));
        items.into_iter().find(|(template, _)| is_match(template)).map(|(_, item)| item)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn check_headers(&self, response: &Place) -> Result<(), String> {
        let described = response.child("headers").map_or_else(Vec::new, |headers| openapi().children(&headers));
        for (name, header) in &described {
            match self.header(name) {
                Some(value) => {
                    let schema = header.child("schema").ok_or_else(|| format!("{name} has no schema"))?;
                    openapi().check(&schema, &value.into()).map_err(|why| format!("{name}: {why}"))?;
                }
                None if header.value["required"] == true => return Err(format!("it has no {name}")),
                None => {}
            }
        }
        let known = |name: &str| described.iter().any(|(described, _)| described.eq_ignore_ascii_case(name));
        // `Connection: close` belongs to HTTP itself, so the document need not describe it.
        let closes = |name: &str| name == "connection" && self.header(name) == Some("close");
        match MEANT_FOR_CLIENTS.iter().find(|name| self.header(name).is_some() && !known(name) && !closes(name)) {
            Some(name) => Err(format!("its {name} is not described")),
            None => Ok(()),
        }
    }

    fn check_body(&self, response: &Place) -> Result<(), String> {
        let content_type = self.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let Some(content) = response.child("content") else {
            let none = content_type.is_empty() && self.body.is_none_or(Value::is_null);
            return if none { Ok(()) } else { Err("it should have no body".to_owned()) };
        };
        let media = content.child(content_type).ok_or_else(|| format!("its type is '{content_type}'"))?;
        let Some(body) = self.body.filter(|_| content_type == "application/json" && self.method != "HEAD") else {
            return Ok(());
        };
        let schema = media.child("schema").ok_or("its body has no schema")?;
        openapi().check(&schema, body)
    }
}
