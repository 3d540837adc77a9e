//! What several rounds say together.

use std::fmt;

/// The median of some numbers, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the upper of the two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

impl Spread {
    /// Of at least one number; of none everything is not a number.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(sorted.len() / 2),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
        }
    }
}

/// `2.00 (1.00 to 3.00)`, with as many decimals as the format asks for, or two.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.decimals$} ({:.decimals$} to {:.decimals$})",
            self.median, self.least, self.most
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_middle_and_both_ends_in_any_order() {
        let spread = Spread::of([3.0, 1.0, 10.0]);
        assert_eq!(spread.to_string(), "3.00 (1.00 to 10.00)");
        assert_eq!(format!("{spread:.0}"), "3 (1 to 10)");
        assert_eq!(Spread::of([1.0, 2.0]).median, 2.0);
        assert!(Spread::of([]).median.is_nan());
    }
}
