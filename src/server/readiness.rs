//! Whether the process can do its work: a latch that health probes read without waiting for anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// What the process can do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Models are being loaded or warmed up.
    Loading {
        /// The progress of each model, by name.
        models: BTreeMap<String, String>,
    },
    /// Every configured model is loaded and warm.
    Ready,
    /// It will never be ready.
    Failed {
        /// What went wrong.
        reason: String,
    },
    /// It has been told to end; what arrives is still answered for a while.
    Draining,
}

impl State {
    /// `LOADING`, `READY`, `FAILED` or `DRAINING`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading { .. } => "LOADING",
            Self::Ready => "READY",
            Self::Failed { .. } => "FAILED",
            Self::Draining => "DRAINING",
        }
    }
}

/// One sentence for people.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading { models } if models.is_empty() => f.write_str("starting"),
            Self::Loading { models } => {
                f.write_str("loading models: ")?;
                for (index, (model, progress)) in models.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{model}: {progress}")?;
                }
                Ok(())
            }
            Self::Ready => f.write_str("ready"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
            Self::Draining => f.write_str("shutting down"),
        }
    }
}

/// The latch. It goes from loading to ready or failed, and from anywhere to draining; never back.
#[derive(Debug)]
pub struct Readiness {
    /// What readers see; swapped whole, so that no reader waits.
    state: ArcSwap<State>,
    /// Serialises writers, so that no transition is lost.
    writer: Mutex<()>,
    changed: watch::Sender<()>,
}

impl Default for Readiness {
    fn default() -> Self {
        let state = State::Loading { models: BTreeMap::new() };
        Self { state: ArcSwap::from_pointee(state), writer: Mutex::new(()), changed: watch::Sender::new(()) }
    }
}

impl Readiness {
    /// A latch that says "starting".
    pub fn new() -> Self {
        Self::default()
    }

    /// The present state. Takes no lock.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Whether predictions can be answered.
    pub fn is_ready(&self) -> bool {
        **self.state.load() == State::Ready
    }

    /// Notes how far `model` is, as in `warming up, batch 2 of 4`. Without effect once loading is over.
    pub fn set_progress(&self, model: &str, progress: impl Into<String>) {
        self.update(|state| match state {
            State::Loading { models } => {
                let mut models = models.clone();
                models.insert(model.to_owned(), progress.into());
                Some(State::Loading { models })
            }
            _ => None,
        });
    }

    /// Takes back what [`set_progress`](Self::set_progress) noted: there is no such model after all.
    pub fn forget(&self, model: &str) {
        self.update(|state| match state {
            State::Loading { models } => {
                let mut models = models.clone();
                models.remove(model);
                Some(State::Loading { models })
            }
            _ => None,
        });
    }

    /// Every model is loaded and warm. Without effect unless loading.
    pub fn set_ready(&self) {
        self.update(|state| matches!(state, State::Loading { .. }).then_some(State::Ready));
    }

    /// It can never become ready. Without effect while draining.
    pub fn set_failed(&self, reason: impl Into<String>) {
        self.update(|state| (*state != State::Draining).then(|| State::Failed { reason: reason.into() }));
    }

    /// The process is about to end.
    pub fn set_draining(&self) {
        self.update(|_| Some(State::Draining));
    }

    /// Waits until `wanted` accepts the state, and returns that state.
    pub async fn wait_until(&self, wanted: impl Fn(&State) -> bool) -> Arc<State> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            if changed.changed().await.is_err() {
                return state; // Not reached: `self` owns the sender.
            }
        }
    }

    fn update(&self, next: impl FnOnce(&State) -> Option<State>) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = next(&self.state.load()) {
            self.state.store(Arc::new(state));
            self.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_progress_of_each_model() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state().to_string(), "starting");
        readiness.set_progress("vit", "loading");
        readiness.set_progress("imagenet", "ready");
        readiness.set_progress("vit", "warming up, batch 2 of 4");
        assert_eq!(readiness.state().to_string(), "loading models: imagenet: ready; vit: warming up, batch 2 of 4");
        readiness.forget("vit");
        assert_eq!(readiness.state().to_string(), "loading models: imagenet: ready");
        assert!(!readiness.is_ready());
        readiness.set_ready();
        assert!(readiness.is_ready());
    }

    #[test]
    fn never_goes_back() {
        let readiness = Readiness::new();
        readiness.set_ready();
        readiness.set_progress("vit", "loading");
        assert_eq!(*readiness.state(), State::Ready);
        readiness.set_draining();
        readiness.set_ready();
        readiness.set_failed("too late");
        assert_eq!(*readiness.state(), State::Draining);
    }

    #[tokio::test]
    async fn wakes_who_waits() {
        let readiness = Arc::new(Readiness::new());
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.wait_until(|state| *state == State::Ready).await }
        });
        tokio::task::yield_now().await;
        readiness.set_progress("vit", "loading");
        readiness.set_ready();
        assert_eq!(*waiting.await.unwrap(), State::Ready);
    }
}
