//! Draws figures over the number of connections, each figure with its fitted curve.

use std::fmt::Write as _;

use crate::figures::fit::Fit;
use crate::figures::record::Record;
use crate::figures::statistics::{Summary, short};

/// One figure, which the plot shows as one panel.
pub struct Curve {
    pub heading: String,
    /// Pairs of the number of connections and the value of the figure.
    pub points: Vec<(f64, f64)>,
    pub fit: Option<Fit>,
}

/// The median of a figure for each number of connections, in ascending order of that number. Divides each median by
/// `unit`.
pub fn points(records: &[Record], figure: &str, unit: f64) -> Vec<(f64, f64)> {
    let mut counts: Vec<f64> = records.iter().filter_map(|record| record.figures.get("connections")).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    let median = |&count: &f64| {
        let of_count = records.iter().filter(|record| record.figures.get("connections") == Some(count));
        let summary = Summary::of(of_count.filter_map(|record| record.figures.get(figure)))?;
        Some((count, summary.median / unit))
    };
    counts.iter().filter_map(median).collect()
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 70.0;
const ACROSS: f64 = 640.0;
const HEADING: f64 = 34.0;
const UP: f64 = 130.0;
const FOOT: f64 = 26.0;

/// The number of straight pieces that approximate a fitted curve.
const PARTS: u32 = 40;

/// Draws one panel for each curve, below each other. Both axes begin at 0, so that proportional growth looks
/// proportional.
pub fn svg(title: &str, curves: &[Curve]) -> String {
    let mut body = String::new();
    let mut top = 30.0;
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        panel(&mut body, curve, top + HEADING);
        top += HEADING + UP + FOOT;
    }
    let height = top + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n{body}</svg>\n"
    )
}

fn panel(body: &mut String, curve: &Curve, top: f64) {
    let most = |of: fn(&(f64, f64)) -> f64| curve.points.iter().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (widest, highest) = (most(|point| point.0), most(|point| point.1) * 1.1);
    let bottom = top + UP;
    let place = |(x, y): (f64, f64)| (tenth(LEFT + x / widest * ACROSS), tenth(bottom - y / highest * UP));
    let (heading, right, foot) = (top - 12.0, LEFT + ACROSS, bottom + 16.0);
    let _ = writeln!(
        body,
        "<text x=\"10\" y=\"{heading}\" font-weight=\"bold\">{}</text>\n\
         <path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#6e7781\"/>",
        curve.heading
    );
    if let Some(fit) = curve.fit {
        let first = curve.points.iter().map(|point| point.0).fold(widest, f64::min);
        let corner = |part: u32| {
            let x = first + (widest - first) * f64::from(part) / f64::from(PARTS);
            let (x, y) = place((x, fit.at(x)));
            format!("{x} {y}")
        };
        let corners: Vec<String> = (0..=PARTS).map(corner).collect();
        let _ = writeln!(body, "<path d=\"M{}\" fill=\"none\" stroke=\"#bf8700\"/>", corners.join("L"));
    }
    for &point in &curve.points {
        let (x, y) = place(point);
        let _ = writeln!(
            body,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"#1f6feb\"/>\n\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"{x}\" y=\"{foot}\" text-anchor=\"middle\" fill=\"#6e7781\">{}</text>",
            y - 8.0,
            short(point.1),
            short(point.0)
        );
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panel_has_a_circle_per_point_and_a_curve() {
        let points = vec![(1_000.0, 4.0), (2_000.0, 8.0)];
        let fit = Fit::straight(&points);
        let drawing = svg("growth", &[Curve { heading: "MiB".to_owned(), points, fit }]);
        assert_eq!((drawing.matches("<circle").count(), drawing.matches("<path").count()), (2, 2));
        // The last point is at the right end. A tenth of the panel's height stays free above it.
        assert!(drawing.contains("<circle cx=\"710\" cy=\"75.8\""), "{drawing}");
    }
}
