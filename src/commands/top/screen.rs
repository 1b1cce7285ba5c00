//! The screen: 80 columns and 24 rows are enough, and more are used.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, Widget as _};

use super::sample::Sample;
use super::view::{Client, View};
use crate::commands::grouped;

/// The width of what is printed without a terminal, and how many clients that lists.
const PRINTED_COLUMNS: u16 = 100;
const PRINTED_CLIENTS: u16 = 20;
/// Rows of the figures at the top, of the drawn rates, and what a table needs beside its rows: a blank one and its head.
const FIGURES: u16 = 6;
const RATES: u16 = 2;
const HEAD: u16 = 2;
/// Topics that are listed at most where clients need the room.
const MOST_TOPICS: u16 = 8;

/// The columns of the table of clients, but for the last, which has what is left.
const CLIENT_WIDTHS: [u16; 5] = [22, 7, 7, 10, 8];
/// The columns between them: a head may have a space of its own.
const BETWEEN_CLIENTS: u16 = 2;

const LABEL: Style = Style::new().dim();
const BAD: Style = Style::new().fg(Color::Red).bold();

/// Draws everything.
pub(super) fn draw(area: Rect, buffer: &mut Buffer, view: &View) {
    if view.now().is_none() {
        let [figures, keys] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
        Paragraph::new(figures_of(view, area.width)).render(figures, buffer);
        return keys_of(view).render(keys, buffer);
    }
    let topics = u16::try_from(view.topics().len()).unwrap_or(MOST_TOPICS).clamp(1, MOST_TOPICS);
    let rows = [Constraint::Length(FIGURES), Constraint::Length(RATES), Constraint::Length(topics + HEAD)];
    let rows = rows.into_iter().chain([Constraint::Min(HEAD + 1), Constraint::Length(1)]);
    let [figures, rates, topics, clients, keys] = Layout::vertical(rows).areas(area);
    Paragraph::new(figures_of(view, area.width)).render(figures, buffer);
    draw_rates(rates, buffer, view);
    topics_of(view).render(topics, buffer);
    draw_clients(clients, buffer, view);
    keys_of(view).render(keys, buffer);
}

/// The same as text, as long as it has to be and without keys.
pub(super) fn print(view: &View) -> String {
    let topics = u16::try_from(view.topics().len()).unwrap_or(MOST_TOPICS);
    let clients = u16::try_from(view.clients().len()).unwrap_or(PRINTED_CLIENTS).clamp(1, PRINTED_CLIENTS);
    let area = |height| Rect::new(0, 0, PRINTED_COLUMNS, height);
    let parts = [FIGURES, topics + HEAD, clients + HEAD].map(|height| Buffer::empty(area(height)));
    let [mut figures, mut listed, mut connected] = parts;
    Paragraph::new(figures_of(view, PRINTED_COLUMNS)).render(figures.area, &mut figures);
    topics_of(view).render(listed.area, &mut listed);
    draw_clients(connected.area, &mut connected, view);
    [figures, listed, connected].iter().map(text).collect()
}

/// What a buffer shows, without styles.
fn text(buffer: &Buffer) -> String {
    let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn figures_of(view: &View, width: u16) -> Vec<Line<'static>> {
    let Some(now) = view.now() else {
        return vec![title(view, width, None), trouble(view).unwrap_or_else(|| "…".into())];
    };
    let rate = |name: &str| shown(view.rate(name));
    let gauge = |name: &str| count(now.metrics.sum(name));
    let bytes = |name: &str| size(now.metrics.sum(name));
    let delay = |name: &str, share| view.quantile(name, share).map_or_else(|| "–".to_owned(), duration);
    let of = |transport| count(now.metrics.of("oddswire_connections", ("transport", transport)));
    let (publish, deliver) = ("oddswire_publish_latency_seconds", "oddswire_delivery_latency_seconds");
    let sent = view.rate("oddswire_sent_bytes_total").map_or_else(|| "–".to_owned(), |rate| size(rate) + "/s");
    vec![
        title(view, width, Some(now)),
        trouble(view).unwrap_or_else(|| state(now)),
        figures(
            "clients",
            [
                (of("websocket"), "websocket"),
                (of("sse"), "sse"),
                (rate("oddswire_connects_total"), "come/s"),
                (rate("oddswire_disconnects_total"), "go/s"),
                (gauge("oddswire_clients_behind"), "behind"),
            ],
        ),
        figures(
            "messages",
            [
                (rate("oddswire_messages_published_total"), "in/s"),
                (rate("oddswire_messages_delivered_total"), "out/s"),
                (sent, "out"),
                (rate("oddswire_messages_conflated_total"), "skipped/s"),
            ],
        ),
        figures(
            "latency",
            [
                (delay(publish, 0.5), "p50"),
                (delay(publish, 0.99), "p99 publish"),
                (delay(deliver, 0.5), "p50"),
                (delay(deliver, 0.99), "p99 deliver"),
            ],
        ),
        figures(
            "memory",
            [
                (bytes("oddswire_process_resident_memory_bytes"), "process"),
                (bytes("oddswire_outbox_bytes"), "on the way"),
                (bytes("oddswire_outbox_bytes_max"), "slowest"),
                (gauge("oddswire_process_open_fds"), "files"),
            ],
        ),
    ]
}

fn title(view: &View, width: u16, now: Option<&Sample>) -> Line<'static> {
    let left = format!(" oddswire top  {}", view.url);
    let right =
        now.map_or_else(String::new, |now| format!("version {}  up {} ", now.version(), duration(now.uptime())));
    let gap = usize::from(width).saturating_sub(left.chars().count() + right.chars().count());
    Line::from(format!("{left}{:gap$}{right}", "")).style(Style::new().reversed())
}

/// Why what is shown is old.
fn trouble(view: &View) -> Option<Line<'static>> {
    view.trouble.as_ref().map(|reason| Line::styled(format!(" {reason}"), BAD))
}

fn state(now: &Sample) -> Line<'static> {
    let is = |name: &str| now.metrics.sum(name) > 0.0;
    let said = |good: bool, yes: &'static str, no: &'static str| {
        if good { Span::styled(yes, Style::new().green()) } else { Span::styled(no, BAD) }
    };
    let lag = now.metrics.sum("oddswire_engine_lag_messages");
    let lag = if lag > 0.0 { format!("  {} messages not delivered yet", count(lag)) } else { String::new() };
    Line::from(vec![
        Span::styled(format!(" {:<10}", "server"), LABEL),
        said(is("oddswire_ready"), "ready", "NOT READY: it takes no traffic"),
        Span::raw("  "),
        said(is("oddswire_engine_available"), "publishing works", "PUBLISHING IS REFUSED: the engine is away"),
        Span::raw(lag),
    ])
}

/// A line of figures: each with what it counts.
fn figures<const N: usize>(label: &str, figures: [(String, &'static str); N]) -> Line<'static> {
    let mut spans = vec![Span::styled(format!(" {label:<10}"), LABEL)];
    for (value, what) in figures {
        spans.push(Span::styled(value, Style::new().bold()));
        spans.push(Span::styled(format!(" {what}   "), LABEL));
    }
    Line::from(spans)
}

fn draw_rates(area: Rect, buffer: &mut Buffer, view: &View) {
    let [label, chart, peak] =
        Layout::horizontal([Constraint::Length(11), Constraint::Min(10), Constraint::Length(18)]).areas(area);
    Paragraph::new(vec![Line::raw(""), Line::styled(" in/s", LABEL)]).render(label, buffer);
    let room = view.rates.len().saturating_sub(usize::from(chart.width));
    let most = view.rates.iter().skip(room).copied().max().unwrap_or(0);
    let rates: Vec<u64> = view.rates.iter().skip(room).copied().collect();
    Sparkline::default().data(rates).max(most.max(1)).style(Style::new().cyan()).render(chart, buffer);
    let peak_line = Line::styled(format!(" peak {}", grouped(most)), LABEL);
    Paragraph::new(vec![Line::raw(""), peak_line]).render(peak, buffer);
}

fn heading<const N: usize>(names: [&'static str; N], right: [bool; N]) -> Row<'static> {
    let cell = |(name, right): (&'static str, bool)| {
        let line = Line::styled(name, Style::new().bold());
        Cell::from(if right { line.right_aligned() } else { line })
    };
    Row::new(names.into_iter().zip(right).map(cell)).top_margin(1)
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn topics_of(view: &View) -> Table<'static> {
    let rows = view.topics().into_iter().map(|topic| {
        Row::new([
            Cell::from(format!(" {}", topic.name)),
            right(count(topic.subscribers)),
            right(count(topic.keys)),
            right(count(topic.history)),
            right(shown(topic.rate)),
        ])
    });
    let widths = [
        Constraint::Min(24),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let names = [" TOPIC", "SUBSCRIBERS", "KEYS", "HISTORY", "IN/S"];
    Table::new(rows, widths).header(heading(names, [false, true, true, true, true]).style(LABEL)).column_spacing(1)
}

fn draw_clients(area: Rect, buffer: &mut Buffer, view: &View) {
    let clients = view.clients();
    let room = usize::from(area.height.saturating_sub(HEAD));
    let first = view.scroll.min(clients.len().saturating_sub(room));
    let taken = CLIENT_WIDTHS.iter().map(|width| width + BETWEEN_CLIENTS).sum();
    let left = usize::from(area.width.saturating_sub(taken));
    let rows: Vec<Row<'_>> = clients.iter().skip(first).take(room).map(|one| client(one, left)).collect();
    let rows = if clients.is_empty() { vec![Row::new([" nobody is connected"]).style(LABEL)] } else { rows };
    let widths = CLIENT_WIDTHS.map(Constraint::Length).into_iter().chain([Constraint::Min(8)]);
    let names = [" CLIENT", "AGE", "BEHIND", "ON THE WAY", "SENT/S", "SUBSCRIPTIONS"];
    Table::new(rows, widths)
        .header(heading(names, [false, true, true, true, true, false]).style(LABEL))
        .column_spacing(BETWEEN_CLIENTS)
        .render(area, buffer);
}

fn client(client: &Client<'_>, width: usize) -> Row<'static> {
    let facts = client.facts;
    // For people only: a float has enough digits.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let [age, outbox] = [facts.age_ms as f64 / 1000.0, facts.outbox_bytes as f64];
    let row = Row::new([
        Cell::from(cut(&format!(" {}", facts.peer.as_deref().unwrap_or(&facts.id)), usize::from(CLIENT_WIDTHS[0]))),
        right(duration(age)),
        right(grouped(facts.behind)),
        right(size(outbox)),
        right(client.rate.map_or_else(|| "–".to_owned(), size)),
        Cell::from(cut(&facts.subscriptions.join(", "), width)),
    ]);
    if facts.behind > 0 { row.style(Style::new().yellow()) } else { row }
}

/// A text that is as long as its column at most, and says where it is longer.
fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width.saturating_sub(1)) {
        Some((at, char)) if at + char.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}

fn keys_of(view: &View) -> Line<'static> {
    let key = |key: &'static str, what: String| {
        [Span::styled(format!(" {key} "), Style::new().bold()), Span::styled(what + " ", LABEL)]
    };
    let pause = if view.paused { "PAUSED, go on" } else { "pause" };
    let shown = [
        key("q", "quit".to_owned()),
        key("s", format!("sort: {}", view.sort.name())),
        key("p", pause.to_owned()),
        key("↑↓", "scroll".to_owned()),
    ];
    Line::from(shown.into_iter().flatten().collect::<Vec<_>>())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
fn count(value: f64) -> String {
    grouped(value as u64)
}

/// A rate: with a decimal where it is small; a dash where it is not known.
fn shown(rate: Option<f64>) -> String {
    match rate {
        None => "–".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => count(rate.round()),
    }
}

/// Bytes in the unit that suits them.
fn size(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Seconds in the unit that suits them.
fn duration(seconds: f64) -> String {
    match seconds {
        ..0.01 => format!("{:.1} ms", seconds * 1000.0),
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..60.0 => format!("{seconds:.0} s"),
        ..3_600.0 => format!("{}m {:02}s", (seconds / 60.0).floor(), (seconds % 60.0).floor()),
        ..86_400.0 => format!("{}h {:02}m", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor()),
        _ => format!("{}d {:02}h", (seconds / 86_400.0).floor(), (seconds % 86_400.0 / 3600.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_enough_for_their_columns() {
        for (seconds, text) in [
            (0.000_25, "0.2 ms"),
            (0.123, "123 ms"),
            (5.2, "5 s"),
            (61.0, "1m 01s"),
            (3_660.0, "1h 01m"),
            (90_000.0, "1d 01h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (bytes, text) in
            [(0.0, "0 B"), (1_023.0, "1023 B"), (1_536.0, "1.5 KiB"), (1e9, "954 MiB"), (1e13, "9313 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((shown(None).as_str(), shown(Some(0.0)).as_str(), shown(Some(1.25)).as_str()), ("–", "0", "1.2"));
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        let view = View::new("http://127.0.0.1:9100".to_owned());
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
            let area = Rect::new(0, 0, width, height);
            let mut buffer = Buffer::empty(area);
            draw(area, &mut buffer, &view);
            assert!(buffer[(0, 0)].symbol() == " ", "{width}x{height}");
        }
    }
}
