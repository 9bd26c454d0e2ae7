//! Signs of life: shown on a terminal only, and only when work takes longer than a second.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// How many texts are done, and how much of the input that is.
#[derive(Debug)]
pub(crate) struct Counter {
    /// All there is, in whatever unit, where that is known.
    total: Option<u64>,
    done: u64,
    texts: usize,
    since: Instant,
    /// There once it is shown.
    bar: Option<ProgressBar>,
    on_terminal: bool,
}

impl Counter {
    /// Nothing done yet.
    pub(crate) fn new(total: Option<u64>) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self { total, done: 0, texts: 0, since: Instant::now(), bar: None, on_terminal }
    }

    /// Some more texts are done, and with them so much of the total.
    pub(crate) fn advance(&mut self, texts: usize, amount: u64) {
        self.texts += texts;
        self.done += amount;
        if self.bar.is_none() && self.on_terminal && self.since.elapsed() > PATIENCE {
            self.bar = Some(self.show());
        }
        if let Some(bar) = &self.bar {
            let rate = self.texts as f64 / self.since.elapsed().as_secs_f64();
            bar.set_message(format!("{} texts, {rate:.0} a second", self.texts));
            bar.set_position(self.done);
        }
    }

    fn show(&self) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (ProgressBar::new(total), "{bar:40} {percent:>3} %  {msg}, {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}, {elapsed}"),
        };
        let bar = bar.with_elapsed(self.since.elapsed());
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    /// Does something that may write to the terminal.
    pub(crate) fn pause<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Takes it off the terminal.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Steps of work whose number is known.
#[derive(Debug)]
pub(crate) struct Steps {
    what: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
    on_terminal: bool,
}

impl Steps {
    /// Nothing done yet.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: Instant::now(), bar: None, on_terminal: std::io::stderr().is_terminal() }
    }

    /// So many of so many are done.
    pub(crate) fn set(&mut self, done: u64, all: u64) {
        if self.bar.is_none() && self.on_terminal && self.since.elapsed() > PATIENCE {
            let bar = ProgressBar::new(all);
            self.bar = Some(match ProgressStyle::with_template("{bar:40} {pos} of {len} {msg}, {eta} left") {
                Ok(style) => bar.with_style(style).with_message(self.what),
                Err(_) => bar,
            });
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Does something that may write to the terminal.
    pub(crate) fn pause<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Takes it off the terminal.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
