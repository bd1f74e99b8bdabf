//! Which layout of the cores answers soonest at the load of the moment.
//!
//! Runs on all cores, one after the other, answer soonest while there is little to do: a batch that finds another one running
//! is better off waiting for its end than taking a single core at once. But all cores for each do less work a second than a
//! core for each, so with more to do the line grows until waiting in it takes longer than a narrow run.
//!
//! Which of them is sooner is told by imagining both: two lines that take every batch that comes, one with a single server
//! that is as fast as a wide run, one with as many servers as there are workers, each as slow as a narrow run. The layout whose
//! line would have kept the latest batches for less time is used. Both lines go on whichever is in use, so that the answer
//! doesn't depend on what was chosen before: clients that overlap on narrow runs only because these take so long are served one
//! after the other again. What is compared are expectations; if cores are slower than that, both layouts are.
//!
//! Of the line in use the truth is known, too, and has the last word: a batch that finds the engine idle has found it empty,
//! and one that finds others waits for these at least.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How a batch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// On one core (or the threads that a setting gives it), beside others.
    Narrow,
    /// On all cores, one batch at a time.
    Wide,
}

/// The weight of the newest batch in a mean is one part in this many.
const SMOOTHING: u64 = 4;

/// How much work that they can't do the lines keep, in narrow runs. When more comes than either can serve, the wide line
/// must be the longer one: it keeps a narrow run more, which is what a batch takes longer in the other.
const WIDE_BACKLOG: f64 = 2.5;
const NARROW_BACKLOG: f64 = 1.5;

/// The pause after which the lines forget what was, in narrow runs.
const PAUSE: f64 = 2.0;

/// So many batches in turn that find the engine idle are a client that asks one after the other: what was before has ended.
const ALONE: u32 = 3;

/// The load of one model.
#[derive(Debug)]
pub(super) struct Load {
    /// Whose, for the log.
    model: String,
    /// Times are microseconds since then.
    origin: Instant,
    /// Only the dispatcher takes it, so that nobody waits for it.
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    wide: Line,
    narrow: Line,
    layout: Layout,
    /// How many of the latest batches found the engine idle, in turn.
    alone: u32,
}

impl Load {
    /// Of a model with so many workers for narrow runs.
    pub(super) fn new(model: &str, workers: usize) -> Self {
        let lines = Lines { wide: Line::new(1), narrow: Line::new(workers), layout: Layout::Wide, alone: 0 };
        Self { model: model.to_owned(), origin: Instant::now(), lines: Mutex::new(lines) }
    }

    /// The layout for a batch that comes now, finds so many of either that are not done, and is expected to take so long in
    /// either.
    pub(super) fn choose(
        &self,
        now: Instant,
        (wide_batches, narrow_batches): (usize, usize),
        wide: Duration,
        narrow: Duration,
    ) -> Layout {
        let (now, narrow) = (micros(now.saturating_duration_since(self.origin)), micros(narrow));
        // What was measured while something else kept a core busy may say that all cores are no faster than one. A lone client
        // finds out how it is, as for its requests the wide line is the shorter one anyhow.
        let wide = micros(wide).min(narrow - narrow / 4);
        let Ok(mut guard) = self.lines.try_lock() else { return Layout::Narrow };
        let lines = &mut *guard;
        let runs = |count: f64| (narrow as f64 * count) as u64;
        let paused = now >= lines.wide.free_at().saturating_add(runs(PAUSE));
        let is_idle = wide_batches == 0 && narrow_batches == 0;
        lines.alone = if is_idle { lines.alone.saturating_add(1) } else { 0 };
        if is_idle {
            match lines.layout {
                Layout::Wide => lines.wide.empty(now),
                Layout::Narrow => lines.narrow.empty(now),
            }
        }
        if paused || lines.alone >= ALONE {
            for line in [&mut lines.wide, &mut lines.narrow] {
                line.empty(now);
                line.stay = None;
            }
        }
        // Where wide runs take longer than was thought, it is the true line that tells; the one that runs may be all but done.
        let at_least = wide.saturating_mul(u64::try_from(wide_batches).unwrap_or(u64::MAX));
        let in_wide = lines.wide.take(now, wide, runs(WIDE_BACKLOG), at_least);
        let in_narrow = lines.narrow.take(now, narrow, runs(NARROW_BACKLOG), 0);
        // A wide run takes more of the cores' time than a narrow one, so it has to be worth it; and a change costs more than it
        // brings where there is little between them.
        let layout = match lines.layout {
            Layout::Wide if in_wide > in_narrow - in_narrow / 10 => Layout::Narrow,
            Layout::Narrow if in_wide <= in_narrow - in_narrow / 5 => Layout::Wide,
            unchanged => unchanged,
        };
        if layout != lines.layout {
            tracing::debug!(model = self.model, ?layout, wide, narrow, in_wide, in_narrow, "the layout has changed");
            lines.layout = layout;
        }
        layout
    }
}

/// An imagined line: first come, first served.
#[derive(Debug)]
struct Line {
    /// When each of its servers will have done what it has.
    servers: Vec<u64>,
    /// How long a batch is in it, from its arrival to its end, in the mean of the latest.
    stay: Option<u64>,
}

impl Line {
    fn new(servers: usize) -> Self {
        Self { servers: vec![0; servers.max(1)], stay: None }
    }

    /// Since when no server has anything to do.
    fn free_at(&self) -> u64 {
        self.servers.iter().copied().max().unwrap_or(0)
    }

    /// Nothing is in it from now on.
    fn empty(&mut self, now: u64) {
        self.servers.iter_mut().for_each(|server| *server = now.min(*server));
    }

    /// Takes a batch that comes now, keeps a server for so long and is in the line for at least so long. Gives the mean time
    /// that batches are in it. Servers forget what they could not do within the limit.
    fn take(&mut self, now: u64, run: u64, limit: u64, at_least: u64) -> u64 {
        let Some(server) = self.servers.iter_mut().min() else { return run };
        let done = now.max(*server).saturating_add(run);
        *server = done.min(now.saturating_add(limit));
        let stay = (done - now).max(at_least).min(u64::MAX / 4);
        let mean = self.stay.map_or(stay, |mean| mean - mean / SMOOTHING + stay / SMOOTHING);
        self.stay = Some(mean);
        mean
    }
}

/// At most what leaves room for sums.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ViT-B/16 on two cores.
    const WIDE: u64 = 190;
    const NARROW: u64 = 365;

    fn load(workers: usize) -> Load {
        Load::new("model", workers)
    }

    const IDLE: (usize, usize) = (0, 0);
    const BUSY: (usize, usize) = (0, 1);

    fn choose(load: &Load, at: u64, batches: (usize, usize)) -> Layout {
        let now = load.origin + Duration::from_millis(at);
        load.choose(now, batches, Duration::from_millis(WIDE), Duration::from_millis(NARROW))
    }

    /// How many of so many batches are wide when one comes every so many milliseconds, and finds that.
    fn wide_of(load: &Load, first: u64, every: u64, batches: u64, finds: (usize, usize)) -> usize {
        (0..batches).filter(|batch| choose(load, first + batch * every, finds) == Layout::Wide).count()
    }

    /// Clients that ask again a millisecond after their answer, for so many milliseconds, of an engine that keeps the
    /// expected times and is given one batch more than it has cores. Gives the batches of each layout in the second half.
    fn closed_loop(clients: usize, cores: usize, wide: u64, narrow: u64, end: u64) -> (usize, usize) {
        let load = load(cores);
        let mut ready: Vec<u64> = (0..clients.min(cores + 1) as u64).collect();
        let mut free = vec![0; cores];
        let mut under_way = Vec::new();
        let mut counts = (0, 0);
        loop {
            let client = ready.iter_mut().min().unwrap();
            let now = *client;
            if now > end {
                return counts;
            }
            let at = load.origin + Duration::from_millis(now);
            let counts = if now > end / 2 { &mut counts } else { &mut (0, 0) };
            under_way.retain(|(end, _)| *end > now);
            let of = |layout| under_way.iter().filter(|(_, other)| *other == layout).count();
            let batches = (of(Layout::Wide), of(Layout::Narrow));
            let layout = load.choose(at, batches, Duration::from_millis(wide), Duration::from_millis(narrow));
            *client = match layout {
                Layout::Wide => {
                    counts.0 += 1;
                    let done = free.iter().copied().max().unwrap().max(now) + wide;
                    free.fill(done);
                    done + 1
                }
                Layout::Narrow => {
                    counts.1 += 1;
                    let core = free.iter_mut().min().unwrap();
                    *core = now.max(*core) + narrow;
                    *core + 1
                }
            };
            under_way.push((*client - 1, layout));
        }
    }

    #[test]
    fn a_lone_client_has_all_cores() {
        let (wide, narrow) = closed_loop(1, 2, WIDE, NARROW, 20_000);
        assert!(wide > 50 && narrow == 0, "{wide} wide, {narrow} narrow");
    }

    #[test]
    fn a_steady_rate_that_wide_runs_can_serve_is_served_by_them() {
        // 5 a second, each done before the next one comes; narrow runs would overlap.
        assert_eq!(wide_of(&load(2), 0, 200, 100, IDLE), 100);
    }

    #[test]
    fn one_that_waits_a_moment_for_another_one_is_better_off() {
        let load = load(2);
        for pair in 0..50 {
            assert_eq!(choose(&load, pair * 1000, IDLE), Layout::Wide);
            assert_eq!(choose(&load, pair * 1000 + 100, (1, 0)), Layout::Wide, "280 ms instead of 365");
        }
    }

    #[test]
    fn clients_that_keep_all_cores_busy_have_one_each() {
        for clients in [2, 3, 8, 64] {
            let (wide, narrow) = closed_loop(clients, 2, WIDE, NARROW, 60_000);
            assert!(narrow > 140 && wide < 10, "{clients} clients: {wide} wide, {narrow} narrow");
        }
    }

    #[test]
    fn few_clients_of_many_cores_take_turns_on_all() {
        // 16 cores, which are 7 times as fast as one: 40 a second in turn, or 21 with a core for each of four clients.
        for clients in [2, 4] {
            let (wide, narrow) = closed_loop(clients, 16, 25, 190, 10_000);
            assert!(wide > 150 && narrow == 0, "{clients} clients: {wide} wide, {narrow} narrow");
        }
        // For 16 clients it is 84 a second with a core for each.
        let (wide, narrow) = closed_loop(16, 16, 25, 190, 10_000);
        assert!(narrow > 350 && wide == 0, "{wide} wide, {narrow} narrow");
    }

    #[test]
    fn more_than_either_can_serve_has_a_core_each() {
        for cores in [2, 16] {
            let load = load(cores);
            assert!(wide_of(&load, 0, 1, 1000, BUSY) < 20);
        }
    }

    #[test]
    fn all_cores_come_back_when_there_is_less_to_do() {
        let load = load(2);
        wide_of(&load, 0, 10, 100, BUSY);
        assert_eq!(choose(&load, 1010, BUSY), Layout::Narrow);
        // After a pause.
        assert_eq!(choose(&load, 1000 + 5 * NARROW, IDLE), Layout::Wide);
        // Without one, at a rate that overlaps on narrow runs.
        wide_of(&load, 5000, 10, 100, BUSY);
        assert!(wide_of(&load, 6000, 333, 40, BUSY) >= 30);
    }

    #[test]
    fn a_client_that_is_left_alone_has_all_cores_after_two_answers() {
        let load = load(2);
        wide_of(&load, 0, 10, 100, BUSY);
        let choices: Vec<_> = (0..4).map(|turn| choose(&load, 1010 + turn * (NARROW + 1), IDLE)).collect();
        assert_eq!(choices, [Layout::Narrow, Layout::Narrow, Layout::Wide, Layout::Wide]);
    }

    #[test]
    fn runs_that_are_faster_than_thought_make_no_line() {
        // As when the cores were shared until now: thought to take 190 ms, they take 140.
        assert_eq!(wide_of(&load(2), 0, 140, 100, IDLE), 100);
    }

    #[test]
    fn a_bad_measurement_of_wide_runs_does_not_last() {
        let load = load(2);
        let slow = Duration::from_millis(2000);
        let narrow = Duration::from_millis(NARROW);
        let choices: Vec<_> = (0..10)
            .map(|turn| load.choose(load.origin + Duration::from_millis(turn * (NARROW + 1)), IDLE, slow, narrow))
            .collect();
        assert!(choices.iter().all(|&choice| choice == Layout::Wide), "{choices:?}");
    }

    #[test]
    fn wide_runs_that_are_slower_than_thought_make_way() {
        // Thought to take 190 ms, they take 300, and the dispatcher hands one over as one ends: the imagined line is empty
        // each time, the true one never.
        let load = load(2);
        let (wide, narrow) = (Duration::from_millis(WIDE), Duration::from_millis(NARROW));
        let choose = |turn: u64| load.choose(load.origin + Duration::from_millis(turn * 300), (2, 0), wide, narrow);
        assert!((0..20).any(|turn| choose(turn) == Layout::Narrow));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let load = load(2);
        for (wide, narrow) in
            [(Duration::MAX, Duration::MAX), (Duration::ZERO, Duration::ZERO), (Duration::MAX, Duration::ZERO)]
        {
            load.choose(load.origin, IDLE, wide, narrow);
            load.choose(load.origin + Duration::from_secs(1 << 32), (usize::MAX, usize::MAX), wide, narrow);
        }
    }
}
