//! Draws the screen. 80 columns and 24 rows are usually enough. A narrower screen leaves out the least important figures
//! and columns, and never cuts a number.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, Widget as _, Wrap};

use super::sample::Sample;
use super::units::{duration, rate, short, size, whole};
use super::view::{ClientRow, View};
use crate::commands::{counted, grouped};

/// The width of the printed output if there is no terminal, in columns.
const PRINTED_COLUMNS: u16 = 100;
/// The maximum number of clients in the printed output if there is no terminal.
const PRINTED_CLIENTS: u16 = 20;
/// The number of rows for the figures at the top.
const FIGURES: u16 = 6;
/// The number of rows for the chart.
const RATES: u16 = 2;
/// The number of rows above a table's content: a blank row and the header.
const HEAD: u16 = 2;
/// The maximum number of topics on a screen that also shows clients.
const MOST_TOPICS: u16 = 8;

const LABEL: Style = Style::new().dim();
const BAD: Style = Style::new().fg(Color::Red).bold();

/// A column of a table.
struct Column {
    head: &'static str,
    width: u16,
    /// Whether the column is aligned to the right, because it has numbers.
    right: bool,
    /// Columns with a lower rank are left out first.
    rank: u8,
}

const fn column(head: &'static str, width: u16, right: bool, rank: u8) -> Column {
    Column { head, width, right, rank }
}

/// The columns of the list of topics. The name becomes wider if there is room.
const TOPIC_COLUMNS: [Column; 5] = [
    column(" TOPIC", 16, false, 5),
    column("SUBSCRIBERS", 11, true, 4),
    column("KEYS", 9, true, 2),
    column("HISTORY", 9, true, 1),
    column("IN/S", 9, true, 3),
];
/// The columns of the list of clients. The subscriptions become wider if there is room.
const CLIENT_COLUMNS: [Column; 6] = [
    column(" CLIENT", 22, false, 6),
    column("AGE", 7, true, 1),
    column("BEHIND", 7, true, 5),
    column("QUEUED", 8, true, 4),
    column("SENT/S", 8, true, 2),
    column("SUBSCRIPTIONS", 13, false, 3),
];
/// The number of blank characters between two columns of a table.
const SPACING: u16 = 2;

/// Draws the whole screen.
pub(super) fn draw(area: Rect, buffer: &mut Buffer, view: &View) {
    if view.now().is_none() {
        let [figures, keys] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
        Paragraph::new(figures_of(view, area.width)).wrap(Wrap { trim: false }).render(figures, buffer);
        return keys_of(view, area.width).render(keys, buffer);
    }
    let topics = u16::try_from(view.topics().len()).unwrap_or(MOST_TOPICS).clamp(1, MOST_TOPICS);
    let rows = [Constraint::Length(FIGURES), Constraint::Length(RATES), Constraint::Length(topics + HEAD)];
    let rows = rows.into_iter().chain([Constraint::Min(HEAD + 1), Constraint::Length(1)]);
    let [figures, rates, topics, clients, keys] = Layout::vertical(rows).areas(area);
    Paragraph::new(figures_of(view, area.width)).render(figures, buffer);
    draw_rates(rates, buffer, view);
    draw_topics(topics, buffer, view);
    draw_clients(clients, buffer, view);
    keys_of(view, area.width).render(keys, buffer);
}

/// The screen as text, without the chart and the list of keys. Its height depends on the length of the tables.
pub(super) fn print(view: &View) -> String {
    let topics = u16::try_from(view.topics().len()).unwrap_or(MOST_TOPICS);
    let clients = u16::try_from(view.clients().len()).unwrap_or(PRINTED_CLIENTS).clamp(1, PRINTED_CLIENTS);
    let area = |height| Rect::new(0, 0, PRINTED_COLUMNS, height);
    let parts = [FIGURES, topics + HEAD, clients + HEAD].map(|height| Buffer::empty(area(height)));
    let [mut figures, mut listed, mut connected] = parts;
    Paragraph::new(figures_of(view, PRINTED_COLUMNS)).render(figures.area, &mut figures);
    draw_topics(listed.area, &mut listed, view);
    draw_clients(connected.area, &mut connected, view);
    [figures, listed, connected].iter().map(text).collect()
}

/// The text in a buffer, without styles.
fn text(buffer: &Buffer) -> String {
    let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn figures_of(view: &View, width: u16) -> Vec<Line<'static>> {
    let Some(now) = view.now() else {
        // The screen shows nothing but the reason, so the reason is wrapped instead of cut.
        let reason = view.trouble.as_ref().map(|reason| Line::styled(format!(" {reason}"), BAD));
        return vec![title(view, width, None), reason.unwrap_or_else(|| "…".into())];
    };
    let rise = |name: &str| rate(view.rate(name));
    let gauge = |name: &str| grouped(whole(now.metrics.sum(name)));
    let bytes = |name: &str| size(now.metrics.sum(name));
    let delay = |name: &str, share| view.quantile(name, share).map_or_else(|| "–".to_owned(), duration);
    let delays = |name: &str| format!("{} / {}", delay(name, 0.5), delay(name, 0.99));
    let of = |transport| grouped(whole(now.metrics.of("oddswire_connections", ("transport", transport))));
    let sent = view.rate("oddswire_sent_bytes_total").map_or_else(|| "–".to_owned(), |rate| size(rate) + "/s");
    let clients = vec![
        (of("websocket"), "websocket"),
        (of("sse"), "sse"),
        (gauge("oddswire_clients_behind"), "behind"),
        (rise("oddswire_connects_total"), "come/s"),
        (rise("oddswire_disconnects_total"), "go/s"),
    ];
    let messages = vec![
        (rise("oddswire_messages_published_total"), "in/s"),
        (rise("oddswire_messages_delivered_total"), "out/s"),
        (sent, "out"),
        (rise("oddswire_messages_conflated_total"), "skipped/s"),
    ];
    let latency = vec![
        (delays("oddswire_delivery_latency_seconds"), "deliver p50/p99"),
        (delays("oddswire_publish_latency_seconds"), "publish p50/p99"),
    ];
    let memory = vec![
        (bytes("oddswire_process_resident_memory_bytes"), "process"),
        (bytes("oddswire_outbox_bytes"), "queued"),
        (bytes("oddswire_outbox_bytes_max"), "slowest"),
        (gauge("oddswire_process_open_fds"), "files"),
    ];
    let figures = [("clients", clients), ("messages", messages), ("latency", latency), ("memory", memory)];
    let mut lines = vec![title(view, width, Some(now)), trouble(view, width).unwrap_or_else(|| state(now, width))];
    lines.extend(figures.into_iter().map(|(label, figures)| line_of_figures(label, figures, width)));
    lines
}

fn title(view: &View, width: u16, now: Option<&Sample>) -> Line<'static> {
    let width = usize::from(width);
    let left = cut(&format!(" oddswire top  {}", view.url), width);
    let room = width - left.chars().count();
    let rights = now.map_or_else(Vec::new, |now| {
        let up = format!("up {} ", duration(now.uptime()));
        vec![format!("version {}  {up}", now.version()), up]
    });
    let right = rights.into_iter().find(|right| right.chars().count() < room).unwrap_or_default();
    Line::from(format!("{left}{right:>room$}")).style(Style::new().reversed())
}

/// A line that says why the figures are old.
fn trouble(view: &View, width: u16) -> Option<Line<'static>> {
    view.trouble.as_ref().map(|reason| Line::styled(cut(&format!(" {reason}"), usize::from(width)), BAD))
}

fn state(now: &Sample, width: u16) -> Line<'static> {
    let is = |name: &str| now.metrics.sum(name) > 0.0;
    let said = |good: bool, yes: &'static str, no: &'static str| {
        if good { Span::styled(yes, Style::new().green()) } else { Span::styled(no, BAD) }
    };
    let lag = whole(now.metrics.sum("oddswire_engine_lag_messages"));
    let lag = (lag > 0).then(|| Span::raw(format!("{} not delivered yet", counted(lag, "message"))));
    let parts = [
        said(is("oddswire_ready"), "ready", "NOT READY"),
        said(is("oddswire_engine_available"), "publishing works", "PUBLISHING REFUSED: no storage engine"),
    ];
    let parts = parts.into_iter().chain(lag).map(|part| vec![part]);
    fitting(label("server"), parts, "  ", width)
}

/// A line of figures, each with its name.
fn line_of_figures(name: &str, figures: Vec<(String, &'static str)>, width: u16) -> Line<'static> {
    let figures = figures
        .into_iter()
        .map(|(value, what)| vec![Span::styled(value, Style::new().bold()), Span::styled(format!(" {what}"), LABEL)]);
    fitting(label(name), figures, "   ", width)
}

fn label(name: &str) -> Span<'static> {
    Span::styled(format!(" {name:<10}"), LABEL)
}

/// A line with a label and as many of the parts as fit, in their order.
fn fitting(
    label: Span<'static>,
    parts: impl IntoIterator<Item = Vec<Span<'static>>>,
    between: &'static str,
    width: u16,
) -> Line<'static> {
    let mut line = Line::from(label);
    for (at, part) in parts.into_iter().enumerate() {
        let between = Span::raw(if at > 0 { between } else { "" });
        let needed = line.width() + between.width() + part.iter().map(Span::width).sum::<usize>();
        if needed > usize::from(width) {
            break;
        }
        line.spans.push(between);
        line.spans.extend(part);
    }
    line
}

fn draw_rates(area: Rect, buffer: &mut Buffer, view: &View) {
    let [label, chart, peak] =
        Layout::horizontal([Constraint::Length(11), Constraint::Min(10), Constraint::Length(18)]).areas(area);
    Paragraph::new(vec![Line::raw(""), Line::styled(" in/s", LABEL)]).render(label, buffer);
    let hidden = view.rates.len().saturating_sub(usize::from(chart.width));
    let rates: Vec<u64> = view.rates.iter().skip(hidden).copied().collect();
    let most = rates.iter().copied().max().unwrap_or(0);
    Sparkline::default().data(rates).max(most.max(1)).style(Style::new().cyan()).render(chart, buffer);
    let peak_line = Line::styled(format!(" peak {}", grouped(most)), LABEL);
    Paragraph::new(vec![Line::raw(""), peak_line]).render(peak, buffer);
}

/// Chooses the columns that fit into this width: leaves out the columns of the lowest rank first. Also returns the
/// unused width.
fn columns_for<const N: usize>(columns: &[Column; N], width: u16) -> ([bool; N], u16) {
    let mut shown = [true; N];
    loop {
        let widths = columns.iter().zip(shown).filter(|(_, shown)| *shown).map(|(column, _)| column.width + SPACING);
        let needed = widths.sum::<u16>().saturating_sub(SPACING);
        let least = (0..N).filter(|at| shown[*at]).min_by_key(|at| columns[*at].rank);
        match least {
            Some(least) if needed > width && shown.iter().filter(|shown| **shown).count() > 1 => shown[least] = false,
            _ => return (shown, width.saturating_sub(needed)),
        }
    }
}

/// Draws a table. `wide` is the index of the column that gets the unused width. `rows` is called with the width of that
/// column.
fn draw_table<const N: usize>(
    area: Rect,
    buffer: &mut Buffer,
    columns: &[Column; N],
    wide: usize,
    rows: impl FnOnce(u16) -> Vec<([String; N], Style)>,
) {
    let (shown, left) = columns_for(columns, area.width);
    let width = |at: usize| columns[at].width + if at == wide { left } else { 0 };
    let line = |at: usize, text: String| if columns[at].right { Line::from(text).right_aligned() } else { text.into() };
    let row = |texts: [String; N]| {
        let texts = texts.into_iter().enumerate().filter(|(at, _)| shown[*at]);
        Row::new(texts.map(|(at, text)| Cell::from(line(at, text))).collect::<Vec<_>>())
    };
    let header = row(std::array::from_fn(|at| columns[at].head.to_owned()));
    let widths = (0..N).filter(|at| shown[*at]).map(|at| Constraint::Length(width(at)));
    Table::new(rows(width(wide)).into_iter().map(|(texts, style)| row(texts).style(style)), widths)
        .header(header.style(LABEL.bold()).top_margin(1))
        .column_spacing(SPACING)
        .render(area, buffer);
}

fn draw_topics(area: Rect, buffer: &mut Buffer, view: &View) {
    draw_table(area, buffer, &TOPIC_COLUMNS, 0, |width| {
        let row = |topic: super::view::TopicRates| {
            let count = |value: f64| short(whole(value));
            let name = cut(&format!(" {}", topic.name), usize::from(width));
            [name, count(topic.subscribers), count(topic.keys), count(topic.history), rate(topic.rate)]
        };
        view.topics().into_iter().map(|topic| (row(topic), Style::new())).collect()
    });
}

fn draw_clients(area: Rect, buffer: &mut Buffer, view: &View) {
    let clients = view.clients();
    let room = usize::from(area.height.saturating_sub(HEAD));
    let first = view.scroll.min(clients.len().saturating_sub(room));
    draw_table(area, buffer, &CLIENT_COLUMNS, 5, |width| {
        if clients.is_empty() {
            let texts = std::array::from_fn(|at| if at == 0 { " no clients".to_owned() } else { String::new() });
            return vec![(texts, LABEL)];
        }
        clients.iter().skip(first).take(room).map(|one| client(one, usize::from(width))).collect()
    });
}

fn client(client: &ClientRow<'_>, width: usize) -> ([String; 6], Style) {
    let facts = client.facts;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people needs no precision")]
    let [age, queued] = [facts.age_ms as f64 / 1000.0, facts.outbox_bytes as f64];
    let name = format!(" {}", facts.peer.as_deref().unwrap_or(&facts.id));
    let texts = [
        cut(&name, usize::from(CLIENT_COLUMNS[0].width)),
        duration(age),
        short(facts.behind),
        size(queued),
        client.rate.map_or_else(|| "–".to_owned(), size),
        cut(&facts.subscriptions.join(", "), width),
    ];
    (texts, if facts.behind > 0 { Style::new().yellow() } else { Style::new() })
}

/// Cuts a text to the width of its column; a cut text ends with `…`.
fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width.saturating_sub(1)) {
        Some((at, char)) if at + char.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}

fn keys_of(view: &View, width: u16) -> Line<'static> {
    let key = |key: &'static str, what: String| {
        vec![Span::styled(format!(" {key} "), Style::new().bold()), Span::styled(what + " ", LABEL)]
    };
    let pause = if view.paused { "PAUSED, resume" } else { "pause" };
    let shown = [
        key("q", "quit".to_owned()),
        key("p", pause.to_owned()),
        key("s", format!("sort: {}", view.sort.name())),
        key("↑↓", "scroll".to_owned()),
    ];
    fitting(Span::raw(""), shown, "", width)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::super::exposition::Exposition;
    use super::super::sample::ConnectionFacts;
    use super::*;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        draw(area, &mut buffer, view);
        text(&buffer)
    }

    /// The view of a busy server, in which every figure is about as long as it can become.
    fn busy() -> View {
        let mut view = View::new("http://127.0.0.1:9100".to_owned());
        for (seconds, count) in [(10, 0), (0, 12_345_670)] {
            let metrics = format!(
                "oddswire_build_info{{version=\"10.20.30\"}} 1\noddswire_process_start_time_seconds 1\n\
                 oddswire_ready 1\noddswire_engine_available 0\noddswire_engine_lag_messages 123456\n\
                 oddswire_connections{{transport=\"websocket\"}} 123456\noddswire_connections{{transport=\"sse\"}} 65432\n\
                 oddswire_clients_behind 54321\noddswire_connects_total {count}\noddswire_disconnects_total {count}\n\
                 oddswire_messages_published_total{{topic=\"odds_updates\"}} {count}\n\
                 oddswire_messages_delivered_total {count}\noddswire_messages_conflated_total {count}\n\
                 oddswire_sent_bytes_total {count}000\n\
                 oddswire_delivery_latency_seconds_bucket{{le=\"0.987\"}} {count}\n\
                 oddswire_publish_latency_seconds_bucket{{le=\"0.654\"}} {count}\n\
                 oddswire_process_resident_memory_bytes 987654321\noddswire_outbox_bytes 123456789\n\
                 oddswire_outbox_bytes_max 1023456\noddswire_process_open_fds 123456\n\
                 oddswire_subscribers{{topic=\"odds_updates\"}} 123456\noddswire_keys{{topic=\"odds_updates\"}} 987654\n\
                 oddswire_history{{topic=\"odds_updates\"}} 9876543\n"
            );
            let connection = ConnectionFacts {
                id: "c1".to_owned(),
                peer: Some("192.168.100.200:54321".to_owned()),
                subscriptions: vec!["odds_updates/8301".to_owned(), "odds_updates/8302".to_owned()],
                age_ms: 356_400_000,
                outbox_bytes: 1_047_000,
                behind: 987_654,
                bytes_sent: count * 100,
            };
            let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
            view.take(Ok(Sample { at, metrics: Exposition::read(&metrics), connections: vec![connection] }));
        }
        view
    }

    #[test]
    fn narrow_screen_cuts_no_number() {
        let view = busy();
        let words =
            |width| -> BTreeSet<String> { drawn(&view, width, 24).split_whitespace().map(ToOwned::to_owned).collect() };
        let all = words(200);
        for part in ["websocket", "go/s", "skipped/s", "files", "HISTORY", "SUBSCRIPTIONS", "scroll", "10.20.30", "yet"]
        {
            assert!(all.contains(part), "{part}: {}", drawn(&view, 200, 24));
        }
        for width in [60, 80] {
            for word in words(width) {
                assert!(all.contains(&word) || word.ends_with('…'), "{word:?} at {width}: {}", drawn(&view, width, 24));
            }
        }
    }

    #[test]
    fn narrow_screen_keeps_the_most_important_columns() {
        let narrow = drawn(&busy(), 60, 24);
        for part in
            ["websocket", "behind", "in/s", "deliver", "SUBSCRIBERS", "IN/S", "CLIENT", "BEHIND", "QUEUED", "quit"]
        {
            assert!(narrow.contains(part), "{part}: {narrow}");
        }
        assert!(drawn(&busy(), 80, 24).contains("SUBSCRIPTIONS"));
    }

    #[test]
    fn reason_without_a_sample_is_shown_in_full() {
        let mut view = View::new("http://127.0.0.1:9100".to_owned());
        view.take(Err("nothing listens on http://127.0.0.1:9100: start a server, or set --url".to_owned()));
        let shown = drawn(&view, 60, 24).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains("start a server, or set --url"), "{shown}");
    }

    #[test]
    fn screen_of_any_size_is_drawn() {
        for view in [View::new("http://127.0.0.1:9100".to_owned()), busy()] {
            for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
                assert!(drawn(&view, width, height).lines().count() == usize::from(height), "{width}x{height}");
            }
        }
    }
}
