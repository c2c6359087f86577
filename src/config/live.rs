//! Settings that follow their layers while a program runs.

use std::{fmt, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

#[cfg(feature = "remote")]
use super::layers::Layer;
use super::{
    Config, ConfigError,
    layers::{Files, Texts, texts_later},
};

/// How often files are read again. As quick as an operator looks, and a file of settings is small.
const LOOK: Duration = Duration::from_secs(2);

/// Settings that are exchanged while the program runs. Clones are told the same.
pub struct Live<T> {
    state: watch::Receiver<State<T>>,
    _task: Arc<Following>,
}

struct State<T> {
    settings: Arc<T>,
    refused: Option<ConfigError>,
}

impl<T> Live<T> {
    /// Those that hold now. Keep the result for the length of a request, so that it sees one state of them.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.state.borrow().settings.clone()
    }

    /// Waits until there are others than those that were last seen by this, and returns them.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Arc<T> {
        if self.state.changed().await.is_err() {
            // Only when the runtime ends.
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().settings.clone()
    }

    /// Why what stands in the layers now does not hold, if it does not.
    #[must_use]
    pub fn refused(&self) -> Option<ConfigError> {
        self.state.borrow().refused.clone()
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), _task: self._task.clone() }
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("refused", &self.refused()).finish_non_exhaustive()
    }
}

/// Ends the task when the last [`Live`] goes.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Config<T> {
    /// Reads all layers, waits until the store of the keys has answered for the first time, and goes on reading as long as the result or a clone of it is there.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), of the first reading only.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is safe: nothing was begun. Put a timeout around it to start without a store, then with [`Config::load`].
    pub async fn follow(self) -> Result<Live<T>, ConfigError> {
        #[cfg(feature = "remote")]
        for layer in &self.layers {
            if let Layer::Keys { watch, .. } = layer {
                watch.known().await;
            }
        }
        let files = Arc::new(self.files());
        let seen = texts_later(&files).await?;
        let first = Arc::new(self.read(&seen)?);
        let (told, live) = watch::channel(State { settings: first, refused: None });
        let task = tokio::spawn(self.go_on(files, seen, told)).abort_handle();
        Ok(Live { state: live, _task: Arc::new(Following(task)) })
    }

    async fn go_on(mut self, files: Arc<Files>, mut seen: Texts, told: watch::Sender<State<T>>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = self.keys();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.key_changes() => {}
            }
            let next = texts_later(&files).await.and_then(|now| {
                let keys = self.keys();
                if now == seen && keys == read && told.borrow().refused.is_none() {
                    return Ok(None);
                }
                (seen, read) = (now, keys);
                self.read(&seen).map(Some)
            });
            match next {
                Ok(None) => {}
                Ok(Some(settings)) => {
                    told.send_replace(State { settings: Arc::new(settings), refused: None });
                }
                Err(error) => {
                    let refused = Some(error);
                    // Only `changed` of those who want to know settings is woken by new ones.
                    told.send_if_modified(|state| {
                        state.refused = refused;
                        false
                    });
                }
            }
        }
    }
}

#[cfg(feature = "remote")]
impl<T> Config<T> {
    /// Ends when a key changes.
    async fn key_changes(&mut self) {
        let watches = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Keys { watch, .. } => Some(Box::pin(watch.changed())),
            _ => None,
        });
        let mut changes: Vec<_> = watches.collect();
        std::future::poll_fn(|cx| {
            let changed = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
            if changed { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    fn keys(&self) -> Vec<u64> {
        let watches = self.layers.iter().filter_map(|layer| match layer {
            Layer::Keys { watch, .. } => Some(watch.snapshot().version()),
            _ => None,
        });
        watches.collect()
    }
}

#[cfg(not(feature = "remote"))]
impl<T> Config<T> {
    async fn key_changes(&mut self) {
        std::future::pending().await
    }

    fn keys(&self) -> Vec<u64> {
        Vec::new()
    }
}
