//! How likely it is that rounds differ by chance alone.

/// The chance that two sets of one distribution differ in their ranks at least as much (two sided;
/// Mann and Whitney 1947): the share of all ways to deal the figures into two sets of these sizes.
pub(super) fn by_chance(before: &[f64], after: &[f64]) -> f64 {
    let wins = |more: &[f64], less: &[f64]| -> f64 {
        let pairs = more.iter().flat_map(|a| less.iter().map(move |b| (a, b)));
        pairs
            .map(|(a, b)| {
                if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                }
            })
            .sum()
    };
    let u = wins(after, before).min(wins(before, after));
    let counts = deals(before.len(), after.len());
    let all: f64 = counts.iter().sum();
    let extreme: f64 = counts.iter().take(u.floor() as usize + 1).sum();
    (2.0 * extreme / all).min(1.0)
}

/// In how many ways two sets of `m` and `n` different figures can win each number of their
/// comparisons: the coefficients of the Gaussian binomial.
fn deals(m: usize, n: usize) -> Vec<f64> {
    let length = m * n + 1;
    // The counts for each size of the second set; the first one grows by one figure at a time.
    let mut row: Vec<Vec<f64>> = (0..=n).map(|_| unit(length)).collect();
    for _ in 0..m {
        let mut next: Vec<Vec<f64>> = vec![unit(length)];
        for j in 1..=n {
            // The greatest figure belongs to the first set and wins j times, or to the second.
            let mut counts = next[j - 1].clone();
            for wins in (j..length).rev() {
                counts[wins] += row[j][wins - j];
            }
            next.push(counts);
        }
        row = next;
    }
    row.swap_remove(n)
}

fn unit(length: usize) -> Vec<f64> {
    let mut counts = vec![0.0; length];
    counts[0] = 1.0;
    counts
}

/// The greatest of these chances that is none of luck, where `share` of all that is called so may be
/// (Benjamini and Hochberg 1995): of hundreds of measures some differ much by chance alone, the more
/// the more there are. Zero: none is.
pub(super) fn convincing(chances: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = chances.collect();
    sorted.sort_by(f64::total_cmp);
    let all = sorted.len() as f64;
    let ranked = (1..).zip(sorted);
    let low = ranked.filter(|(rank, chance)| *chance <= share * f64::from(*rank) / all);
    low.last().map_or(0.0, |(_, chance)| chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_those_of_the_published_tables() {
        // Sets of 5 and 5: 252 deals, of which 1 wins nothing; U = 2 is the critical value at 5 %.
        let counts = deals(5, 5);
        assert_eq!(counts.iter().sum::<f64>(), 252.0);
        assert_eq!(counts[..4], [1.0, 1.0, 2.0, 3.0]);
        let low = [1.0, 2.0, 3.0, 4.0, 5.0];
        let high = [6.0, 7.0, 8.0, 9.0, 10.0];
        assert!((by_chance(&low, &high) - 2.0 / 252.0).abs() < 1e-9);
        assert_eq!(by_chance(&low, &low), 1.0);
    }

    #[test]
    fn the_more_is_compared_the_less_likely_a_difference_must_be() {
        // The example of the paper: of 15 the 4 least are none of luck, though 9 are below 5 %.
        let published = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.0000,
        ];
        assert_eq!(convincing(published.into_iter().rev(), 0.05), 0.0095);
        // One in twenty is to be expected of twenty, and convinces alone.
        assert_eq!(convincing([0.04].into_iter(), 0.05), 0.04);
        let many = std::iter::once(0.04).chain([1.0; 19]);
        assert_eq!(convincing(many, 0.05), 0.0);
        assert_eq!(convincing(std::iter::empty(), 0.05), 0.0);
    }
}
