//! Draws the plot of a question: a panel for each main figure, with a bar for each case and server.

use std::fmt::Write as _;

use crate::figures::record::Record;
use crate::figures::statistics::{Summary, short};
use crate::figures::table::{self, Column, Row};

/// The figures that can have a panel, the most important first.
const PANELS: &[&str] = &[
    "bytes_per_connection",
    "handshakes_per_s",
    "cpu_us_per_handshake",
    "bytes_per_key",
    "deliveries_per_s",
    "p50_us",
    "p99_us",
    "cpu_us_per_delivery",
    "published_per_s",
    "cpu_us_per_publish",
    "rss_peak_kib",
];

const MAX_PANELS: usize = 4;

/// The figures whose greater values are better. For all other figures, smaller values are better.
const MORE_IS_BETTER: &[&str] = &["handshakes_per_s", "deliveries_per_s", "published_per_s"];

const WIDTH: f64 = 760.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 400.0;
const BAR: f64 = 16.0;
const GAP: f64 = 6.0;
const HEADING: f64 = 34.0;

const COLOURS: [(&str, &str); 4] =
    [("oddswire", "#1f6feb"), ("stock-warp", "#bf8700"), ("nchan", "#2da44e"), ("fastapi", "#8250df")];
const OTHER: &str = "#6e7781";

/// Draws each median as a bar. A line across the end of the bar shows the least and the greatest value.
pub fn svg(title: &str, records: &[Record]) -> String {
    let figures = PANELS.iter().filter_map(|name| table::COLUMNS.iter().find(|column| column.figure == *name));
    let known = |column: &&Column| records.iter().any(|record| record.figures.get(column.figure).is_some());
    let columns: Vec<&Column> = figures.filter(known).take(MAX_PANELS).collect();
    let mut body = String::new();
    let mut top = 30.0;
    for (index, column) in columns.iter().enumerate() {
        let rows = table::rows(records, &columns);
        top = panel(&mut body, column, index, &rows, top);
    }
    let height = top + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n{body}</svg>\n"
    )
}

/// Draws one panel below `top` and returns its lower end.
fn panel(body: &mut String, column: &Column, index: usize, rows: &[Row], top: f64) -> f64 {
    let bars: Vec<(&Row, Summary)> = rows.iter().filter_map(|row| Some((row, row.cells[index]?))).collect();
    let most = bars.iter().map(|(_, summary)| summary.most).fold(f64::MIN_POSITIVE, f64::max);
    let better = if MORE_IS_BETTER.contains(&column.figure) { "more" } else { "less" };
    let heading = top + HEADING - 12.0;
    let _ = writeln!(
        body,
        "<text x=\"10\" y=\"{heading}\" font-weight=\"bold\">{} <tspan font-weight=\"normal\" fill=\"#6e7781\">({better} \
         is better)</tspan></text>",
        column.heading
    );
    let mut y = top + HEADING;
    for (row, summary) in bars {
        bar(body, row, summary, BARS / most, y);
        y += BAR + GAP;
    }
    y
}

fn bar(body: &mut String, row: &Row, summary: Summary, scale: f64, y: f64) {
    let Summary { median, least, most, .. } = summary;
    let colour = COLOURS.iter().find(|(name, _)| *name == row.server).map_or(OTHER, |(_, colour)| colour);
    let [width, from, to] = [median, least, most].map(|value| (value.max(0.0) * scale * 10.0).round() / 10.0);
    let (text, middle) = (y + BAR - 4.0, y + BAR / 2.0);
    let [left, right] = [LABELS + from, LABELS + to];
    let label = right.max(LABELS + width) + 6.0;
    let _ = writeln!(
        body,
        "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}, {}</text>\n\
         <rect x=\"{LABELS}\" y=\"{y}\" width=\"{width}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
         <path d=\"M{left} {middle}H{right}\" stroke=\"black\"/>\n\
         <text x=\"{label}\" y=\"{text}\">{}</text>",
        LABELS - 6.0,
        row.case,
        row.server,
        short(median)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::Figures;

    #[test]
    fn plot_has_a_bar_for_each_server_and_figure() {
        let record = |server: &str| {
            let mut figures = Figures::default();
            figures.set("p99_us", 1500.0);
            figures.set("deliveries_per_s", 1000.0);
            Record { case: "light".to_owned(), server: server.to_owned(), run: 1, figures }
        };
        let drawing = svg("light", &[record("oddswire"), record("nchan")]);
        assert_eq!(drawing.matches("<path").count(), 4);
        assert!(drawing.contains("light, nchan") && drawing.contains("p99 ms"));
    }
}
