//! The accessibility of the console in a real browser.

use serde_json::{Value, json};

use crate::harness::App;
use crate::harness::page::{Page, prices, progress};

#[tokio::test]
async fn page_is_fully_usable_with_the_keyboard() {
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
        assert_eq!(at["shown"], true, "{at} has the focus, so it must be visible and outlined");
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
    // The link scrolls up, and the next frame draws the first rows.
    page.until("document.querySelector('.row[tabindex=\"0\"]')?.getAttribute('aria-rowindex') === '2'").await;
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
        assert_eq!(page.evaluate(rect).await, true, "{name} is on the screen");
    }
    page.press("Enter").await;
    page.shows("#message", "8300/1x2/maker001").await;
    page.press("Escape").await;
    assert_eq!(page.evaluate(active).await, "maker001", "the focus returns to the row");
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
    assert_eq!(page.evaluate(undisturbed).await, true, "letters typed into a field do not trigger shortcuts");
    page.evaluate("document.querySelector('#shortcuts').click(), document.activeElement.blur()").await;
    page.press("r").await;
    assert_eq!(page.evaluate("document.querySelector('dialog[open]')").await, Value::Null, "shortcuts are off");
    page.is_quiet(&[]).await;
    page.end().await;
}

#[tokio::test]
async fn page_has_no_barriers_on_wide_and_narrow_screens() {
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
        // Wait for the earlier messages, so that the next price changes an existing row.
        page.shows(".card .phase", "Failed").await;
        page.row_with("betpawa", &format!("home {:.2}", 0.85 + round)).await;
        app.odds("8301/1x2/betpawa", prices(1.85 + round, 4.2 - round)).await;
        page.until("document.querySelector('.up') && document.querySelector('.down')").await;
        let what = format!("{width} pixels wide");
        page.has_no_barrier(&what).await;
        let too_wide = "[...document.querySelectorAll('body *')].filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).length";
        assert_eq!(page.evaluate(too_wide).await, 0, "{what}: no element extends beyond the screen");
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
