//! Rounds that threads go through together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Looks at the others before a thread that waits does their items: longer than an item takes.
const PATIENCE: usize = 4000;
/// Looks before a thread that waits lets others run.
const SPINS: usize = 40_000;

/// Rounds of items, each done once, and each round after the one before. An item is at home with one thread, which does it in
/// every round and so finds its weights in its own cache; if that thread is away, another does it. Nobody has to come.
pub(crate) struct Lockstep {
    /// The round that an item waits for.
    next: Vec<Line<AtomicUsize>>,
    /// Items done in all rounds.
    done: Line<AtomicUsize>,
}

/// Alone in its line of the cache.
#[repr(align(128))]
struct Line<T>(T);

impl Lockstep {
    pub(crate) fn new(items: usize) -> Self {
        Self { next: (0..items).map(|_| Line(AtomicUsize::new(0))).collect(), done: Line(AtomicUsize::new(0)) }
    }

    /// Goes through `rounds` as thread `own` of `threads`. What `f(round, item)` has written is there for every item of later
    /// rounds.
    pub(crate) fn run(&self, own: usize, threads: usize, rounds: usize, f: impl Fn(usize, usize)) {
        let items = self.next.len();
        if items == 0 {
            return;
        }
        let home = own * items / threads..(own + 1) * items / threads;
        // Who comes late begins where the others are.
        let mut round = self.done.0.load(Ordering::Acquire) / items;
        let mut patience = PATIENCE;
        while round < rounds {
            for item in home.clone() {
                self.try_item(round, item, &f);
            }
            let mut looks = 0;
            let mut alone = false;
            loop {
                let done = self.done.0.load(Ordering::Acquire);
                if done >= BROKEN {
                    return;
                }
                if done >= (round + 1) * items {
                    break;
                }
                looks += 1;
                if looks % patience == 0 {
                    for item in 0..items {
                        alone |= self.try_item(round, item, &f);
                    }
                }
                if looks % SPINS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
            // Whoever was away is not waited for until they do their own items again.
            patience = if alone { 1 } else { PATIENCE };
            round += 1;
        }
    }

    /// Does an item, if nobody else has begun it.
    fn try_item(&self, round: usize, item: usize, f: &impl Fn(usize, usize)) -> bool {
        let next = &self.next[item].0;
        let claim = || next.compare_exchange(round, round + 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let is_ours = next.load(Ordering::Relaxed) == round && claim();
        if is_ours {
            let guard = Guard(&self.done.0);
            f(round, item);
            std::mem::forget(guard);
            self.done.0.fetch_add(1, Ordering::AcqRel);
        }
        is_ours
    }
}

/// What `done` is after an item has panicked: the others leave, and the panic is told where its thread is joined.
const BROKEN: usize = usize::MAX / 2;

/// Marks the rounds as broken when it is dropped.
struct Guard<'a>(&'a AtomicUsize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(BROKEN, Ordering::Release);
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Each round reads what all items of the round before wrote.
    #[test]
    fn rounds_follow_each_other() {
        for threads in [1, 2, 3, 7] {
            let (items, rounds) = (5, 200);
            let lockstep = Lockstep::new(items);
            let sums: Vec<Vec<AtomicU64>> =
                (0..=rounds).map(|_| (0..items).map(|_| AtomicU64::new(0)).collect()).collect();
            sums[0].iter().for_each(|sum| sum.store(1, Ordering::Relaxed));
            std::thread::scope(|scope| {
                for own in 0..threads {
                    let (lockstep, sums) = (&lockstep, &sums);
                    scope.spawn(move || {
                        lockstep.run(own, threads, rounds, |round, item| {
                            let before: u64 = sums[round].iter().map(|sum| sum.load(Ordering::Relaxed)).sum();
                            sums[round + 1][item].fetch_add(before % 1_000_003 + item as u64, Ordering::Relaxed);
                        });
                    });
                }
            });
            let mut wanted = vec![1u64; items];
            for _ in 0..rounds {
                let before: u64 = wanted.iter().sum();
                wanted = (0..items as u64).map(|item| before % 1_000_003 + item).collect();
            }
            let found: Vec<u64> = sums[rounds].iter().map(|sum| sum.load(Ordering::Relaxed)).collect();
            assert_eq!(found, wanted);
        }
    }

    /// The others of a thread that panics leave.
    #[test]
    fn a_panic_ends_the_rounds_of_all() {
        let lockstep = Lockstep::new(4);
        std::thread::scope(|scope| {
            let of = |own| {
                let lockstep = &lockstep;
                scope.spawn(move || {
                    lockstep.run(own, 2, 100, |round, item| assert!((round, item) != (7, 3), "on purpose"))
                })
            };
            let ended = [of(0), of(1)].map(std::thread::ScopedJoinHandle::join);
            assert!(ended.iter().any(Result::is_err));
        });
    }

    /// Threads that never come are not waited for.
    #[test]
    fn one_does_everything_if_need_be() {
        let lockstep = Lockstep::new(4);
        let count = AtomicUsize::new(0);
        lockstep.run(1, 3, 10, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 40);
    }
}
