//! Lines fitted through measured points.

/// The line y = `at_zero + slope * x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub at_zero: f64,
    pub slope: f64,
}

impl Line {
    /// Fits a line through the points, with the least sum of squared distances along y. `None` if the points have fewer
    /// than two different x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.iter().map(|_| 1.0).sum::<f64>();
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        (spread > 0.0).then(|| Self { at_zero: y - common / spread * x, slope: common / spread })
    }

    pub fn at(self, x: f64) -> f64 {
        self.at_zero + self.slope * x
    }
}

/// A fitted curve, which tells how a figure continues beyond the measured points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    Straight(Line),
    /// Grows by the same amount with every doubling of x: a line over the base-2 logarithm of x.
    Doubling(Line),
}

impl Fit {
    pub fn straight(points: &[(f64, f64)]) -> Option<Self> {
        Line::through(points).map(Self::Straight)
    }

    pub fn doubling(points: &[(f64, f64)]) -> Option<Self> {
        let logarithms: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.log2(), *y)).collect();
        Line::through(&logarithms).map(Self::Doubling)
    }

    pub fn at(self, x: f64) -> f64 {
        match self {
            Self::Straight(line) => line.at(x),
            Self::Doubling(line) => line.at(x.log2()),
        }
    }
}

/// The power of x with which y grows; 1 if y is proportional to x. The power is the slope of a line through the
/// logarithms, so all coordinates must be positive.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logarithms: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    Line::through(&logarithms).map(|line| line.slope).filter(|slope| slope.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_minimizes_the_squared_distances() {
        let line = Line::through(&[(0.0, 1.0), (2.0, 5.0), (4.0, 9.0)]).expect("the x differ");
        assert_eq!((line.at_zero, line.slope, line.at(10.0)), (1.0, 2.0, 21.0));
        let between = Line::through(&[(0.0, 0.0), (0.0, 2.0), (1.0, 1.0)]).expect("the x differ");
        assert_eq!(between, Line { at_zero: 1.0, slope: 0.0 });
        assert_eq!(Line::through(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn doubling_fit_continues_beyond_the_points() {
        let fit = Fit::doubling(&[(1_000.0, 5.0), (2_000.0, 6.0), (4_000.0, 7.0)]).expect("the x differ");
        assert!((fit.at(8_000.0) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn quadratic_growth_has_exponent_two() {
        let exponent = exponent(&[(1.0, 3.0), (10.0, 300.0), (100.0, 30_000.0)]).expect("all are positive");
        assert!((exponent - 2.0).abs() < 1e-9, "{exponent}");
        assert_eq!(super::exponent(&[(1.0, 0.0), (2.0, 1.0)]), None);
    }
}
