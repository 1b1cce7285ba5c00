//! The Markdown files: their links resolve, and their tables and messages match the source.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use oddswire::close::Close;
use oddswire::config::Config;
use serde_json::Value;

use crate::harness::contract::{self, asyncapi, openapi};
use crate::harness::markdown::{Page, root};

#[test]
fn every_link_leads_to_an_existing_file_and_heading() {
    let pages = Page::all();
    let anchors = |path: &Path| {
        let page = pages.iter().find(|page| page.path.canonicalize().unwrap() == path);
        page.map(Page::anchors).unwrap_or_default()
    };
    let mut wrong = Vec::new();
    for page in &pages {
        for (line, target) in page.links() {
            if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            match path.canonicalize() {
                Ok(path) if anchor.is_empty() || anchors(&path).iter().any(|known| known == anchor) => {}
                _ => wrong.push(format!("{}:{line}: {target}", page.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "broken links:\n{}", wrong.join("\n"));
}

#[test]
fn readme_links_to_every_page_in_docs() {
    let file = |target: String| target.split('#').next().unwrap_or_default().to_owned();
    let links = |name: &str| -> BTreeSet<String> {
        Page::read(name).links().into_iter().map(|(_, target)| file(target)).collect()
    };
    let (readme, architecture) = (links("README.md"), links("ARCHITECTURE.md"));
    for page in Page::all().iter().filter(|page| page.name.starts_with("docs/")) {
        let is_design = page.name.starts_with("docs/design/");
        let links = if is_design { &architecture } else { &readme };
        assert!(
            links.contains(&page.name),
            "no link to {} in {}",
            page.name,
            if is_design { "ARCHITECTURE.md" } else { "README.md" }
        );
    }
}

#[test]
fn table_of_close_codes_matches_the_source() {
    let rows = Page::read("docs/protocol.md").table(&["code", "reason", "reconnect?"]);
    let described: BTreeSet<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect();
    let row = |close: Close| {
        let row = close.row();
        (row.code.to_string(), row.reason.to_owned(), if row.reconnect { "yes" } else { "no" }.to_owned())
    };
    assert_eq!(described, Close::ALL.map(row).into());
}

#[test]
fn table_of_error_codes_matches_the_openapi_document() {
    let rows = Page::read("docs/publishing.md").table(&["status", "code"]);
    let described: BTreeSet<String> = rows.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    let mut documented = BTreeSet::new();
    for (status, response) in openapi().children(&openapi().at(&["paths", "/api/publish", "post", "responses"])) {
        let Some(schema) = openapi().find_in(&response, &["content", "application/json", "schema"]) else { continue };
        for code in openapi().at(&["components", "schemas", "ErrorCode", "enum"]).value.as_array().unwrap() {
            let error = serde_json::json!({"error": {"code": code, "detail": ""}});
            if openapi().check(&schema, &error).is_ok() {
                documented.insert(format!("{status} {}", code.as_str().unwrap()));
            }
        }
    }
    assert_eq!(described, documented);
}

#[test]
fn messages_in_the_docs_conform_to_the_asyncapi_document() {
    let mut seen = 0;
    for page in Page::all() {
        for block in page.blocks().into_iter().filter(|block| block.info == "json message") {
            for (at, line) in block.text.lines().enumerate() {
                let place = format!("{}:{}", page.name, block.line + at);
                let message: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
                let asked = asyncapi().at(&["components", "schemas", "ClientMessage"]);
                if asyncapi().check(&asked, &message).is_err() {
                    eprintln!("{place}");
                    contract::message(&message);
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} messages were found");
}

/// Escapes a line for a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Generates `docs/settings.md` from `--help`.
fn settings() -> String {
    let mut page = "# Settings\n\nEach setting is a flag and an environment variable; only `--reset-data` has no variable. \
        Write durations as `250ms`,\n`30s` or `1h`, and sizes as `16KiB` or `8MiB`. At an invalid value the program exits with \
        code 2 and one line that says\nwhat is allowed. An unknown `ODDSWIRE_…` variable causes a warning in the log. \
        [glossary.md](glossary.md) explains the\nterms.\n\nThis page is generated from `oddswire --help`, and a test compares \
        the two.\n"
        .to_owned();
    let command = Config::command();
    let mut headings: Vec<Option<&str>> = Vec::new();
    let settings: Vec<_> = command.get_arguments().filter(|setting| setting.get_long().is_some()).collect();
    for setting in &settings {
        if !headings.contains(&setting.get_help_heading()) {
            headings.push(setting.get_help_heading());
        }
    }
    for heading in headings {
        let title = heading.unwrap_or("The server");
        write!(page, "\n## {title}\n\n| flag | variable | default | |\n|---|---|---|---|\n").unwrap();
        for setting in settings.iter().filter(|setting| setting.get_help_heading() == heading) {
            let flag = setting.get_long().unwrap();
            let value = setting.get_value_names().filter(|_| setting.get_action().takes_values());
            let value = value.map_or(String::new(), |names| format!(" {}", names[0]));
            let variable = setting.get_env().map_or(String::new(), |name| format!("`{}`", name.to_str().unwrap()));
            let defaults = setting.get_default_values().iter();
            let defaults = defaults.filter(|value| !value.is_empty() && setting.get_action().takes_values());
            let default: Vec<String> = defaults.map(|value| format!("`{}`", value.to_str().unwrap())).collect();
            let default = default.concat();
            let help = cell(&setting.get_help().unwrap().to_string());
            let possible: Vec<String> = setting
                .get_possible_values()
                .iter()
                .filter(|_| setting.get_action().takes_values())
                .map(|value| format!("`{}`", value.get_name()))
                .collect();
            let possible =
                if possible.is_empty() { String::new() } else { format!(". Values: {}", possible.join(", ")) };
            writeln!(page, "| `--{flag}{value}` | {variable} | {default} | {help}{possible} |").unwrap();
        }
    }
    page
}

/// Run this test with `UPDATE_DOCS=1` to rewrite the page.
#[test]
fn settings_page_matches_the_help_text() {
    let path = root().join("docs/settings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, settings()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == settings(), "docs/settings.md differs from --help: UPDATE_DOCS=1 rewrites it");
}
