//! The console in a real browser: cut, refused and proxied connections.

use oddswire::message::Payload;
use serde_json::json;
use serde_json::value::RawValue;

use crate::harness::link::{Flow, Link};
use crate::harness::page::{AWAY, Page, prices, progress};
use crate::harness::program::Port;
use crate::harness::proxy::{Proxy, Software};
use crate::harness::{App, jwt};

#[tokio::test]
async fn page_resumes_after_a_cut_and_reports_the_catch_up() {
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
    assert_eq!(page.evaluate("document.querySelector('#gaps').childElementCount").await, 0, "no gap is shown");
    page.is_quiet(&AWAY).await;
    page.end().await;
}

#[tokio::test]
async fn page_reconnects_after_a_restart_and_shows_the_new_state() {
    let Some(mut page) = Page::start().await else { return };
    let port = Port::free();
    let app = port.serve().await;
    page.open(&port.url("/")).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    app.publish(&progress("starting", 0, 3)).await;
    page.row("betpawa").await;
    page.shows(".card .phase", "starting").await;
    app.post("/api/broadcast", "application/json", r#"{"type":"maintenance","data":"in a minute"}"#).await;
    page.shows("#timeline li", "Broadcast: maintenance\"in a minute\"").await;
    app.stop().await;
    page.until("document.querySelector('#status').dataset.state !== 'live'").await;
    page.shows("#timeline li", "The server shuts down").await;

    let app = port.serve().await;
    // The server runs on this thread and accepts connections only when this test waits. So the page cannot connect
    // before these two messages are published.
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
async fn gap_is_shown_until_the_user_dismisses_it() {
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
async fn forbidden_page_shows_the_reason_and_retries_on_request() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(jwt::required).await;
    page.look(&app.url("/?topics=scrape_progress"), 1440, 900).await;
    page.shows("#token", "requires a token").await;
    for (claim, shown) in [("odds_updates", "Not connected"), ("scrape_progress", "No message with a key yet")] {
        page.type_text(&jwt::token(&jwt::claims(&[claim]))).await;
        page.press("Enter").await;
        page.shows("#empty", shown).await;
        if claim == "odds_updates" {
            page.shows("#empty", "403").await;
            page.has_no_barrier("a refused page").await;
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
async fn page_asks_for_a_missing_token_and_keeps_it_in_its_tab() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(jwt::required).await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    page.look(&app.url("/"), 390, 844).await;
    page.shows("#token", "requires a token").await;
    page.has_no_barrier("the token dialog").await;
    for (token, why) in
        [("no token".to_owned(), "The server refuses the token"), (jwt::expiring(-3600), "The token has expired")]
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
async fn invalid_topic_in_the_url_is_shown_with_a_way_to_all_topics() {
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
async fn unknown_topic_in_the_url_is_shown_with_a_way_to_all_topics() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    app.odds("8301/1x2/betpawa", prices(1.85, 4.2)).await;
    page.look(&app.url("/?topics=typo,odds"), 1440, 900).await;
    page.shows("#empty-title", "These topics cannot be shown").await;
    page.shows("#empty-text", "no such topic: 'odds', 'typo'; the topics are: ").await;
    page.shows("#status", "Refused").await;
    app.connections(0).await;
    page.has_no_barrier("unknown topics").await;
    page.click("#empty-action").await;
    page.is_live().await;
    page.row_with("betpawa", "home 1.85").await;
    page.until("location.search === ''").await;

    page.look(&app.url("/?topics=typo,odds_updates"), 1440, 900).await;
    page.is_live().await;
    page.row_with("betpawa", "home 1.85").await;
    page.shows("#timeline .gap", "no such topic: 'typo'").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn page_works_under_a_path_prefix_that_a_proxy_removes() {
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
async fn lost_broadcasts_are_shown_until_the_user_dismisses_them() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let link = Link::to(app.address).await;
    page.open(&format!("http://{}/", link.address)).await;
    link.set(Flow::Stalled);
    // First fill the buffers between the server and the page.
    let notice = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let mut lost = 0;
    while lost < 2 {
        let answer = app.post("/api/broadcast", "application/json", notice.clone()).await;
        lost += u64::from(answer.body["connections"] == 0);
    }
    link.set(Flow::Open);
    page.shows("#gaps", "Gap in the broadcasts: 2 broadcasts are lost").await;
    // One catch-up may report both lost broadcasts, or two catch-ups report one each.
    page.shows("#timeline .gap", "Broadcasts: a gap, messages are lost").await;
    page.click("#gaps button").await;
    assert_eq!(page.evaluate("document.querySelector('#gaps').childElementCount").await, 0);
    page.is_quiet(&[]).await;
    page.end().await;
}
