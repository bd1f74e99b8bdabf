//! The order to end, and the phases that listeners and connections follow from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Readiness;

/// How long an orderly end may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long new connections and requests are still answered once health says no. As long as it takes a load
    /// balancer to notice.
    pub delay: Duration,
    /// How long what was accepted may take to finish, counted from the end of the delay.
    pub timeout: Duration,
}

/// Where the process is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No end in sight.
    Serving,
    /// Everything is answered, with `Connection: close`.
    Draining {
        /// When it began.
        since: Instant,
    },
    /// The listener stops; what was accepted is finished.
    Closing {
        /// When the drain began.
        since: Instant,
    },
}

/// A handle by which an end is ordered and followed. Clones are one and the same.
#[derive(Debug, Clone)]
pub struct Drain {
    settings: DrainSettings,
    readiness: Arc<Readiness>,
    phase: watch::Sender<Phase>,
}

impl Drain {
    /// A drain that has not begun. [`Drain::begin`] turns `readiness` to draining.
    pub fn new(settings: DrainSettings, readiness: Arc<Readiness>) -> Self {
        Self { settings, readiness, phase: watch::Sender::new(Phase::Serving) }
    }

    /// Begins to end; further calls have no effect. Health says no when this returns. Must be called within a tokio
    /// runtime, which times the delay.
    pub fn begin(&self) {
        self.readiness.set_draining();
        let since = Instant::now();
        let begun = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Serving;
            if first {
                *phase = Phase::Draining { since };
            }
            first
        });
        if !begun {
            return;
        }
        if self.settings.delay.is_zero() {
            self.phase.send_replace(Phase::Closing { since });
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(this.settings.delay).await;
            this.phase.send_replace(Phase::Closing { since });
        });
    }

    /// Whether answers should ask the client to leave.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> DrainSettings {
        self.settings
    }

    /// The latch that it turns.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Waits until the drain has begun.
    pub async fn begun(&self) {
        self.reach(|phase| *phase != Phase::Serving).await;
    }

    /// Waits until the listener is to stop.
    pub async fn closing(&self) {
        self.reach(|phase| matches!(phase, Phase::Closing { .. })).await;
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    async fn reach(&self, wanted: impl FnMut(&Phase) -> bool) {
        // The sender lives as long as `self`, so that this never fails.
        let _ = self.phase.subscribe().wait_for(wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(delay: u64) -> (Drain, Arc<Readiness>) {
        let readiness = Arc::new(Readiness::new());
        readiness.set_ready();
        let settings = DrainSettings { delay: Duration::from_secs(delay), timeout: Duration::from_secs(30) };
        (Drain::new(settings, readiness.clone()), readiness)
    }

    #[tokio::test(start_paused = true)]
    async fn health_says_no_before_the_listener_stops() {
        let (drain, readiness) = drain(5);
        assert!(!drain.is_draining());
        let start = Instant::now();
        drain.begin();
        drain.begin();
        assert!(!readiness.is_ready());
        assert!(drain.is_draining());
        drain.begun().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        drain.closing().await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn without_delay_the_listener_stops_at_once() {
        let (drain, _) = drain(0);
        drain.begin();
        let start = Instant::now();
        drain.closing().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
