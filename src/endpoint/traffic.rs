//! Which of several models answers next.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::hash;

/// Deals requests out so that each hundred of them is split exactly, and evenly within the hundred.
#[derive(Debug)]
pub struct TrafficSplit {
    /// The model of each of a hundred requests; empty when none has traffic.
    turns: Vec<usize>,
    next: AtomicUsize,
}

impl TrafficSplit {
    /// Shares in percent, by index.
    pub fn new(shares: &[u8]) -> Self {
        // Smooth weighted round robin: each turn goes to whoever is owed most.
        let total: i64 = shares.iter().map(|&share| i64::from(share)).sum();
        let mut owed = vec![0i64; shares.len()];
        let turns = (0..total)
            .filter_map(|_| {
                owed.iter_mut().zip(shares).for_each(|(owed, &share)| *owed += i64::from(share));
                let (index, most) =
                    owed.iter_mut().enumerate().max_by_key(|(index, owed)| (**owed, std::cmp::Reverse(*index)))?;
                *most -= total;
                Some(index)
            })
            .collect();
        Self { turns, next: AtomicUsize::new(0) }
    }

    /// Who has each of the hundred turns.
    pub fn turns(&self) -> &[usize] {
        &self.turns
    }

    /// The index that a session belongs to: always the same for the same text and split, on every replica. Over many
    /// sessions the shares are those of the split.
    pub fn of(&self, session: &[u8]) -> Option<usize> {
        // The lower bits of FNV are those of the last byte's; a multiplication's upper half depends on all of them.
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (hash(session.iter().copied()) ^ (hash(session.iter().copied()) >> 32)).wrapping_mul(GOLDEN_RATIO);
        let turn = ((mixed >> 32) as usize).checked_rem(self.turns.len())?;
        self.turns.get(turn).copied()
    }

    /// The index whose turn it is.
    pub fn next(&self) -> Option<usize> {
        let count = self.turns.len();
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        self.turns.get(turn).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_requests_are_split_exactly_and_evenly() {
        let split = TrafficSplit::new(&[80, 20, 0]);
        let turns: Vec<usize> = (0..200).filter_map(|_| split.next()).collect();
        let count = |of: &[usize], model| of.iter().filter(|&&turn| turn == model).count();
        assert_eq!((count(&turns, 0), count(&turns, 1), count(&turns, 2)), (160, 40, 0));
        for ten in turns.chunks(10) {
            assert_eq!(count(ten, 1), 2, "{ten:?}");
        }
    }

    #[test]
    fn a_session_stays_where_it_is_and_many_are_split_as_requests_are() {
        let split = TrafficSplit::new(&[80, 20]);
        let of = |number: usize| split.of(format!("user-{number}").as_bytes()).unwrap();
        let again = TrafficSplit::new(&[80, 20]);
        assert!((0..100).all(|number| again.of(format!("user-{number}").as_bytes()) == Some(of(number))));
        let second = (0..10_000).filter(|number| of(*number) == 1).count();
        assert!((1800..2200).contains(&second), "{second}");
        assert_eq!(TrafficSplit::new(&[0]).of(b"x"), None);
    }

    #[test]
    fn nobody_answers_without_traffic() {
        assert_eq!(TrafficSplit::new(&[]).next(), None);
        assert_eq!(TrafficSplit::new(&[0, 0]).next(), None);
        assert_eq!(TrafficSplit::new(&[100]).next(), Some(0));
    }
}
