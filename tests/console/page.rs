//! The console in a real browser: how the page displays published messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::App;
use crate::harness::page::{Page, prices, progress};

/// A JavaScript expression for a number in a key's row: the class of the number, followed by its sign (such as `up▲`).
fn moved(last: &str, name: &str) -> String {
    let [last, name] = [last, name].map(|text| json!(text));
    format!(
        "(() => {{ const row = [...document.querySelectorAll('.row')].find(r => r.querySelector('.name').textContent === {last}); \
         const cell = [...row.querySelectorAll('.cell')].find(c => c.querySelector('.what').textContent === {name}); \
         return cell.className.split(' ').slice(1, 2).join('') + cell.querySelector('.move').textContent; }})()"
    )
}

#[tokio::test]
async fn page_shows_published_messages_immediately() {
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
    assert!(row.starts_with("1x2 / betpawa away 4.20 home 1.85 "), "event_id is not shown as a price: {row}");

    app.odds("8301/1x2/betpawa", prices(1.9, 4.0)).await;
    page.until(&format!("{} === 'up▲' && {} === 'down▼'", moved("betpawa", "home"), moved("betpawa", "away"))).await;
    app.odds("8301/1x2/sporty", json!({"outcomes": [{"name": "Over", "price": 2.1, "point": 3.5}]})).await;
    page.until(&format!("{} === 'other◆'", moved("sporty", "Over"))).await;
    app.odds("8301/1x2/sporty", Value::Null).await;
    page.shows("#counted", "2 keys · 2 events").await;
    // The page updates the ages once a second.
    page.until("/^[1-9].* ago$/.test(document.querySelector('.row:not(.fixture) .age').textContent)").await;

    page.shows("#topics li", "odds_updates").await;
    page.until("/subscribers\\s+1\\s+keys\\s+2\\s+in history\\s+\\d\\s+received\\s+6/.test(document.querySelector('#topics li').innerText)").await;
    page.until("document.querySelector('#rate-line').getAttribute('points').split(' ').some(point => Number(point.split(',')[1]) < 19)").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn page_shows_the_progress_of_a_scrape() {
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
    assert_eq!(page.evaluate(bar).await, json!([1, 3, ""]), "the scrape goes on after one platform is completed");
    app.publish(&json!({"topic": "scrape_progress", "type": "note", "data": ["anything"]})).await;
    page.shows(".card", "anything").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn paused_page_does_not_change_and_then_shows_the_latest_state() {
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
async fn filter_matches_every_word_in_the_key_or_the_event_name() {
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
async fn page_narrowed_to_one_event_offers_matching_commands() {
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
    page.until("document.querySelector('#announcer').textContent === 'At least one topic must stay selected.'").await;
    assert_eq!(
        page.evaluate("[...document.querySelectorAll('#topics input')].map(i => i.checked)").await,
        json!([true, false])
    );
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn page_shows_any_configured_topic_one_at_a_time() {
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
    assert_eq!(page.evaluate(quotes).await, true, "quotes in a key are escaped in the commands");

    let made = "document.querySelectorAll('u, i, script:not([src]), img:not(.brand img)').length";
    assert_eq!(page.evaluate(made).await, 0);
    assert_eq!(page.evaluate("window.hit ?? null").await, Value::Null);
    let longest = "Math.max(...[...document.querySelectorAll('*')].filter(e => e.childElementCount === 0).map(e => e.textContent.length))";
    assert!(page.evaluate(longest).await.as_u64().unwrap() < 21_000, "long texts are cut");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn numbers_in_any_data_get_names() {
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
async fn each_frame_changes_a_row_once_at_2000_updates_a_second() {
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
    // Most messages of each batch are for the twenty keys that are visible at first.
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    for round in 1..=12 {
        ticks.tick().await;
        let batch =
            (0..BATCH).map(|at| message(if at % 5 == 0 { round * 200 + at } else { at % 20 }, round * BATCH + at));
        app.publish(&json!(batch.collect::<Vec<_>>())).await;
    }
    page.until("/received\\s*9,100/.test(document.querySelector('#topics li').textContent)").await;
    let last = 12 * BATCH + BATCH - 1;
    // The page shows the last message.
    page.row_with("maker0019", &last.to_string()).await;
    let seen = page.evaluate("({...seen, rows: document.querySelectorAll('.row').length})").await;
    let count = |name: &str| seen[name].as_f64().unwrap();
    assert!(count("frames") > 12.0, "{seen}");
    assert!(count("rows") < 60.0, "only visible rows exist: {seen}");
    // One update of a row makes six mutations. If the page updated a row for each of the 400 messages of a batch, it
    // would make 2,400.
    assert!(count("most") > 20.0 && count("most") < 400.0, "a frame updates each row once: {seen}");
    assert!(count("longest") < 3000.0, "no task blocks the page for seconds: {seen}");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn drawer_keeps_fewer_large_messages_but_each_in_full() {
    const CHARACTERS: usize = 300_000;
    let Some(mut page) = Page::start().await else { return };
    let app = App::with(|config| config.publish_message_bytes = CHARACTERS + 1000).await;
    page.open(&app.url("/")).await;
    for number in 1..=9 {
        app.odds(&format!("8301/large/{number}"), format!("{}end of {number}", "x".repeat(CHARACTERS))).await;
        page.shows("#counted", &format!("{number} key")).await;
    }
    page.press("r").await;
    // The drawer keeps at most two million characters of messages.
    page.evaluate("document.querySelector('#raw-filter').focus()").await;
    for (text, found) in [("end of ", "6 of the last "), ("4", "1 of the last ")] {
        page.type_text(text).await;
        page.shows("#raw-counted", found).await;
    }
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn event_name_follows_the_key_that_named_it_first() {
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
    // The page sorts the events by name with some delay.
    page.until(&format!("({fixtures}).join() === 'Burnley – Leeds,Zarsenal – Leeds'")).await;
    assert_eq!(
        page.evaluate("[...document.querySelectorAll('.fixture button')].map(button => button.ariaLabel)").await,
        json!(["Only this: Burnley – Leeds", "Only this: Zarsenal – Leeds"])
    );
    // Another bookmaker spells the event's name differently. The page keeps the first name, also after new prices.
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
async fn changing_name_shows_at_once_and_sorts_once_a_second() {
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    page.open(&app.url("/")).await;
    app.odds("8302/1x2/betpawa", json!({"event_name": "Minute 10", "home": 1.5})).await;
    page.shows(".fixture .name", "Minute 10").await;
    app.odds("8301/1x2/betpawa", json!({"event_name": "Minute 0", "home": 1.5})).await;
    page.shows(".fixture .name", "Minute 0").await;
    // Each sort sets the attribute `aria-rowcount`, so count its changes.
    page.evaluate(
        "window.sorted = {times: 0, since: performance.now()}; \
         new MutationObserver(list => sorted.times += list.length) \
             .observe(document.querySelector('#grid'), {attributeFilter: ['aria-rowcount']})",
    )
    .await;
    for minute in 1..=30 {
        app.odds("8301/1x2/betpawa", json!({"event_name": format!("Minute {minute}."), "home": 1.5})).await;
        page.shows(".fixture .name", &format!("Minute {minute}.")).await;
    }
    let names = "[...document.querySelectorAll('.fixture .name')].map(name => name.textContent)";
    page.until(&format!("({names}).join() === 'Minute 10,Minute 30.'")).await;
    let sorted = page.evaluate("({times: sorted.times, seconds: (performance.now() - sorted.since) / 1000})").await;
    let [times, seconds] = ["times", "seconds"].map(|of| sorted[of].as_f64().unwrap());
    assert!(times >= 1.0 && times <= seconds + 1.0, "{sorted}");
    // The field `event` describes an incident, so it is not used as the event's name.
    for (data, shown) in
        [(json!({"event": "goal", "home": 1.5}), "home 1.50"), (json!({"home": "1.6", "away": "4.2"}), "away 4.20")]
    {
        app.odds("8303/live", data).await;
        page.row_with("live", shown).await;
    }
    page.shows(".fixture .name", "8303").await;
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn initial_state_is_not_counted_in_the_message_rate() {
    const KEYS: usize = 1000;
    let Some(mut page) = Page::start().await else { return };
    let app = App::start().await;
    let message = |key: usize| json!({"topic": "odds_updates", "key": key.to_string(), "data": 1});
    app.publish(&json!((0..KEYS).map(message).collect::<Vec<_>>())).await;
    page.open(&app.url("/")).await;
    app.publish(&message(KEYS)).await;
    page.until("/received\\s*1,001/.test(document.querySelector('#topics li').textContent)").await;
    // The page updates the rate together with the counts.
    let peak = page.evaluate("Number(document.querySelector('#rate-peak').textContent.replace(/\\D/g, ''))").await;
    assert!(peak.as_u64().unwrap() <= 1, "{peak} messages a second");
    page.is_quiet(&[]).await;
    page.end().await;
}
