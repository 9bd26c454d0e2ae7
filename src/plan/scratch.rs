//! Memory that lives within one recording: values whose lifetimes do not overlap share a buffer.

/// Commands that touch a value: the first, which writes it, and the last, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The first command that names it.
    pub first: usize,
    /// The last one.
    pub last: usize,
}

/// Which buffer each value lies in. A buffer holds one value at a time, and whole: WebGPU lets a dispatch either read a
/// buffer or write it, so that two values of one dispatch must not lie in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScratchPlan {
    /// Bytes of each buffer.
    pub buffers: Vec<u64>,
    /// For each value the number of its buffer; none for one that nothing touches.
    pub buffer_of: Vec<Option<usize>>,
}

impl ScratchPlan {
    /// For values of so many bytes each. In the order of their first commands, each takes the free buffer that wastes the
    /// least; where all free ones are too small, the largest of them grows.
    pub fn new(values: &[(u64, Option<Lifetime>)]) -> Self {
        let mut order: Vec<(usize, u64, Lifetime)> =
            values.iter().enumerate().filter_map(|(value, &(bytes, life))| Some((value, bytes, life?))).collect();
        order.sort_by_key(|(_, bytes, life)| (life.first, std::cmp::Reverse(*bytes)));
        let mut plan = Self { buffers: Vec::new(), buffer_of: vec![None; values.len()] };
        // The last command that uses each buffer so far.
        let mut busy: Vec<usize> = Vec::new();
        for (value, bytes, Lifetime { first, last }) in order {
            let free = (0..busy.len()).filter(|&buffer| busy[buffer] < first);
            let waste = |&buffer: &usize| match plan.buffers[buffer] {
                size if size >= bytes => (0, size - bytes),
                size => (1, bytes - size),
            };
            let buffer = free.min_by_key(waste).unwrap_or_else(|| {
                plan.buffers.push(0);
                busy.push(0);
                busy.len() - 1
            });
            plan.buffers[buffer] = plan.buffers[buffer].max(bytes);
            busy[buffer] = last;
            plan.buffer_of[value] = Some(buffer);
        }
        plan
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(first: usize, last: usize) -> Option<Lifetime> {
        Some(Lifetime { first, last })
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<_> = (0..10).map(|k| (100 + k as u64, life(k, k + 1))).collect();
        let plan = ScratchPlan::new(&chain);
        assert_eq!(plan.buffers.len(), 2);
        assert_eq!(plan.bytes(), 108 + 109);
    }

    #[test]
    fn values_of_one_command_never_share() {
        // Pseudo-random lifetimes: no two that overlap, even in one command, are in one buffer, and each fits.
        let mut state = 1u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..50 {
            let values: Vec<_> = (0..60)
                .map(|_| {
                    let first = next(40) as usize;
                    (next(1000) + 1, (next(10) > 0).then(|| Lifetime { first, last: first + next(8) as usize }))
                })
                .collect();
            let plan = ScratchPlan::new(&values);
            for (a, (bytes, one)) in values.iter().enumerate() {
                assert_eq!(plan.buffer_of[a].is_some(), one.is_some());
                let (Some(one), Some(buffer)) = (one, plan.buffer_of[a]) else { continue };
                assert!(plan.buffers[buffer] >= *bytes);
                for (b, (_, other)) in values.iter().enumerate().skip(a + 1) {
                    let Some(other) = other else { continue };
                    let meet = one.first <= other.last && other.first <= one.last;
                    assert!(!(meet && plan.buffer_of[b] == Some(buffer)), "{one:?} {other:?}");
                }
            }
            let all: u64 = values.iter().filter(|(_, life)| life.is_some()).map(|(bytes, _)| bytes).sum();
            assert!(plan.bytes() < all);
        }
    }

    #[test]
    fn what_nothing_touches_needs_no_memory() {
        assert_eq!(ScratchPlan::new(&[(64, None)]), ScratchPlan { buffers: Vec::new(), buffer_of: vec![None] });
    }
}
