//! Files that are read again when they change: certificates, tokens.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the files are looked at. Their bytes are, as times of change can't be trusted: Kubernetes swaps links.
const LOOK: Duration = Duration::from_secs(2);

/// Files as they were when this was made.
#[derive(Debug, Clone)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Option<u64>>,
}

impl FileWatch {
    /// Looks at the files now. To be made before they are read, so that no change is missed.
    pub fn new<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().to_owned()).collect();
        Self { seen: look(&paths), paths }
    }

    /// Calls `changed`, on a thread where it may block, whenever the content of a file is another one; it is looked at
    /// every two seconds, and at once on SIGHUP. For as long as the runtime lives.
    pub fn follow(self, changed: impl Fn() + Send + Sync + 'static) {
        let Self { paths, mut seen } = self;
        let changed = std::sync::Arc::new(changed);
        let mut hangup = Hangup::new();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = hangup.recv() => tracing::info!("SIGHUP: looking at the files again"),
                }
                let (paths, before, changed) = (paths.clone(), seen.clone(), changed.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    let now = look(&paths);
                    if now != before {
                        changed();
                    }
                    now
                });
                if let Ok(now) = looked.await {
                    seen = now;
                }
            }
        });
    }
}

fn look(paths: &[PathBuf]) -> Vec<Option<u64>> {
    let hash = |path: &PathBuf| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&std::fs::read(path).ok()?);
        Some(hasher.finish())
    };
    paths.iter().map(hash).collect()
}

/// SIGHUP, where there is one. Listening for it also keeps it from ending the process.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { signal: signal(SignalKind::hangup()).ok() }
    }

    #[cfg(not(unix))]
    fn new() -> Self {
        Self {}
    }

    async fn recv(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
