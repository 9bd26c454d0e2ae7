//! What goes wrong on a device, as errors.
//!
//! wgpu tells of invalid calls, of memory that has run out and of failures inside the driver through error scopes; of a
//! lost device it tells the callback of whoever opened it, and from then on passes over every call without a word. So
//! each call runs in scopes ([`scoped`]), and what a lost device leaves undone is looked at: a buffer that cannot be
//! written or mapped. Every upload, run and read needs one, so that needs no callback and holds for an embedder's device
//! too.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

use super::map::Read;
use super::{Gpu, lock, pool};
use crate::error::{Cause, Error, Result};

/// Runs wgpu calls so that their errors come back instead of reaching a handler. Scopes belong to the calling thread. Natively
/// what they caught is known at once; in a browser it is known later, and kept with the faults until somebody waits for it
/// ([`Gpu::settled`]).
pub(super) fn scoped<T>(faults: &Faults, device: &wgpu::Device, f: impl FnOnce() -> T) -> Result<T> {
    match in_scopes(device, f) {
        Ok((value, Caught::Now(None))) => Ok(value),
        Ok((value, Caught::Later(later))) => {
            lock(&faults.later).push(later);
            Ok(value)
        }
        // What was made on a lost device is invalid wherever it is used.
        Ok((_, Caught::Now(Some(error)))) if is_lost(device) => Err(Error::DeviceLost(Cause::of(error))),
        Ok((_, Caught::Now(Some(error)))) => Err(told(error)),
        Err(Panicked) => Err(Error::DeviceLost("the driver failed where wgpu relies on it".into())),
    }
}

/// What wgpu said, as an error of this crate's.
fn told(error: wgpu::Error) -> Error {
    match error {
        error @ wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory(Cause::new(whole(&error), error)),
        error => Error::Gpu(Cause::of(error)),
    }
}

/// wgpu 30 panics where it has no error for a driver that fails: while it polls, or begins commands of its own. It holds
/// no lock then, but what it knows of the device may be anything, so the device counts as lost.
struct Panicked;

fn caught<T>(f: impl FnOnce() -> T) -> std::result::Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| Panicked)
}

/// What a scope caught, once it is known.
type Scope = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;

/// What the scopes around a call caught.
enum Caught {
    Now(Option<wgpu::Error>),
    Later(Scope),
}

/// The first error that scopes caught, once all of them are known.
async fn first<S: Future<Output = Option<wgpu::Error>>>(scopes: impl IntoIterator<Item = S>) -> Option<wgpu::Error> {
    let mut first = None;
    for scope in scopes {
        let caught = scope.await;
        first = first.or(caught);
    }
    first
}

fn in_scopes<T>(device: &wgpu::Device, f: impl FnOnce() -> T) -> std::result::Result<(T, Caught), Panicked> {
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let value = caught(f);
    // Without memory the calls behind the first fail too, as invalid: the first is what counts.
    let mut later: Scope = Box::pin(first([memory.pop(), internal.pop(), validation.pop()]));
    let known = later.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let caught = match known {
        Poll::Ready(error) => Caught::Now(error),
        Poll::Pending => Caught::Later(later),
    };
    Ok((value?, caught))
}

/// An error with its causes; of memory that has run out, wgpu's own text says nothing else.
fn whole(error: &wgpu::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// True when the device takes no more work: a buffer that is neither refused nor there to be written was passed over.
pub(super) fn is_lost(device: &wgpu::Device) -> bool {
    let descriptor = wgpu::BufferDescriptor {
        label: Some("regard probe"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    };
    let probe = || device.create_buffer(&descriptor).slice(..).get_mapped_range_mut().is_err();
    matches!(in_scopes(device, probe), Ok((true, Caught::Now(None) | Caught::Later(_))) | Err(Panicked))
}

/// Wakes a thread that is parked.
#[cfg(not(target_arch = "wasm32"))]
struct Thread(std::thread::Thread);

#[cfg(not(target_arch = "wasm32"))]
impl std::task::Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What is known to be wrong with a device.
#[derive(Default)]
pub(super) struct Faults {
    /// Why the device is gone, once it is.
    lost: Mutex<Option<Cause>>,
    /// An error outside of any call of this crate, to be told by the next one.
    uncaptured: Mutex<Option<Cause>>,
    /// What scopes caught, where that is not known yet.
    later: Mutex<Vec<Scope>>,
    /// Reads that wait for the device.
    reads: Mutex<Vec<Weak<Read>>>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("lost", &self.lost).field("uncaptured", &self.uncaptured).finish_non_exhaustive()
    }
}

impl Faults {
    /// Takes the callbacks of a device that is this crate's own.
    pub(super) fn watch(self: &Arc<Self>, device: &wgpu::Device) {
        let faults = self.clone();
        device.set_device_lost_callback(move |reason, message| {
            faults.lose(format!("{reason:?} {message}").trim_end());
        });
        let faults = self.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            *lock(&faults.uncaptured) = Some(Cause::of(error));
        }));
    }

    /// The device is gone; the first reason is kept, and reads that wait end.
    fn lose(&self, reason: impl Into<Cause>) {
        lock(&self.lost).get_or_insert_with(|| reason.into());
        let reads = std::mem::take(&mut *lock(&self.reads));
        reads.iter().filter_map(Weak::upgrade).for_each(|read| read.end(false));
    }

    /// Ends this read when the device is lost.
    pub(super) fn watch_read(&self, read: &Arc<Read>) {
        let mut reads = lock(&self.reads);
        reads.retain(|read| read.strong_count() > 0);
        reads.push(Arc::downgrade(read));
    }
}

impl Gpu {
    /// The first error of all calls so far that nobody has been told. Natively calls give their errors back themselves; in a browser
    /// they are known later, and reads give them back: this is for what is never read.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Gpu`] or [`Error::DeviceLost`].
    pub async fn settled(&self) -> Result<()> {
        let scopes = std::mem::take(&mut *lock(&self.inner.faults.later));
        let caught = first(scopes).await;
        self.check_lost()?;
        caught.map_or(Ok(()), |error| Err(told(error)))
    }

    /// The output of a future of this crate's, such as an asynchronous read, waiting for it and polling the device that it waits
    /// for: for programs without an executor. Futures of others that wait for something else are polled a thousand times a second.
    /// Browsers have executors and no waiting: there is no such function.
    ///
    /// # Errors
    /// The future's own, and [`Error::DeviceLost`] or [`Error::Gpu`] where the device cannot be waited for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn drive<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let waker = Waker::from(Arc::new(Thread(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        let mut waited = Ok(());
        loop {
            match (future.as_mut().poll(&mut context), waited) {
                (Poll::Ready(output), _) => return output,
                (Poll::Pending, Err(error)) => return Err(error),
                (Poll::Pending, Ok(())) => waited = self.wait_unchecked(),
            }
            // What was waited for has woken this thread; of anything else it is looked at again.
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Waits until everything submitted so far is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        self.wait_unchecked()?;
        self.check_done()
    }

    /// To be asked before what was waited for is believed. A driver that resets a device whose work took too long may
    /// signal that the work is done, and refuse only what is submitted next: so something is, which changes nothing.
    pub(super) fn check_done(&self) -> Result<()> {
        self.scoped(|| {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("regard probe") };
            let mut encoder = self.device().create_command_encoder(&descriptor);
            encoder.clear_buffer(&self.inner.zeros, 0, Some(4));
            self.queue().submit([encoder.finish()]);
        })?;
        if is_lost(self.device()) { Err(self.fault("the device is lost")) } else { self.check_lost() }
    }

    /// As [`Gpu::wait`], for what would fail by itself on a device that is lost but has not said so.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn wait_unchecked(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| Error::Gpu(Cause::of(error)))?;
        self.check_lost()
    }

    /// From an embedder's device-lost callback: every later call gives [`Error::DeviceLost`] with this reason, and reads
    /// that wait for the device end with it.
    pub fn mark_lost(&self, reason: &str) {
        *lock(&self.inner.faults.lost) = Some(reason.into());
        self.inner.faults.lose(reason);
    }

    pub(super) fn check_lost(&self) -> Result<()> {
        if let Some(reason) = &*lock(&self.inner.faults.lost) {
            return Err(Error::DeviceLost(reason.clone()));
        }
        match lock(&self.inner.faults.uncaptured).take() {
            Some(cause) => Err(Error::Gpu(cause)),
            None => Ok(()),
        }
    }

    /// The error behind something that failed without one: the device is lost, or it is this.
    pub(super) fn fault(&self, what: &str) -> Error {
        // Tells this crate's own callback, which knows the reason.
        let _ = self.poll(wgpu::PollType::Poll);
        if is_lost(self.device()) {
            self.inner.faults.lose("it takes no more work");
        }
        self.check_lost().err().unwrap_or_else(|| Error::Gpu(what.into()))
    }

    /// Lets what is done be freed and its callbacks run, after waiting for it if told so. A device that is found lost is
    /// marked so.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> std::result::Result<(), wgpu::PollError> {
        caught(|| self.device().poll(how)).map_or_else(
            |Panicked| {
                self.inner.faults.lose("the driver failed while it was waited for");
                Ok(())
            },
            |polled| polled.map(drop),
        )
    }

    /// Runs wgpu calls so that their errors come back. A device that is found lost is marked so.
    pub(super) fn scoped<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        let done = scoped(&self.inner.faults, self.device(), f);
        if let Err(Error::DeviceLost(reason)) = &done {
            self.inner.faults.lose(reason.clone());
            // The reason that the driver gave, if it was the first.
            self.check_lost()?;
        }
        done
    }

    /// Submits encoders, one after the other, each by itself; none where one of them is at fault.
    pub(super) fn submit(&self, encoders: Vec<wgpu::CommandEncoder>) -> Result<()> {
        let count = encoders.len() as u64;
        let buffers: Vec<_> = self.scoped(|| encoders.into_iter().map(wgpu::CommandEncoder::finish).collect())?;
        self.scoped(|| {
            for buffer in buffers {
                self.queue().submit([buffer]);
            }
        })?;
        // Frees what is done, without waiting. A wait for no time at all would tell whether this submission is known, but
        // wgpu 30 panics when another thread polls at the same moment.
        let _ = self.poll(wgpu::PollType::Poll);
        self.inner.counters.submits.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        self.check_lost()
    }

    /// A scratch buffer of the pool, of at least this size, its contents undefined.
    pub(super) fn scratch(&self, bytes: u64) -> Result<wgpu::Buffer> {
        let size = pool::size(bytes, self.caps().max_tensor_bytes());
        if let Some(buffer) = lock(&self.inner.pool).take(size) {
            return Ok(buffer);
        }
        let buffer = self.scratch_buffer(size)?;
        lock(&self.inner.pool).lend(&buffer);
        Ok(buffer)
    }

    /// A scratch buffer of its own.
    pub(super) fn scratch_buffer(&self, size: u64) -> Result<wgpu::Buffer> {
        self.buffer(&wgpu::BufferDescriptor {
            label: Some("regard scratch"),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// A buffer; where memory has run out, once more after scratch memory has been given back.
    pub(super) fn buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        let make = || self.scoped(|| self.device().create_buffer(descriptor));
        match make() {
            Err(Error::OutOfMemory(_)) => {
                self.trim();
                let _ = self.poll(wgpu::PollType::Poll);
                make()
            }
            made => made,
        }
    }
}
