//! Who works: this thread alone, or a pool of threads.

use std::cell::RefCell;

use super::memory::Room;

#[cfg(feature = "parallel")]
use rayon::prelude::*;

/// Multiply-adds, or as long as they take, below which waking other threads costs more than they save.
const FEW: usize = 200_000;

/// The threads that share work.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    #[cfg(feature = "parallel")]
    pool: Option<std::sync::Arc<rayon::ThreadPool>>,
    count: usize,
}

impl Threads {
    /// All of the process: rayon's global pool under the feature `parallel`, else this thread.
    pub(crate) fn all() -> Self {
        #[cfg(feature = "parallel")]
        return Self { pool: None, count: rayon::current_num_threads() };
        #[cfg(not(feature = "parallel"))]
        Self { count: 1 }
    }

    /// This thread alone.
    pub(crate) fn one() -> Self {
        Self {
            #[cfg(feature = "parallel")]
            pool: None,
            count: 1,
        }
    }

    /// Those of a pool.
    #[cfg(feature = "parallel")]
    pub(crate) fn of(pool: std::sync::Arc<rayon::ThreadPool>) -> Self {
        Self { count: pool.current_num_threads(), pool: Some(pool) }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many of them are worth it for so much work.
    pub(crate) fn worth(&self, work: usize) -> usize {
        if work < FEW { 1 } else { self.count }
    }

    /// Each item through a function, on whichever thread is free; `work` is that of all together.
    pub(crate) fn each<T: Send>(&self, work: usize, items: Vec<T>, f: impl Fn(T) + Sync + Send) {
        #[cfg(feature = "parallel")]
        if self.worth(work) > 1 && items.len() > 1 {
            return self.inside(|| items.into_par_iter().with_max_len(1).for_each(f));
        }
        let _ = work;
        items.into_iter().for_each(f);
    }

    /// Runs something on a thread of the pool, if there is one of its own.
    pub(crate) fn inside<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "parallel")]
        if let Some(pool) = &self.pool {
            return pool.install(f);
        }
        f()
    }

    /// `f` on this thread, or one of the pool, and on as many others as are worth it for so much work and free, at
    /// the same time where they can be: one call alone has to be able to do everything.
    pub(crate) fn together(&self, work: usize, most: usize, f: impl Fn(usize, usize) + Sync + Send) {
        let count = self.worth(work).min(most).max(1);
        #[cfg(feature = "parallel")]
        if count > 1 {
            return self.inside(|| {
                rayon::scope(|scope| {
                    let f = &f;
                    (1..count).for_each(|n| scope.spawn(move |_| f(n, count)));
                    f(0, count);
                });
            });
        }
        f(0, count);
    }
}

thread_local! {
    /// Memory that a thread works in, kept from one task to the next.
    static ROOM: RefCell<Room> = RefCell::default();
}

/// f32 that a thread keeps at most.
const KEPT: usize = 4 << 20;

/// Calls `f` with this thread's memory; inside of itself, with new memory.
pub(crate) fn with_room<R>(f: impl FnOnce(&mut Room) -> R) -> R {
    let mut room = ROOM.take();
    let result = f(&mut room);
    if room.len() <= KEPT {
        ROOM.set(room);
    }
    result
}
