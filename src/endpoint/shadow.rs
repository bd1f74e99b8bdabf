//! Deployed models that answer nobody: they get copies of the traffic, and their answers are only compared.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::DeployedModel;
use super::traffic::TrafficSplit;

/// Copies that may be under way to one shadow; more are dropped, as the shadow is behind.
const ROOM: usize = 4;

/// A deployed model that is a shadow.
pub struct Shadow {
    /// The model.
    pub deployed: Arc<DeployedModel>,
    share: TrafficSplit,
    room: Arc<Semaphore>,
}

/// What becomes of a request, as far as a shadow is concerned.
pub enum Copied {
    /// It is another one's turn.
    No,
    /// The shadow is behind.
    Dropped,
    /// It gets a copy. The permit is to be held until that is answered.
    Yes(OwnedSemaphorePermit),
}

impl Shadow {
    /// A shadow of `percent` of the requests.
    pub fn new(deployed: Arc<DeployedModel>, percent: u8) -> Self {
        let percent = percent.min(100);
        let share = TrafficSplit::new(&[percent, 100 - percent]);
        Self { deployed, share, room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// Whether the next request is copied.
    pub fn copy(&self) -> Copied {
        match self.share.next() {
            Some(0) => self.room.clone().try_acquire_owned().map_or(Copied::Dropped, Copied::Yes),
            _ => Copied::No,
        }
    }
}
