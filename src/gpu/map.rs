//! Reading buffers into host memory.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use super::{Gpu, lock};
use crate::error::Result;

/// A mapping that has been asked for.
#[derive(Debug, Default)]
pub(super) struct Read {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the buffer is mapped, once that is known.
    mapped: Option<bool>,
    waker: Option<Waker>,
}

impl Read {
    /// It is mapped, or will never be.
    pub(super) fn end(&self, mapped: bool) {
        // The lock is gone before the waker runs: an executor may poll the future from inside it.
        let waker = {
            let mut state = lock(&self.state);
            state.mapped.get_or_insert(mapped);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the buffer is mapped, once that is known.
    pub(super) async fn ended(&self) -> bool {
        let ended = |context: &mut std::task::Context<'_>| {
            let mut state = lock(&self.state);
            match state.mapped {
                Some(mapped) => Poll::Ready(mapped),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        };
        poll_fn(ended).await
    }
}

/// Maps a staging buffer and copies its bytes out, once the device has been polled past what was submitted.
pub(super) async fn map(gpu: &Gpu, staging: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
    let read = Arc::new(Read::default());
    gpu.inner.faults.watch_read(&read);
    // A device lost before that does not end it any more.
    gpu.check_lost()?;
    let callback = read.clone();
    gpu.scoped(|| {
        staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| callback.end(result.is_ok()));
    })?;
    let ended = read.ended().await;
    gpu.settled().await?;
    if !ended {
        return Err(gpu.fault("a buffer could not be mapped"));
    }
    gpu.check_done()?;
    let copied = gpu.scoped(|| {
        let copied = staging.slice(..bytes).get_mapped_range().map(|view| view.to_vec());
        staging.unmap();
        copied
    })?;
    copied.map_err(|error| gpu.fault(&error.to_string()))
}
