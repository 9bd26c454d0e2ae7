//! Signs of life: shown on a terminal only, and only when work takes longer than a second.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How long work may take in silence.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A spinner for work that cannot say how far it is; gone when dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// Starts waiting.
    pub(crate) fn new(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { done: None, thread: None };
        }
        let (done, told) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if told.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
                let spinner = ProgressBar::new_spinner().with_message(what);
                let spinner = style.map_or(spinner.clone(), |style| spinner.with_style(style));
                spinner.enable_steady_tick(Duration::from_millis(100));
                // Waits until the sender is dropped.
                let _ = told.recv();
                spinner.finish_and_clear();
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.done.take();
        if let Some(thread) = self.thread.take() {
            // The spinner is only shown; a failure in it is no failure of the work.
            let _ = thread.join();
        }
    }
}
