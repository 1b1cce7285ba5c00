//! The console, in a real browser: what it shows, what it does not do, and that everybody can use it.

use std::time::Duration;

use oddswire::message::Payload;
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::harness::browser::Port;
use crate::harness::link::{Flow, Link};
use crate::harness::page::Page;
use crate::harness::proxy::{Proxy, Software};
use crate::harness::{Answer, App, jwt};

/// What the browser itself says of a server that is away.
const AWAY: [&str; 2] = ["WebSocket connection to", "Failed to load resource"];

fn progress(phase: &str, current: u64, total: impl Into<Value>) -> Value {
    let data =
        json!({"platform": null, "phase": phase, "current": current, "total": total.into(), "events_count": 120});
    json!({"topic": "scrape_progress", "data": data})
}

fn prices(home: f64, away: f64) -> Value {
    json!({"home": home, "away": away, "event_id": 8301})
}

/// The class of a number in the row of a key, with the sign before it.
fn moved(last: &str, name: &str) -> String {
    let [last, name] = [last, name].map(|text| json!(text));
    format!(
        "(() => {{ const row = [...document.querySelectorAll('.row')].find(r => r.querySelector('.name').textContent === {last}); \
         const cell = [...row.querySelectorAll('.cell')].find(c => c.querySelector('.what').textContent === {name}); \
         return cell.className.split(' ').slice(1, 2).join('') + cell.querySelector('.move').textContent; }})()"
    )
}

#[tokio::test]
async fn the_page_shows_what_is_published_as_it_comes() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    page.shows("#empty", "No message with a key yet").await;
    page.shows("#empty", "/api/publish").await;

    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    app.odds("8301/1x2/sporty", json!({"outcomes": [{"name": "Over", "price": 1.9, "point": 2.5}]})).await;
    app.odds("8302/1x2/betpawa", json!("no number at all")).await;
    let row = page.row_with("sporty", "1.90").await;
    assert!(row.starts_with("1x2 / sporty Over 2.5 1.90 "), "{row}");
    page.shows("#counted", "3 keys · 2 events").await;
    let order = page.evaluate("[...document.querySelectorAll('.row .name')].map(name => name.textContent)").await;
    assert_eq!(order, json!(["8301", "betpawa", "sporty", "8302", "betpawa"]));
    page.shows(".row", "no number at all").await;
    let row = page.row_with("betpawa", "1.85").await;
    assert!(row.starts_with("1x2 / betpawa away 4.20 home 1.85 "), "nothing of event_id: {row}");

    app.odds("8301/1x2/betpawa", prices(1.9, 4.0)).await;
    page.until(&format!("{} === 'up▲' && {} === 'down▼'", moved("betpawa", "home"), moved("betpawa", "away"))).await;
    app.odds("8301/1x2/sporty", json!({"outcomes": [{"name": "Over", "price": 2.1, "point": 3.5}]})).await;
    page.until(&format!("{} === 'other◆'", moved("sporty", "Over"))).await;
    app.odds("8301/1x2/sporty", Value::Null).await;
    page.shows("#counted", "2 keys · 2 events").await;
    // The page looks at the clock once a second.
    page.until("/^[1-9].* ago$/.test(document.querySelector('.row:not(.fixture) .age').textContent)").await;

    page.shows("#topics li", "odds_updates").await;
    page.until("/subscribers\\s+1\\s+keys\\s+2\\s+in history\\s+\\d\\s+received\\s+6/.test(document.querySelector('#topics li').innerText)").await;
    page.until("document.querySelector('#rate-line').getAttribute('points').split(' ').some(point => Number(point.split(',')[1]) < 19)").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn the_page_shows_how_a_scrape_goes() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let bar = "(bar => [bar.position < 0 ? null : bar.value, bar.max, document.querySelector('.card').dataset.end])(document.querySelector('.card progress'))";
    for (message, phase, shown) in [
        (progress("starting", 0, 3), "starting", json!([0, 3, ""])),
        (progress("discovery", 1, Value::Null), "discovery", json!([null, 3, ""])),
        (progress("scraping", 2, 3), "scraping", json!([2, 3, ""])),
        (progress("completed", 3, 3), "Completed", json!([3, 3, "completed"])),
        (progress("failed", 0, 3), "Failed", json!([0, 3, "failed"])),
    ] {
        app.publish(&message).await;
        page.until(&format!("document.querySelector('.card .phase')?.textContent === {}", json!(phase))).await;
        assert_eq!(page.evaluate(bar).await, shown, "{phase}");
    }
    let platform = json!({"platform": "betpawa", "phase": "completed", "current": 1, "total": 3, "error": "404"});
    app.publish(&json!({"topic": "scrape_progress", "data": platform})).await;
    page.shows(".card .phase", "completed · betpawa").await;
    assert_eq!(page.evaluate(bar).await, json!([1, 3, ""]), "the end of a platform is not the end of the run");
    app.publish(&json!({"topic": "scrape_progress", "type": "note", "data": ["anything"]})).await;
    page.shows(".card", "anything").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn a_page_whose_connection_is_cut_resumes_and_says_what_it_brought() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    let link = Link::to(app.address).await;
    page.open(&format!("http://{}/", link.address)).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    page.row("betpawa").await;
    let position = page.evaluate("document.querySelector('#position').textContent").await;

    link.set(Flow::Cut);
    page.until("document.querySelector('#status').dataset.state === 'waiting'").await;
    page.shows("#timeline .lost", "Not connected").await;
    app.odds("8301/1x2/betpawa", prices(1.9, 4.2)).await;
    app.odds("8301/1x2/sporty", prices(1.8, 4.3)).await;
    link.set(Flow::Open);
    page.is_live().await;
    page.shows("#timeline li", &format!("Resumingafter {}", position.as_str().unwrap())).await;
    page.shows("#timeline li", "odds_updates: every message is replayed").await;
    page.shows("#timeline li", "Caught up with 2 messages").await;
    page.shows("#timeline .live", "Live over WebSocket").await;
    page.row_with("sporty", "home 1.8").await;
    page.shows(".row .cell.up", "1.9").await;
    assert_eq!(page.evaluate("document.querySelector('#gaps').childElementCount").await, 0, "nothing is lost");
    page.is_quiet(&AWAY).await;
    page.end().await;
}

#[tokio::test]
async fn a_page_finds_the_restarted_server_and_shows_its_state_in_place_of_the_old_one() {
    let Some(mut page) = Page::start().await else { return };
    let port = Port::reserve();
    let app = port.serve().await;
    page.open(&port.url("/")).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    app.publish(&progress("starting", 0, 3)).await;
    page.row("betpawa").await;
    page.shows(".card .phase", "starting").await;
    app.post("/api/broadcast", "application/json", r#"{"type":"maintenance","data":"in a minute"}"#).await;
    page.shows("#timeline li", "To everybody: maintenance\"in a minute\"").await;
    app.stop().await;
    page.until("document.querySelector('#status').dataset.state !== 'live'").await;
    page.shows("#timeline li", "The server shuts down").await;

    let app = port.serve().await;
    // The server accepts nobody before this test waits for something, so the page cannot come before these.
    let [odds, runs] = ["odds_updates", "scrape_progress"].map(|topic| topic.parse().unwrap());
    let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
    app.manager.broadcast(Payload::keyed("8302/1x2/sporty".parse().unwrap(), raw("2.5")), &odds).unwrap();
    app.manager.broadcast(Payload::new(raw(r#"{"phase":"completed"}"#)), &runs).unwrap();
    page.is_live().await;
    page.row_with("sporty", "value 2.5").await;
    page.shows("#counted", "1 key · 1 event").await;
    page.shows(".card .phase", "Completed").await;
    page.shows("#timeline li", "odds_updates: the whole state").await;
    page.shows("#gaps", "Gap in scrape_progress: an unknown number of messages is lost").await;
    app.odds("8302/1x2/sporty", 2.75).await;
    page.shows(".cell.up", "2.75").await;
    page.is_quiet(&AWAY).await;
    page.end().await;
}

#[tokio::test]
async fn a_gap_is_shown_as_a_gap_until_somebody_has_seen_it() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.history_messages = 5).await;
    let link = Link::to(app.address).await;
    page.open(&format!("http://{}/", link.address)).await;
    app.publish(&progress("starting", 0, 3)).await;
    page.shows(".card .phase", "starting").await;

    for lost in ["7 messages are lost", "14 messages are lost"] {
        link.set(Flow::Cut);
        page.until("document.querySelector('#status').dataset.state === 'waiting'").await;
        app.publish(&json!(vec![progress("scraping", 1, 3); 12])).await;
        link.set(Flow::Open);
        page.is_live().await;
        page.shows("#gaps [role=alert], #gaps", &format!("Gap in scrape_progress: {lost}")).await;
    }
    page.shows("#timeline .gap", "scrape_progress: a gap, messages are lost7 skipped").await;
    page.has_no_barrier("a gap").await;
    page.click("#gaps button").await;
    assert_eq!(page.evaluate("document.querySelector('#gaps').childElementCount").await, 0);
    page.is_quiet(&AWAY).await;
    page.end().await;
}

#[tokio::test]
async fn a_paused_page_stands_still_and_goes_on_from_where_the_topic_is() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    app.publish(&progress("starting", 0, 3)).await;
    page.row_with("betpawa", "home 1.85").await;
    page.shows(".card .phase", "starting").await;

    page.click("#pause").await;
    app.odds("8301/1x2/betpawa", prices(1.95, 4.2)).await;
    app.odds("8301/1x2/sporty", prices(1.8, 4.3)).await;
    app.publish(&progress("completed", 3, 3)).await;
    page.shows("#counted", "1 key · 1 event · paused, 3 messages since").await;
    assert!(page.row("betpawa").await.contains("home 1.85"));
    page.shows(".card .phase", "starting").await;
    page.press("Enter").await;
    page.shows("#counted", "2 keys · 1 event").await;
    page.row_with("betpawa", "home 1.95").await;
    page.shows(".card .phase", "Completed").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn the_filter_leaves_what_has_every_word_in_its_key_or_the_name_of_its_event() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let named = json!({"home_team": "Arsenal", "away_team": "Leeds United", "home": 1.5});
    app.odds("8301/1x2/betpawa", named.clone()).await;
    app.odds("8301/totals/sporty", named).await;
    app.odds("8302/1x2/sporty", prices(1.8, 4.3)).await;
    page.shows("#counted", "3 keys · 2 events").await;
    page.shows(".fixture", "Arsenal – Leeds United").await;
    page.press("/").await;
    for (words, counted) in
        [("LEEDS", "2 of 3 keys · 1 event"), (" sporty", "1 of 3 keys · 1 event"), (" 1x2", "0 of 3 keys · 0 events")]
    {
        page.type_text(words).await;
        page.shows("#counted", counted).await;
    }
    page.shows("#empty", "Nothing matches").await;
    page.click("#empty-action").await;
    page.shows("#counted", "3 keys · 2 events").await;
    page.type_text("8302").await;
    page.shows("#counted", "1 of 3 keys · 1 event").await;
    app.odds("8302/1x2/betpawa", prices(1.9, 4.3)).await;
    page.shows("#counted", "2 of 4 keys · 1 event").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn a_page_narrows_to_one_event_and_the_commands_say_so() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    app.odds("8302/1x2/sporty", prices(1.8, 4.3)).await;
    page.open(&app.url("/")).await;
    page.shows("#counted", "2 keys · 2 events").await;
    page.click(".fixture button").await;
    page.shows("#narrowed", "odds_updates/8301").await;
    page.shows("#counted", "1 key · 1 event").await;
    assert_eq!(page.evaluate("location.search").await, "?topics=scrape_progress,odds_updates/8301");
    page.reload().await;
    page.shows("#counted", "1 key · 1 event").await;

    page.click("#copy-open").await;
    let commands = page.evaluate("[...document.querySelectorAll('#copy pre')].map(pre => pre.textContent)").await;
    let (base, topics) = (app.address, "topics=scrape_progress,odds_updates/8301&since=snapshot");
    assert_eq!(
        commands,
        json!([
            format!("websocat 'ws://{base}/api/ws?{topics}'"),
            format!("curl -N 'http://{base}/api/sse?{topics}'"),
            format!("curl 'http://{base}/api/topics/odds_updates/state?key=8301'"),
            format!("curl 'http://{base}/api/topics/scrape_progress/state'"),
        ])
    );
    page.press("Escape").await;
    page.click("#widen").await;
    page.shows("#counted", "2 keys · 2 events").await;
    page.click("#topics li:last-child input").await;
    page.until("location.search === '?topics=odds_updates'").await;
    page.is_live().await;
    page.click("#topics li input").await;
    page.until("document.querySelector('#announcer').textContent === 'One topic has to stay.'").await;
    assert_eq!(
        page.evaluate("[...document.querySelectorAll('#topics input')].map(i => i.checked)").await,
        json!([true, false])
    );
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn a_page_shows_whatever_topics_there_are_one_at_a_time() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.topics = "football,tennis,news".parse().unwrap()).await;
    let keyed = |topic: &str, price: f64| json!({"topic": topic, "key": format!("{topic}/maker"), "data": price});
    app.publish(&json!([keyed("tennis", 1.5), keyed("football", 2.5)])).await;
    page.open(&app.url("/")).await;
    page.until(
        "[...document.querySelector('#topic').options].map(option => option.value).join() === 'football,tennis'",
    )
    .await;
    page.shows(".row", "2.5").await;
    page.evaluate("document.querySelector('#topic').focus()").await;
    page.press("ArrowDown").await;
    page.shows(".row", "1.5").await;
    app.publish(&keyed("tennis", 1.75)).await;
    page.shows(".row .up", "1.75").await;
    app.publish(&keyed("football", 3.5)).await;
    app.publish(&keyed("news", 1.0)).await;
    page.until("document.querySelector('#topic').options.length === 3").await;
    assert_eq!(page.evaluate("document.querySelectorAll('.row:not(.fixture)').length").await, 1);
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn a_page_that_may_not_listen_says_so_and_tries_again_when_told_to() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(jwt::required).await;
    page.look(&app.url("/?topics=scrape_progress"), 1440, 900).await;
    page.shows("#token", "lets those listen who have a token").await;
    for (claim, shown) in [("odds_updates", "Not connected"), ("scrape_progress", "No message with a key yet")] {
        page.type_text(&jwt::token(&jwt::claims(&[claim]))).await;
        page.press("Enter").await;
        page.shows("#empty", shown).await;
        if claim == "odds_updates" {
            page.shows("#empty", "403").await;
            page.has_no_barrier("a closed page").await;
            page.click("#empty-action").await;
            page.shows("#empty", shown).await;
            page.click("#token-open").await;
        }
    }
    page.is_live().await;
    page.is_quiet(&AWAY).await;
    page.end().await;
}

#[tokio::test]
async fn markup_in_a_message_stays_text() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let image = "<img src=x onerror=window.hit=1>";
    let data = json!({image: 1.5, "home_team": "<script>window.hit=1</script>", "away_team": "x".repeat(50_000)});
    let key = format!("it's {image}/<u>market/<i>maker");
    app.publish(&json!({"topic": "odds_updates", "key": key, "type": "<b>type", "data": data})).await;
    app.publish(&json!({"topic": "scrape_progress", "type": image, "data": {"phase": image, "error": image}})).await;
    app.publish(&json!({"topic": "scrape_progress", "data": {"phase": "<u>phase", "message": "y".repeat(50_000)}}))
        .await;
    assert!(page.row("<i>maker").await.starts_with(&format!("<u>market / <i>maker {image} 1.5")));
    page.shows(".fixture", "<script>window.hit=1</script> – xxx").await;
    page.shows(".card .phase", "<u>phase").await;
    page.click(".row:last-child").await;
    page.shows("#message", &key).await;
    page.shows("#message", "<b>type").await;
    page.press("Escape").await;
    page.press("r").await;
    page.shows("#raw-list", "window.hit=1").await;
    page.press("Escape").await;
    page.click(".fixture button").await;
    page.shows("#narrowed", "it's <img").await;
    page.is_live().await;
    page.press("c").await;
    page.shows("#copy", "it%27s%20%3Cimg").await;
    let quotes = "[...document.querySelectorAll('#copy pre')].every(pre => pre.textContent.split(\"'\").length === 3)";
    assert_eq!(page.evaluate(quotes).await, true, "nothing of a key ends the quotes of a command");

    let made = "document.querySelectorAll('u, i, script:not([src]), img:not(.brand img)').length";
    assert_eq!(page.evaluate(made).await, 0);
    assert_eq!(page.evaluate("window.hit ?? null").await, Value::Null);
    let longest = "Math.max(...[...document.querySelectorAll('*')].filter(e => e.childElementCount === 0).map(e => e.textContent.length))";
    assert!(page.evaluate(longest).await.as_u64().unwrap() < 21_000, "what is long is cut");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn numbers_of_any_data_have_names() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let long = format!("[{}1]", "1,".repeat(2000));
    let objects = format!("[{}{{}}]", "{},".repeat(2000));
    for (data, expected) in [
        ("1.85", json!(["value  1.85"])),
        (r#"{"home": 1.85, "note": "x", "open": true, "none": null}"#, json!(["home  1.85"])),
        (r#"{"home": "1.90", "team": "1. FC", "event_id": 7, "seen_at": 5, "runnerId": 3}"#, json!(["home  1.90"])),
        (
            r#"{"prices": {"home": 0.10000000000000001, "away": 1e-9}}"#,
            json!(["prices home  0.10", "prices away  1e-9"]),
        ),
        (r#"{"back": [[11.5, 55.61]]}"#, json!(["back 1 1  11.50", "back 1 2  55.61"])),
        (
            r#"[{"name": "Over", "price": -110, "point": 49}, {"name": "Draw", "odds": 3.4}, {"name": "Size", "tv": 5}]"#,
            json!(["Over 49 -110", "Draw  3.40", "Size tv  5"]),
        ),
        (r#"{"name": "x", "price": 2}"#, json!(["price  2"])),
        (r#"{"market": {"name": "Over", "price": 2}}"#, json!(["Over  2.00"])),
        ("[]", json!([])),
        ("null", json!([])),
        (&deep, json!([])),
        (&objects, json!([])),
    ] {
        let cells = format!(
            "import('/console/cells.js').then(({{cells}}) => cells({data}).map(c => `${{c.name}} ${{c.line}} ${{c.text}}`))"
        );
        assert_eq!(page.evaluate(&cells).await, expected, "{data}");
    }
    let count = format!("import('/console/cells.js').then(({{cells}}) => cells({long}).length)");
    assert_eq!(page.evaluate(&count).await, 24);
    page.end().await;
}

#[tokio::test]
async fn a_page_without_a_token_asks_for_one_and_keeps_it_in_its_tab() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(jwt::required).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    page.look(&app.url("/"), 390, 844).await;
    page.shows("#token", "lets those listen who have a token").await;
    page.has_no_barrier("the question for a token").await;
    for (token, why) in
        [("no token".to_owned(), "The server does not take the token"), (jwt::expiring(-3600), "The token has expired")]
    {
        page.type_text(&token).await;
        page.press("Enter").await;
        page.shows("#token", why).await;
    }
    page.type_text(&jwt::expiring(3600)).await;
    page.press("Enter").await;
    page.is_live().await;
    page.row_with("betpawa", "home 1.85").await;
    page.reload().await;
    page.is_live().await;
    page.click("#copy-open").await;
    page.shows("#copy pre", "websocat -H \"Authorization: Bearer $TOKEN\" 'ws://").await;
    assert_eq!(page.evaluate("[location.search, localStorage.length, document.cookie]").await, json!(["", 0, ""]));
    assert_eq!(page.evaluate("document.documentElement.textContent.includes('eyJ')").await, false);
    page.is_quiet(&["status of 401"]).await;
    page.end().await;
}

#[tokio::test]
async fn an_address_that_names_no_possible_topic_says_so_and_leads_on_to_everything() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    for asked in ["Odds", "odds_updates/", &format!("odds_updates/{}", "k".repeat(300))] {
        page.look(&app.url(&format!("/?topics={asked}")), 1440, 900).await;
        page.shows("#empty-title", "These topics cannot be shown").await;
        page.click("#empty-action").await;
        page.is_live().await;
        page.row_with("betpawa", "home 1.85").await;
        page.until("location.search === ''").await;
    }
    page.is_quiet(&["status of 400", "WebSocket"]).await;
    page.end().await;
}

#[tokio::test]
async fn the_page_works_under_a_prefix_that_a_proxy_takes_away() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    let changes = [
        ("location / {\n            return 404;", "location /odds/ {\n            proxy_pass http://oddswire/;"),
        ("\"~*^/api/ws websocket$\"", "\"~*^/odds/api/ws websocket$\""),
    ];
    let Some(proxy) = Proxy::start(Software::Nginx, app.address, &changes).await else { return };
    page.open(&proxy.url("/odds/")).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    page.row("betpawa").await;
    page.shows("#status", "WebSocket").await;
    page.shows("#connections", "1 connection").await;
    page.click(".fixture button").await;
    page.until("location.pathname + location.search === '/odds/?topics=scrape_progress,odds_updates/8301'").await;
    page.click("#copy-open").await;
    page.shows("#copy pre", "/odds/api/ws?topics=").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn a_keyboard_is_enough() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let keys: Vec<Value> = (0..200)
        .map(|at| json!({"topic": "odds_updates", "key": format!("{}/1x2/maker{at:03}", 8300 + at / 10), "data": prices(1.5, 2.5)}))
        .collect();
    app.publish(&json!(keys)).await;
    app.publish(&json!({"topic": "scrape_progress", "data": {"any": "thing"}})).await;
    page.shows("#counted", "200 keys").await;
    page.shows("#topics li", "scrape_progress").await;
    page.shows(".card", "any").await;

    let focus = "(({activeElement: e}) => ({name: e.id || e.className || e.tagName, shown: e.getClientRects().length > 0 && getComputedStyle(e).outlineStyle !== 'none'}))(document)";
    let mut visited = Vec::new();
    loop {
        page.press("Tab").await;
        let at = page.evaluate(focus).await;
        if at["name"] == "BODY" || visited.len() > 40 {
            break;
        }
        assert_eq!(at["shown"], true, "one sees where {at} is");
        visited.push(at["name"].as_str().unwrap().to_owned());
    }
    let expected = [
        "skip",
        "pause",
        "raw-open",
        "copy-open",
        "PRE",
        "SUMMARY",
        "INPUT",
        "INPUT",
        "SUMMARY",
        "timeline",
        "filter",
        "row fixture",
        "BUTTON",
        "shortcuts",
    ];
    assert_eq!(visited, expected);

    page.press("Tab").await;
    page.press("Enter").await;
    page.until("document.activeElement.id === 'grid'").await;
    page.press("Tab").await;
    let active = "document.activeElement.querySelector('.name')?.textContent";
    for (key, name) in [
        ("ArrowDown", "maker000"),
        ("End", "maker199"),
        ("ArrowUp", "maker198"),
        ("Home", "8300"),
        ("ArrowDown", "maker000"),
        ("ArrowDown", "maker001"),
    ] {
        page.press(key).await;
        assert_eq!(page.evaluate(active).await, name, "{key}");
        let rect = "(r => r.top >= 50 && r.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())";
        assert_eq!(page.evaluate(rect).await, true, "{name} is in sight");
    }
    page.press("Enter").await;
    page.shows("#message", "8300/1x2/maker001").await;
    page.press("Escape").await;
    assert_eq!(page.evaluate(active).await, "maker001", "the focus comes back");
    page.press("r").await;
    page.until(
        "document.querySelector('#raw').open && document.querySelector('#raw').contains(document.activeElement)",
    )
    .await;
    page.press("Escape").await;
    assert_eq!(page.evaluate(active).await, "maker001");

    page.press("/").await;
    page.type_text("rp/c").await;
    let undisturbed = "document.querySelector('#filter').value === 'rp/c' && !document.querySelector('dialog[open]') && document.querySelector('#pause').textContent === 'Pause'";
    assert_eq!(page.evaluate(undisturbed).await, true, "who types, types");
    page.evaluate("document.querySelector('#shortcuts').click(), document.activeElement.blur()").await;
    page.press("r").await;
    assert_eq!(page.evaluate("document.querySelector('dialog[open]')").await, Value::Null, "they are switched off");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn nothing_of_the_page_hinders_anybody() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    for (round, (width, height)) in [(1.0, (1440, 900)), (2.0, (360, 740))] {
        page.look(&app.url("/"), width, height).await;
        page.is_live().await;
        if width == 1440 {
            page.has_no_barrier("an empty page").await;
            app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
            app.publish(&progress("failed", 0, 3)).await;
        }
        // What came before is there, so that the next price moves in a row that stays where it is.
        page.shows(".card .phase", "Failed").await;
        page.row_with("betpawa", &format!("home {:.2}", 0.85 + round)).await;
        app.odds("8301/1x2/betpawa", prices(1.85 + round, 4.2 - round)).await;
        page.until("document.querySelector('.up') && document.querySelector('.down')").await;
        let what = format!("{width} pixels wide");
        page.has_no_barrier(&what).await;
        let too_wide = "[...document.querySelectorAll('body *')].filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).length";
        assert_eq!(page.evaluate(too_wide).await, 0, "{what}: nothing sticks out");
        for (open, dialog) in [("p", ""), ("r", "#raw"), ("c", "#copy")] {
            page.press(open).await;
            page.has_no_barrier(&format!("{what}, {open} {dialog}")).await;
            page.press("Escape").await;
        }
        page.click(".row:last-child").await;
        page.has_no_barrier(&format!("{what}, a message")).await;
    }
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn two_thousand_updates_a_second_change_no_more_of_the_page_than_its_frames_show() {
    const KEYS: usize = 3100;
    const BATCH: usize = 500;
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let message = |at: usize, price: usize| json!({"topic": "odds_updates", "key": format!("{:04}/1x2/maker{at:04}", at / 20), "data": {"home": price}});
    app.publish(&json!((0..KEYS).map(|at| message(at, 0)).collect::<Vec<_>>())).await;
    page.shows("#counted", "3,100 keys · 155 events").await;
    page.evaluate(
        "window.seen = {frames: 0, most: 0, now: 0, longest: 0}; \
         new MutationObserver(list => seen.now += list.length) \
             .observe(document.querySelector('#rows'), {subtree: true, childList: true, characterData: true, attributes: true}); \
         new PerformanceObserver(list => seen.longest = Math.max(seen.longest, ...list.getEntries().map(e => e.duration))) \
             .observe({type: 'longtask'}); \
         (function frame() { seen.frames++; seen.most = Math.max(seen.most, seen.now); seen.now = 0; requestAnimationFrame(frame); })()",
    )
    .await;
    // Most of each batch is for the twenty keys that are in sight first.
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    for round in 1..=12 {
        ticks.tick().await;
        let batch =
            (0..BATCH).map(|at| message(if at % 5 == 0 { round * 200 + at } else { at % 20 }, round * BATCH + at));
        app.publish(&json!(batch.collect::<Vec<_>>())).await;
    }
    page.until("/received\\s*9,100/.test(document.querySelector('#topics li').textContent)").await;
    let last = 12 * BATCH + BATCH - 1;
    // It shows what came last.
    page.row_with("maker0019", &last.to_string()).await;
    let seen = page.evaluate("({...seen, rows: document.querySelectorAll('.row').length})").await;
    let count = |name: &str| seen[name].as_f64().unwrap();
    assert!(count("frames") > 12.0, "{seen}");
    assert!(count("rows") < 60.0, "only rows in sight exist: {seen}");
    // A change of a row has six parts: the number, its sign and class, the age and its kind. 400 messages would have 2,400.
    assert!(count("most") > 20.0 && count("most") < 400.0, "a frame touches each row once: {seen}");
    assert!(count("longest") < 3000.0, "no task holds the page up for seconds: {seen}");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn the_files_of_the_page_are_served_with_what_a_browser_has_to_know() {
    let app = App::start().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/?topics=odds_updates", "text/html; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/oddswire.js", "text/javascript; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let etag = answer.header("etag");
        let policy = answer.header("content-security-policy");
        for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"] {
            assert!(policy.split("; ").any(|part| part == directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
        let again = app.request(Method::GET, path).header("if-none-match", etag);
        let again = Answer::of(again).await;
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", etag), "{path}");
        let head = Answer::of(app.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.text.as_str(), head.header("etag")), (200, "", etag), "{path}");
        assert_eq!(head.header("content-length"), answer.text.len().to_string(), "{path}");
        let post = app.post(path, "text/plain", "").await;
        assert_eq!(
            (post.status, post.code(), post.header("allow")),
            (405, "method_not_allowed", "GET, HEAD"),
            "{path}"
        );
    }
    for path in
        ["/console", "/console/", "/console/index.html", "/console/none.js", "/console/../Cargo.toml", "/index.html"]
    {
        let answer = app.get(path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn without_the_console_there_is_nothing_at_its_paths() {
    let app = App::with(|config| config.console = false).await;
    for path in ["/", "/console/console.js", "/console/oddswire.js"] {
        for method in [Method::GET, Method::POST] {
            let answer = Answer::of(app.request(method.clone(), path)).await;
            assert_eq!((answer.status, answer.code()), (404, "not_found"), "{method} {path}");
        }
    }
    assert_eq!(app.get("/api/topics").await.status, 200);
}

#[tokio::test]
async fn broadcasts_that_a_page_had_no_room_for_are_told_until_somebody_has_seen_it() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let link = Link::to(app.address).await;
    page.open(&format!("http://{}/", link.address)).await;
    link.set(Flow::Stalled);
    // The buffers on the way hold some.
    let notice = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let mut lost = 0;
    while lost < 2 {
        let answer = app.post("/api/broadcast", "application/json", notice.clone()).await;
        lost += u64::from(answer.body["connections"] == 0);
    }
    link.set(Flow::Open);
    page.shows("#gaps", "Gap in what goes to everybody: 2 broadcasts are lost").await;
    // One catch-up tells of both, or each of its own.
    page.shows("#timeline .gap", "To everybody: a gap, broadcasts are lost").await;
    page.click("#gaps button").await;
    assert_eq!(page.evaluate("document.querySelector('#gaps').childElementCount").await, 0);
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn of_large_messages_the_drawer_keeps_fewer_but_each_of_them_whole() {
    const CHARACTERS: usize = 300_000;
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.publish_message_bytes = CHARACTERS + 1000).await;
    page.open(&app.url("/")).await;
    for number in 1..=9 {
        app.odds(&format!("8301/large/{number}"), format!("{}end of {number}", "x".repeat(CHARACTERS))).await;
        page.shows("#counted", &format!("{number} key")).await;
    }
    page.press("r").await;
    // Two million characters are kept.
    page.evaluate("document.querySelector('#raw-filter').focus()").await;
    for (text, found) in [("end of ", "6 of the last "), ("4", "1 of the last ")] {
        page.type_text(text).await;
        page.shows("#raw-counted", found).await;
    }
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn the_name_of_an_event_follows_the_key_that_it_was_first_known_by() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    let named = |home: &str, price: f64| json!({"home_team": home, "away_team": "Leeds", "home": price});
    app.odds("8301/1x2/betpawa", named("Arsnal", 1.5)).await;
    page.shows(".fixture .name", "Arsnal – Leeds").await;
    app.odds("8302/1x2/betpawa", named("Burnley", 1.6)).await;
    page.shows(".fixture .name", "Burnley – Leeds").await;
    app.odds("8301/1x2/betpawa", named("Zarsenal", 1.5)).await;
    page.shows(".fixture .name", "Zarsenal – Leeds").await;
    let fixtures = "[...document.querySelectorAll('.fixture .name')].map(name => name.textContent)";
    assert_eq!(
        page.evaluate(fixtures).await,
        json!(["Burnley – Leeds", "Zarsenal – Leeds"]),
        "in the order of their names"
    );
    assert_eq!(
        page.evaluate("[...document.querySelectorAll('.fixture button')].map(button => button.ariaLabel)").await,
        json!(["Only this: Burnley – Leeds", "Only this: Zarsenal – Leeds"])
    );
    // Other bookmakers spell it differently, and the name does not change with each price.
    app.odds("8301/1x2/sporty", named("Arsenal FC", 1.7)).await;
    app.odds("8301/1x2/sporty", named("Arsenal FC", 1.8)).await;
    page.row_with("sporty", "1.80").await;
    assert_eq!(page.evaluate(fixtures).await, json!(["Burnley – Leeds", "Zarsenal – Leeds"]));
    app.odds("8301/1x2/betpawa", Value::Null).await;
    page.shows("#counted", "2 keys · 2 events").await;
    app.odds("8301/1x2/sporty", named("Arsenal FC", 1.9)).await;
    page.shows(".fixture .name", "Arsenal FC – Leeds").await;
    page.press("/").await;
    page.type_text("zarsenal").await;
    page.shows("#counted", "0 of 2 keys").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn the_state_that_a_page_begins_with_is_no_peak_of_the_rate() {
    const KEYS: usize = 1000;
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    let message = |key: usize| json!({"topic": "odds_updates", "key": key.to_string(), "data": 1});
    app.publish(&json!((0..KEYS).map(message).collect::<Vec<_>>())).await;
    page.open(&app.url("/")).await;
    app.publish(&message(KEYS)).await;
    page.until("/received\\s*1,001/.test(document.querySelector('#topics li').textContent)").await;
    // The rate is drawn with the counts.
    let peak = page.evaluate("Number(document.querySelector('#rate-peak').textContent.replace(/\\D/g, ''))").await;
    assert!(peak.as_u64().unwrap() <= 1, "{peak} messages a second");
    page.is_quiet(&[]).await;
    page.end().await;
}
