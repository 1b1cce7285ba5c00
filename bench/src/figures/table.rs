//! Tables of medians, one row for each case and server.

use crate::figures::record::Record;
use crate::figures::statistics::{Summary, short};

/// A column of a table, which shows one figure.
pub struct Column {
    /// The name of the figure.
    pub figure: &'static str,
    pub heading: &'static str,
    /// The divisor that converts the figure to the unit of the heading.
    pub unit: f64,
}

const fn column(figure: &'static str, heading: &'static str, unit: f64) -> Column {
    Column { figure, heading, unit }
}

/// All columns, in the order of every table. A table omits the columns for which none of its records has a figure.
pub const COLUMNS: &[Column] = &[
    column("instructions", "instructions", 1.0),
    column("allocations", "allocations", 1.0),
    column("bytes_per_connection", "B/connection", 1.0),
    column("connect_ns", "CPU ns to connect", 1.0),
    column("delivery_ns", "CPU ns/delivery", 1.0),
    column("publish_ns", "CPU ns/publish", 1.0),
    column("disconnect_ns", "CPU ns to disconnect", 1.0),
    column("handshakes_per_s", "handshakes/s", 1.0),
    column("cpu_us_per_handshake", "CPU us/handshake", 1.0),
    column("listen_overflows", "listen overflows", 1.0),
    column("bytes_per_key", "B/key", 1.0),
    column("content_bytes_per_key", "content B/key", 1.0),
    column("expected", "expected", 1.0),
    column("delivered", "delivered", 1.0),
    column("skipped", "skipped", 1.0),
    column("lost", "lost", 1.0),
    column("published_per_s", "publishes/s", 1.0),
    column("deliveries_per_s", "deliveries/s", 1.0),
    column("p50_us", "p50 ms", 1e3),
    column("p99_us", "p99 ms", 1e3),
    column("p999_us", "p99.9 ms", 1e3),
    column("max_us", "max ms", 1e3),
    column("cpu_us_per_publish", "CPU us/publish", 1.0),
    column("cpu_us_per_delivery", "CPU us/delivery", 1.0),
    column("cpu_user_us_per_delivery", "user us", 1.0),
    column("cpu_system_us_per_delivery", "system us", 1.0),
    column("cpu_share", "cores", 1.0),
    column("own_cpu_share", "generator cores", 1.0),
    column("other_cpu_share", "other cores", 1.0),
    column("bytes_per_delivery", "B/delivery", 1.0),
    column("kernel_kib", "kernel MiB", 1024.0),
    column("rss_idle_kib", "idle MiB", 1024.0),
    column("rss_peak_kib", "peak MiB", 1024.0),
    column("slow", "slow", 1.0),
    column("slow_logged", "left behind", 1.0),
    column("slow_told", "told", 1.0),
    column("slow_caught_up", "caught up", 1.0),
    column("slow_ended", "ended", 1.0),
];

/// A row of a table: the figures of one case and server.
pub struct Row {
    pub case: String,
    pub server: String,
    pub cells: Vec<Option<Summary>>,
}

/// Groups the records by case and server, in the order of the first record of each.
pub fn rows(records: &[Record], columns: &[&Column]) -> Vec<Row> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for record in records {
        let name = (record.case.as_str(), record.server.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let row = |(case, server): (&str, &str)| {
        let cell = |column: &&Column| summary(records, case, server, column);
        Row { case: case.to_owned(), server: server.to_owned(), cells: columns.iter().map(cell).collect() }
    };
    names.into_iter().map(row).collect()
}

fn summary(records: &[Record], case: &str, server: &str, column: &Column) -> Option<Summary> {
    let of_row = records.iter().filter(|record| record.case == case && record.server == server);
    Summary::of(of_row.filter_map(|record| record.figures.get(column.figure)).map(|value| value / column.unit))
}

/// The columns for which at least one record has a figure.
pub fn columns(records: &[Record]) -> Vec<&'static Column> {
    let known = |column: &&Column| records.iter().any(|record| record.figures.get(column.figure).is_some());
    COLUMNS.iter().filter(known).collect()
}

/// The maximum number of columns, one for each case and server, that fit next to each other in a terminal.
const SIDE_BY_SIDE: usize = 8;

/// Prints the medians as a table with a line for each figure. If the table would be too wide, prints a line for each
/// case and server instead.
pub fn print(records: &[Record]) {
    for line in lines(records) {
        println!("{line}");
    }
}

fn lines(records: &[Record]) -> Vec<String> {
    let columns = columns(records);
    let rows = rows(records, &columns);
    if rows.is_empty() {
        return Vec::new();
    }
    let mut grid = vec![vec![String::new(); rows.len() + 1]; columns.len() + 2];
    for (index, row) in rows.iter().enumerate() {
        grid[0][index + 1].clone_from(&row.case);
        grid[1][index + 1].clone_from(&row.server);
        for (line, cell) in row.cells.iter().enumerate() {
            grid[line + 2][index + 1] = cell.map_or_else(|| "-".to_owned(), shown);
        }
    }
    for (line, column) in columns.iter().enumerate() {
        column.heading.clone_into(&mut grid[line + 2][0]);
    }
    align(&if rows.len() > SIDE_BY_SIDE { turned(&grid) } else { grid })
}

/// Formats the median. If there are several runs, adds the least and the greatest value in parentheses.
pub fn shown(summary: Summary) -> String {
    let Summary { median, least, most, runs } = summary;
    if runs == 1 { short(median) } else { format!("{} ({}..{})", short(median), short(least), short(most)) }
}

/// Turns the lines of a table into columns.
fn turned(grid: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = grid.first().map_or(0, Vec::len);
    (0..columns).map(|column| grid.iter().map(|line| line[column].clone()).collect()).collect()
}

fn align(grid: &[Vec<String>]) -> Vec<String> {
    let columns = grid.first().map_or(0, Vec::len);
    let width = |column: usize| grid.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    grid.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::Figures;

    #[test]
    fn table_has_a_column_per_server_and_a_line_per_figure() {
        let record = |server: &str, run, value| {
            let mut figures = Figures::default();
            figures.set("p99_us", value);
            Record { case: "light".to_owned(), server: server.to_owned(), run, figures }
        };
        let records = [record("a", 1, 1500.0), record("b", 1, 3000.0), record("a", 2, 2500.0)];
        let expected = [
            "                    light  light",
            "                        a      b",
            "p99 ms  2.00 (1.50..2.50)   3.00",
        ];
        assert_eq!(lines(&records), expected);
    }

    #[test]
    fn each_of_many_cases_gets_a_line() {
        let record = |case: usize| {
            let mut figures = Figures::default();
            figures.set("instructions", 7.0);
            Record { case: format!("c{case}"), server: "a".to_owned(), run: 1, figures }
        };
        let records: Vec<Record> = (0..=SIDE_BY_SIDE).map(record).collect();
        assert_eq!(lines(&records)[..2], ["       instructions", "c0  a          7.00"]);
    }
}
