//! What bounds a recording in time, by the device model: the roofline model (Williams, Waterman and Patterson 2009) with
//! workgroup memory and launches beside arithmetic and memory.

use super::chunks;
use crate::device::{Caps, Rates};
use crate::recording::Recording;

/// What a recording asks of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Multiplications and additions of lanes.
    pub flops: u64,
    /// Those of cooperative matrices.
    pub matrix_flops: u64,
    /// Bytes read and written in workgroup memory.
    pub workgroup_bytes: u64,
    /// Bytes that must be read and written at least once in buffers.
    pub bytes: u64,
    /// Dispatches; a long one counts for each of the [chunks](chunks()) that it is run in.
    pub launches: u64,
}

impl Work {
    /// Of all dispatches.
    pub fn of(recording: &Recording, caps: &Caps) -> Self {
        recording.dispatches().fold(Self::default(), |mut work, dispatch| {
            match dispatch.variant.is_cooperative() {
                true => work.matrix_flops += dispatch.flops,
                false => work.flops += dispatch.flops,
            }
            work.workgroup_bytes += dispatch.workgroup_bytes;
            work.bytes += dispatch.bytes;
            work.launches += chunks(dispatch, caps).len() as u64;
            work
        })
    }
}

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Arithmetic, of lanes and of cooperative matrices.
    MultiplyAdds,
    /// Workgroup memory, which register tiles are loaded from.
    WorkgroupMemory,
    /// Buffers.
    Memory,
    /// One dispatch after the other.
    Launches,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MultiplyAdds => "multiply-adds",
            Self::WorkgroupMemory => "workgroup memory",
            Self::Memory => "memory",
            Self::Launches => "launches",
        })
    }
}

/// How long each part of some work takes by itself, at a device's rates. The first three may go on at the same time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// In ns.
    pub times: [(Limit, f64); 4],
}

impl Roofline {
    /// By these rates.
    pub fn new(work: &Work, rates: &Rates, software: bool) -> Self {
        let matrices = rates.coop_gflops.unwrap_or(rates.gflops);
        let times = [
            (Limit::MultiplyAdds, work.flops as f64 / rates.gflops + work.matrix_flops as f64 / matrices),
            (Limit::WorkgroupMemory, work.workgroup_bytes as f64 / rates.workgroup_gbps(software)),
            (Limit::Memory, work.bytes as f64 / rates.gbps),
            (Limit::Launches, work.launches as f64 * rates.dispatch),
        ];
        Self { times }
    }

    /// What takes the longest.
    pub fn limit(&self) -> Limit {
        let longest = self.times.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        longest.map_or(Limit::MultiplyAdds, |(limit, _)| *limit)
    }

    /// The share of a part in the sum of all.
    pub fn share(&self, limit: Limit) -> f64 {
        let sum = |parts: &dyn Fn(Limit) -> bool| -> f64 {
            self.times.iter().filter(|(part, _)| parts(*part)).map(|(_, time)| time).sum()
        };
        match sum(&|_| true) {
            0.0 => 0.0,
            all => sum(&|part| part == limit) / all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::plan::chunks::tests::dispatch;

    #[test]
    fn the_longest_part_limits() {
        let caps = Caps::of(DeviceKind::Discrete);
        let mut recording = Recording::new();
        for workgroup_bytes in [0, 1 << 20] {
            recording.push(crate::recording::Dispatch { workgroup_bytes, ..dispatch([1, 1], 8_000_000, 2_000_000) });
        }
        let work = Work::of(&recording, &caps);
        let expected =
            Work { flops: 16_000_000, workgroup_bytes: 1 << 20, bytes: 4_000_000, launches: 2, ..Work::default() };
        assert_eq!(work, expected);
        // 4000 GFLOP/s, 2000 GB/s in workgroup memory, 200 GB/s, 3 µs a dispatch.
        let roofline = Roofline::new(&work, &caps.rates, false);
        assert_eq!(roofline.times.map(|(_, time)| time), [4000.0, 524.288, 20_000.0, 6000.0]);
        assert_eq!(roofline.limit(), Limit::Memory);
        let shares = roofline.times.map(|(limit, _)| roofline.share(limit));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares[2] > 0.6);
        let idle = Roofline::new(&Work::default(), &caps.rates, false);
        assert_eq!(idle.share(Limit::Launches), 0.0);
        // Products of cooperative matrices go by their own rate, where it is known.
        let products = Work { matrix_flops: 8000, ..Work::default() };
        for (coop_gflops, expected) in [(None, 2.0), (Some(16_000.0), 0.5)] {
            let rates = Rates { coop_gflops, ..caps.rates };
            assert_eq!(Roofline::new(&products, &rates, false).times[0].1, expected);
        }
    }
}
