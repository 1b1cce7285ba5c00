//! Computes the probabilities of outcomes, and the prices that bookmakers offer for the outcomes.

/// A kind of bet on an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Home, draw or away.
    HeadToHead,
    /// More or fewer goals than [`TOTAL`].
    Totals,
    /// Whether both teams score.
    BothScore,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::HeadToHead, Self::Totals, Self::BothScore];

    /// The name of the market in a key, which is one of the key's segments.
    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::HeadToHead => "h2h",
            Self::Totals => "totals",
            Self::BothScore => "btts",
        }
    }
}

/// The simulated strengths of the teams in an event. Bookmakers only estimate them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// How much stronger the home team is; 0 means equal teams.
    pub(super) balance: f64,
    /// The expected number of goals.
    pub(super) goals: f64,
}

/// The number of goals that the outcomes of the market `totals` are above or below.
pub(super) const TOTAL: f64 = 2.5;

impl Course {
    /// The probabilities of a market's outcomes, which add up to 1.
    pub(super) fn probabilities(self, kind: Kind) -> Vec<f64> {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let of_two = |yes: f64| vec![yes, 1.0 - yes];
        match kind {
            Kind::HeadToHead => {
                let draw = 0.29 * (-self.balance * self.balance / 2.0).exp();
                let home = (1.0 - draw) * logistic(1.7 * self.balance);
                vec![home, draw, 1.0 - draw - home]
            }
            Kind::Totals => of_two(logistic(1.1 * (self.goals - TOTAL))),
            Kind::BothScore => of_two(logistic(0.8 * (self.goals - 2.4) - 0.3 * self.balance.abs())),
        }
    }
}

/// A bookmaker, with what decides its prices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bookmaker {
    pub(super) name: &'static str,
    /// The bookmaker's profit margin as a fraction: 0.05 raises each probability by 5 %, which lowers the price.
    pub(super) margin: f64,
}

/// Ten invented bookmakers.
pub(super) const BOOKMAKERS: [Bookmaker; 10] = [
    Bookmaker { name: "foxglovebets", margin: 0.062 },
    Bookmaker { name: "granitebet", margin: 0.048 },
    Bookmaker { name: "harbourodds", margin: 0.035 },
    Bookmaker { name: "kestrelodds", margin: 0.055 },
    Bookmaker { name: "lanternbet", margin: 0.071 },
    Bookmaker { name: "oakfieldbets", margin: 0.058 },
    Bookmaker { name: "pebblebet", margin: 0.080 },
    Bookmaker { name: "quaysidebet", margin: 0.043 },
    Bookmaker { name: "tallyhouse", margin: 0.025 },
    Bookmaker { name: "willowodds", margin: 0.066 },
];

impl Bookmaker {
    /// The decimal price, in hundredths, for an outcome of this probability.
    pub(super) fn price(self, probability: f64) -> u32 {
        let fair = 1.0 / (probability.clamp(0.001, 0.999) * (1.0 + self.margin));
        // Prices move in steps, which are larger for higher prices.
        let step = match fair {
            ..2.0 => 1.0,
            ..3.0 => 2.0,
            ..4.0 => 5.0,
            ..6.0 => 10.0,
            ..10.0 => 20.0,
            ..20.0 => 50.0,
            _ => 100.0,
        };
        let hundredths = ((fair * 100.0 / step).round() * step).clamp(101.0, 50_000.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 101 to 50,000")]
        let hundredths = hundredths as u32;
        hundredths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_a_market_add_up_to_one() {
        for kind in Kind::ALL {
            for balance in [-3.0, -0.5, 0.0, 0.5, 3.0] {
                let probabilities = Course { balance, goals: 2.9 }.probabilities(kind);
                assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{kind:?} {balance}: {probabilities:?}");
                assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{kind:?} {balance}");
            }
        }
    }

    #[test]
    fn bookmaker_keeps_its_margin() {
        let course = Course { balance: 0.3, goals: 2.7 };
        for bookmaker in BOOKMAKERS {
            let prices = course.probabilities(Kind::HeadToHead).into_iter().map(|p| bookmaker.price(p));
            let book: f64 = prices.map(|price| 100.0 / f64::from(price)).sum();
            assert!((1.0..1.12).contains(&book), "{}: {book}", bookmaker.name);
        }
    }
}
