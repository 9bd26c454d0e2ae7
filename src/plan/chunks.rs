//! Long work: a dispatch that would keep the device busy for too long is run in chunks.

use std::time::Duration;

use crate::device::Caps;
use crate::recording::Dispatch;

/// Some neighbouring workgroups of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the first one.
    pub first: u32,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
}

/// Chunks that a dispatch is run in, about: more would take longer to list than to compute.
const MOST_CHUNKS: u128 = 1 << 16;

/// The chunks that a dispatch is run in, one after the other: as many as make each short enough, down to a workgroup each.
/// Together they are all of its workgroups, each once, so that every number is computed as in one dispatch. A user's kernel
/// that does not say that it may be cut is run whole.
pub fn chunks(dispatch: &Dispatch, caps: &Caps) -> Vec<Chunk> {
    let [x, y] = dispatch.grid;
    let takes = caps.rates.longest(dispatch.flops, dispatch.bytes).max(Duration::from_nanos(1));
    if takes <= caps.longest_dispatch || x == 0 || y == 0 || !dispatch.variant.kernel.is_divisible() {
        return vec![Chunk { first: 0, grid: [x, y] }];
    }
    let workgroups = u128::from(x) * u128::from(y);
    let most = workgroups * caps.longest_dispatch.as_nanos() / takes.as_nanos();
    let most = most.max(workgroups / MOST_CHUNKS);
    // Less than `workgroups`, which are fewer than 2³²; whole rows of the grid, or chunks of one.
    let most = most.max(1) as u32;
    let pieces = |n: u32, most: u32| (0..n).step_by(most as usize).map(move |first| (first, most.min(n - first)));
    if most >= x {
        return pieces(y, most / x).map(|(row, rows)| Chunk { first: row * x, grid: [x, rows] }).collect();
    }
    (0..y)
        .flat_map(|row| pieces(x, most).map(move |(first, n)| Chunk { first: row * x + first, grid: [n, 1] }))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernels::copy;
    use crate::wgsl::Variant;

    /// A dispatch of so much work, whatever it is.
    pub(in crate::plan) fn dispatch(grid: [u32; 2], flops: u64, bytes: u64) -> Dispatch {
        let variant = Variant::new(&copy::KERNEL, [], []);
        Dispatch {
            variant,
            params: Vec::new(),
            bindings: Vec::new(),
            grid,
            iterations: 0,
            workgroup_bytes: 0,
            flops,
            bytes,
        }
    }

    #[test]
    fn parts_are_short_and_hold_every_workgroup_once() {
        let caps = Caps::default().with(|caps| caps.longest_dispatch = Duration::from_micros(7));
        for grid in [[1, 1], [5, 1], [64, 3], [1000, 17], [65_535, 2], [1000, 60_000]] {
            let [x, y] = grid.map(u64::from);
            for (flops, bytes) in [(0, 0), (1 << 10, 3 << 10), (1 << 20, 1 << 14), (1 << 24, 1 << 20), (1 << 50, 0)] {
                let dispatch = dispatch(grid, flops, bytes);
                let chunks = chunks(&dispatch, &caps);
                let mut next = 0;
                for Chunk { first, grid: [columns, rows] } in &chunks {
                    assert_eq!(u64::from(*first), next, "{grid:?}");
                    // The number of a workgroup is counted in rows of the chunk's own width.
                    assert!(*rows == 1 || u64::from(*columns) == x);
                    let count = u64::from(*columns) * u64::from(*rows);
                    let share = |n: u64| (u128::from(n) * u128::from(count)).div_ceil(u128::from(x * y)) as u64;
                    let takes = caps.rates.longest(share(flops), share(bytes));
                    let short = takes <= caps.longest_dispatch + Duration::from_nanos(2);
                    assert!(short || count == 1 || chunks.len() >= 1 << 16, "{takes:?}");
                    next += count;
                }
                assert_eq!(next, x * y);
                assert!(chunks.len() <= 2 << 16);
                assert_eq!(chunks.len() == 1, x * y == 1 || caps.rates.longest(flops, bytes) <= caps.longest_dispatch);
            }
        }
    }

    #[test]
    fn ordinary_work_is_one_dispatch() {
        // Attention of 1×8×4096×64 on the slowest of cards.
        let flops = 4 * 8 * 4096 * 4096 * 64;
        assert_eq!(chunks(&dispatch([512, 1], flops, 8 << 20), &Caps::default()).len(), 1);
    }
}
