//! When requests are sent and which of them count.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the next request comes about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Closed loop: when the answer is there and the user has thought.
    Closed {
        /// Between an answer and the next request of the same connection.
        think_time: Duration,
    },
    /// Open loop: by the clock.
    Open {
        /// Requests per second.
        rate: f64,
        /// How they lie in time.
        spacing: Spacing,
    },
}

/// How the requests of an open loop lie in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// At even intervals.
    Even,
    /// As those of many users who know nothing of each other: each at any time, so that some come together and none for a
    /// while (a Poisson process, given the number of its events). The same times in each run.
    Random,
}

/// The times of a run.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// How requests come about.
    pub pace: Pace,
    /// When the first request may be sent.
    pub start: Instant,
    /// From when on requests count.
    pub begin: Instant,
    /// When the last request may be sent.
    pub end: Instant,
    /// Open loop at random: when requests are due after the start, in order.
    random: Arc<[Duration]>,
}

impl Schedule {
    /// A run that starts at `start`.
    pub fn new(pace: Pace, start: Instant, warm_up: Duration, duration: Duration) -> Self {
        let begin = start + warm_up;
        let random = match pace {
            Pace::Open { rate, spacing: Spacing::Random } => random_moments(rate, warm_up + duration),
            _ => Vec::new(),
        };
        Self { pace, start, begin, end: begin + duration, random: random.into() }
    }

    /// Open loop: when request `index` is due. Computed from the start each time, so that errors don't add up.
    pub fn due(&self, index: u64) -> Instant {
        let after = self.random.get(index as usize).copied();
        self.start + after.unwrap_or_else(|| Duration::from_secs_f64(index as f64 / self.rate()))
    }

    /// Open loop: how many requests are due by `now`, all those of the run at most.
    pub fn due_by(&self, now: Instant) -> u64 {
        let now = now.min(self.end);
        if !self.random.is_empty() {
            return self.random.partition_point(|&after| self.start + after <= now) as u64;
        }
        let guess = (now.saturating_duration_since(self.start).as_secs_f64() * self.rate()) as u64;
        // The rounding of `due` decides, so that the two never disagree.
        let last = guess + 1;
        let count = (guess.saturating_sub(1)..=last).find(|&index| self.due(index) > now).unwrap_or(last + 1);
        count.min(self.total())
    }

    /// Open loop: the requests of the run: those due before its end.
    pub fn total(&self) -> u64 {
        total(self.rate(), self.end.duration_since(self.start))
    }

    /// Whether a request counts that was due at `due` and answered at `ended`.
    ///
    /// In an open loop that is decided by when it was due: whichever takes long still counts. In a closed loop it is
    /// decided by when it ended: each connection is always at some request, and ends as many as it should.
    pub fn counts(&self, due: Instant, ended: Instant) -> bool {
        let decisive = match self.pace {
            Pace::Open { .. } => due,
            Pace::Closed { .. } => ended,
        };
        (self.begin..self.end).contains(&decisive)
    }

    /// Closed loop: when user `index` of `users` comes for the first time: evenly over the think time, so that they
    /// don't all come at once.
    pub fn arrival(&self, index: usize, users: usize) -> Instant {
        match self.pace {
            Pace::Closed { think_time } => self.start + think_time.mul_f64(index as f64 / users as f64),
            Pace::Open { .. } => self.start,
        }
    }

    fn rate(&self) -> f64 {
        match self.pace {
            Pace::Open { rate, .. } => rate,
            Pace::Closed { .. } => 0.0,
        }
    }
}

fn total(rate: f64, whole: Duration) -> u64 {
    (whole.as_secs_f64() * rate).ceil() as u64
}

/// As many moments as even intervals would have, each anywhere within the whole. Numbers by splitmix64 (Steele, Lea and
/// Flood: Fast splittable pseudorandom number generators, 2014).
fn random_moments(rate: f64, whole: Duration) -> Vec<Duration> {
    let mut state = 0_u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut moments: Vec<_> = (0..total(rate, whole)).map(|_| whole.mul_f64(uniform())).collect();
    moments.sort_unstable();
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(rate: f64, warm_up: u64, duration: u64) -> Schedule {
        spaced(Spacing::Even, rate, warm_up, duration)
    }

    fn spaced(spacing: Spacing, rate: f64, warm_up: u64, duration: u64) -> Schedule {
        let seconds = Duration::from_secs;
        Schedule::new(Pace::Open { rate, spacing }, Instant::now(), seconds(warm_up), seconds(duration))
    }

    #[test]
    fn requests_are_due_at_even_intervals_without_drift() {
        let schedule = open(3.0, 0, 1000);
        assert_eq!(schedule.due(0), schedule.start);
        assert_eq!(schedule.total(), 3000);
        for index in [1, 2, 299, 2999] {
            let exact = index as f64 / 3.0;
            let due = (schedule.due(index) - schedule.start).as_secs_f64();
            assert!((due - exact).abs() < 2e-9, "{index}: {due}");
        }
    }

    #[test]
    fn what_is_due_is_what_is_counted() {
        for rate in [0.3, 7.0, 1000.0, 33_333.0] {
            let schedule = open(rate, 1, 2);
            for index in 0..schedule.total() {
                let due = schedule.due(index);
                assert_eq!(schedule.due_by(due), index + 1, "{rate} {index}");
                assert_eq!(schedule.due_by(due - Duration::from_nanos(1)), index, "{rate} {index}");
            }
            assert_eq!(schedule.due_by(schedule.end + Duration::from_secs(9)), schedule.total());
        }
    }

    #[test]
    fn random_requests_come_together_and_stay_away_as_a_poisson_process_has_it() {
        let schedule = spaced(Spacing::Random, 50.0, 10, 90);
        assert_eq!((schedule.total(), schedule.due_by(schedule.end)), (5000, 5000));
        let moments: Vec<_> = (0..5000).map(|index| schedule.due(index)).collect();
        assert!(moments.is_sorted() && moments[4999] < schedule.end);
        assert_eq!(schedule.due_by(moments[17]), 18);
        // Gaps are exponential: as spread as they are long, and 1 - 1/e of them shorter than the mean.
        let gaps: Vec<_> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let short = gaps.iter().filter(|&&gap| gap < mean).count() as f64 / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.01, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.1, "{variance}");
        assert!((short - 0.632).abs() < 0.02, "{short}");
        let again = spaced(Spacing::Random, 50.0, 10, 90);
        assert_eq!(again.due(2500) - again.start, moments[2500] - schedule.start);
    }

    #[test]
    fn a_slow_answer_counts_in_an_open_loop() {
        let schedule = open(1.0, 2, 3);
        let at = |seconds| schedule.start + Duration::from_secs(seconds);
        assert!(!schedule.counts(at(1), at(3)));
        assert!(schedule.counts(at(2), at(3)));
        assert!(schedule.counts(at(4), at(60)));
        let closed = Schedule { pace: Pace::Closed { think_time: Duration::ZERO }, ..schedule };
        assert!(closed.counts(at(1), at(3)));
        assert!(!closed.counts(at(4), at(5)));
    }

    #[test]
    fn users_come_one_after_another() {
        let second = Duration::from_secs(1);
        let schedule = Schedule::new(Pace::Closed { think_time: second }, Instant::now(), second, second);
        let arrival = |index| schedule.arrival(index, 100) - schedule.start;
        assert_eq!((arrival(0), arrival(50)), (Duration::ZERO, second / 2));
        assert!(arrival(99) < second);
    }
}
