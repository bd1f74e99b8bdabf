//! Shapley values: what each of several features contributes to a difference, shared out fairly.
//!
//! The value of a *coalition* is the model's output where its features are the instance's and all others the baseline's.
//! A feature's Shapley value is what it adds to the coalition before it, on average over all orders in which features can
//! join. It is estimated from `paths` random orders (Castro, Gómez, Tejada 2009); each walks from the baseline to the
//! instance, so that for every order, and thus for their mean, the contributions add up to the whole difference. Where
//! there are so few features that evaluating all coalitions costs no more than the paths would, that is done instead, and
//! the result is exact.
//!
//! Everything is deterministic: the orders follow from the number of features and of paths alone.

use std::collections::HashMap;

/// The most features for which all coalitions may be evaluated.
const EXACT_FEATURES: usize = 12;

/// Features that are the instance's, by index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coalition(Vec<u64>);

impl Coalition {
    fn empty(features: usize) -> Self {
        Self(vec![0; features.div_ceil(64).max(1)])
    }

    fn of_bits(bits: usize) -> Self {
        Self(vec![bits as u64])
    }

    /// Whether a feature is the instance's.
    pub fn contains(&self, feature: usize) -> bool {
        self.0.get(feature / 64).is_some_and(|word| word >> (feature % 64) & 1 == 1)
    }

    fn insert(&mut self, feature: usize) {
        if let Some(word) = self.0.get_mut(feature / 64) {
            *word |= 1 << (feature % 64);
        }
    }
}

/// Which coalitions are to be evaluated, each once, and how the contributions follow from their values.
#[derive(Debug)]
pub struct Plan {
    features: usize,
    coalitions: Vec<Coalition>,
    scheme: Scheme,
}

#[derive(Debug)]
enum Scheme {
    /// All coalitions; the index of one is its bits.
    Exact,
    /// For each path: the order in which the features join, and the coalition after each.
    Sampled(Vec<Vec<(usize, usize)>>),
}

/// The contributions of the features.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// One for each feature. They add up to the instance's value less the baseline's.
    pub values: Vec<f64>,
    /// How far they may be off: the standard error of all contributions together, relative to their size (both as
    /// Euclidean norms). 0 when they are exact; 1 when one path alone says nothing about it.
    pub error: f64,
}

impl Plan {
    /// A plan for so many features, with so many paths; both at least 1.
    pub fn new(features: usize, paths: usize) -> Self {
        let sampled_cost = paths.saturating_mul(features.saturating_sub(1)) + 2;
        if features <= EXACT_FEATURES && 1usize << features <= sampled_cost {
            let coalitions = (0..1 << features).map(Coalition::of_bits).collect();
            return Self { features, coalitions, scheme: Scheme::Exact };
        }
        let mut coalitions = vec![Coalition::empty(features)];
        let mut known: HashMap<Coalition, usize> = HashMap::from([(coalitions[0].clone(), 0)]);
        let mut random = SplitMix(0x5eed);
        let walks = (0..paths.max(1)).map(|_| {
            let mut coalition = Coalition::empty(features);
            let walk = random.order(features).into_iter().map(|feature| {
                coalition.insert(feature);
                let index = *known.entry(coalition.clone()).or_insert_with(|| {
                    coalitions.push(coalition.clone());
                    coalitions.len() - 1
                });
                (feature, index)
            });
            walk.collect()
        });
        let walks = walks.collect();
        Self { features, coalitions, scheme: Scheme::Sampled(walks) }
    }

    /// What is to be evaluated; the first is the baseline.
    pub fn coalitions(&self) -> &[Coalition] {
        &self.coalitions
    }

    /// The index of the coalition of all features: the instance itself.
    pub fn whole(&self) -> usize {
        match &self.scheme {
            Scheme::Exact => self.coalitions.len() - 1,
            Scheme::Sampled(walks) => walks.first().and_then(|walk| walk.last()).map_or(0, |&(_, index)| index),
        }
    }

    /// The contributions, from the coalitions' values in their order.
    pub fn contributions(&self, values: &[f64]) -> Contributions {
        match &self.scheme {
            Scheme::Exact => Contributions { values: self.exact(values), error: 0.0 },
            Scheme::Sampled(walks) => self.sampled(walks, values),
        }
    }

    /// The sum over all coalitions without the feature, weighted by how many orders pass through them:
    /// |S|! (n - |S| - 1)! / n!.
    fn exact(&self, values: &[f64]) -> Vec<f64> {
        let features = self.features;
        // 1 / (n * binomial(n - 1, size)), which needs no factorials.
        let mut weights = Vec::with_capacity(features);
        let mut binomial = 1.0;
        for size in 0..features {
            weights.push(1.0 / (features as f64 * binomial));
            binomial *= (features - 1 - size) as f64 / (size + 1) as f64;
        }
        let contribution = |feature: usize| {
            let without = (0..values.len()).filter(|bits| bits >> feature & 1 == 0);
            without.map(|bits| weights[bits.count_ones() as usize] * (values[bits | 1 << feature] - values[bits])).sum()
        };
        (0..features).map(contribution).collect()
    }

    fn sampled(&self, walks: &[Vec<(usize, usize)>], values: &[f64]) -> Contributions {
        let (mut sums, mut squares) = (vec![0.0; self.features], vec![0.0; self.features]);
        for walk in walks {
            let mut before = values[0];
            for &(feature, index) in walk {
                let gain = values[index] - before;
                sums[feature] += gain;
                squares[feature] += gain * gain;
                before = values[index];
            }
        }
        let paths = walks.len() as f64;
        let means: Vec<f64> = sums.iter().map(|sum| sum / paths).collect();
        if walks.len() < 2 {
            let changes = means.iter().any(|mean| *mean != 0.0);
            return Contributions { values: means, error: f64::from(u8::from(changes)) };
        }
        // The variance of each mean: that of the gains, over the paths.
        let variance = means
            .iter()
            .zip(&squares)
            .map(|(mean, square)| ((square - paths * mean * mean) / (paths - 1.0) / paths).max(0.0));
        let spread: f64 = variance.sum::<f64>().sqrt();
        let size = means.iter().map(|mean| mean * mean).sum::<f64>().sqrt();
        // Below this it is rounding, not spread.
        let error = if spread <= 1e-6 * size { 0.0 } else { (spread / size).min(1.0) };
        Contributions { values: means, error }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// All features in a random order (Fisher and Yates).
    fn order(&mut self, features: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..features).collect();
        for last in (1..features).rev() {
            // The bias of the remainder is below 2^-50 for what a picture or a table has of features.
            let other = (self.next() % (last as u64 + 1)) as usize;
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(features: usize, paths: usize, value: impl Fn(&Coalition) -> f64) -> (Contributions, usize) {
        let plan = Plan::new(features, paths);
        let values: Vec<f64> = plan.coalitions().iter().map(value).collect();
        (plan.contributions(&values), values.len())
    }

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {wanted:?}");
    }

    #[test]
    fn a_linear_model_has_its_weights_as_contributions() {
        for (features, paths) in [(1, 1), (3, 1), (4, 10), (20, 3), (100, 10)] {
            let weights: Vec<f64> = (0..features).map(|index| index as f64 - 1.5).collect();
            let linear = |coalition: &Coalition| {
                7.0 + (0..features).filter(|&index| coalition.contains(index)).map(|index| weights[index]).sum::<f64>()
            };
            let (found, _) = explain(features, paths, linear);
            close(&found.values, &weights);
            assert!(paths == 1 || found.error == 0.0, "{found:?}");
        }
    }

    /// f(a, b) = 2 a + 10 a b from (0, 0) to (1, 1), by hand: the product is shared half and half.
    #[test]
    fn an_interaction_is_shared() {
        let product = |coalition: &Coalition| {
            let (a, b) = (coalition.contains(0), coalition.contains(1));
            2.0 * f64::from(u8::from(a)) + 10.0 * f64::from(u8::from(a && b))
        };
        let (found, evaluated) = explain(2, 10, product);
        close(&found.values, &[7.0, 5.0]);
        assert_eq!((found.error, evaluated), (0.0, 4));
    }

    /// Four of seven votes are a majority, one voter has three: by hand from the orders in which she decides.
    #[test]
    fn the_exact_values_of_a_vote() {
        let votes = [3, 1, 1, 1, 1];
        let majority = |coalition: &Coalition| {
            let sum: i32 = (0..5).filter(|&voter| coalition.contains(voter)).map(|voter| votes[voter]).sum();
            f64::from(u8::from(sum >= 4))
        };
        let (found, evaluated) = explain(5, 50, majority);
        // The large one decides in places 2, 3 and 4 of 5; the others share the rest.
        close(&found.values, &[0.6, 0.1, 0.1, 0.1, 0.1]);
        assert_eq!(evaluated, 32);
    }

    fn tangled(coalition: &Coalition) -> f64 {
        let x: Vec<f64> = (0..30).map(|index| f64::from(u8::from(coalition.contains(index)))).collect();
        x.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() + x[0] * x[10] * x[20] * 5.0 - x[29]
    }

    #[test]
    fn contributions_add_up() {
        for paths in [1, 2, 10, 50] {
            let (found, _) = explain(30, paths, tangled);
            let plan = Plan::new(30, paths);
            let difference = tangled(&plan.coalitions()[plan.whole()]) - tangled(&plan.coalitions()[0]);
            assert!((found.values.iter().sum::<f64>() - difference).abs() < 1e-9, "{paths}");
        }
    }

    #[test]
    fn more_paths_err_less_and_the_error_says_so() {
        // The exact values: each pair is shared in two, the triple in three.
        let mut exact = [1.0; 30];
        (exact[0], exact[29]) = (0.5, 0.5 - 1.0);
        for index in [0, 10, 20] {
            exact[index] += 5.0 / 3.0;
        }
        let off = |paths| {
            let (found, _) = explain(30, paths, tangled);
            let distance: f64 = found.values.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f64 = exact.iter().map(|value| value * value).sum();
            ((distance / size).sqrt(), found.error)
        };
        let ((few, few_error), (many, many_error)) = (off(5), off(500));
        assert!(many < few && many_error < few_error, "{few} {many}");
        assert!(many < 0.1 && many_error < 0.1, "{many} {many_error}");
        // The estimate is of the right size.
        assert!((0.3..3.0).contains(&(many_error / many)), "{many} {many_error}");
    }

    #[test]
    fn the_same_question_has_the_same_plan() {
        let (first, second) = (Plan::new(49, 10), Plan::new(49, 10));
        assert_eq!(first.coalitions(), second.coalitions());
        let coalitions = first.coalitions();
        let distinct: std::collections::HashSet<_> = coalitions.iter().collect();
        assert_eq!(distinct.len(), coalitions.len(), "each is evaluated once");
        assert!(coalitions.len() <= 10 * 48 + 2);
        assert!((0..49).all(|feature| coalitions[first.whole()].contains(feature) && !coalitions[0].contains(feature)));
    }
}
