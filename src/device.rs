//! The device model: limits, features and rates of a device, and how long it may be kept busy. Everything that is planned
//! goes by it, and by nothing else of the device.

use std::time::Duration;

/// The kind of a device, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A card with its own memory.
    Discrete,
    /// Shares memory with the CPU.
    Integrated,
    /// A virtual machine's.
    Virtual,
    /// Not known.
    Other,
    /// Runs on the CPU (lavapipe, SwiftShader, WARP).
    Software,
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete GPU",
            Self::Integrated => "integrated GPU",
            Self::Virtual => "virtual GPU",
            Self::Other => "other",
            Self::Software => "software",
        })
    }
}

/// How fast a device is: assumed by its kind, since wgpu tells no speed, or [measured](Rates::measure).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Rates {
    /// Whether these were measured on the device.
    pub measured: bool,
    /// Multiply-adds in registers, counted as two operations: 10⁹ a second.
    pub gflops: f64,
    /// As `gflops`, f16 by cooperative matrices with sums in f32, where they are used.
    pub coop_gflops: Option<f64>,
    /// Bytes read and bytes written: 10⁹ a second.
    pub gbps: f64,
    /// From one dispatch to the next one that needs its result, in one pass, in ns.
    pub dispatch: f64,
    /// A barrier between a write to a workgroup's memory and a read, in ns for each lane of a workgroup of
    /// [`Rates::BARRIER_LANES`].
    pub barrier: f64,
}

impl Rates {
    /// Invocations at the barrier whose cost is [`Rates::barrier`].
    pub const BARRIER_LANES: usize = 256;

    /// How many times slower than these rates a kernel may be: most reach a quarter of a device's peak, and a device may be
    /// slower than its kind is taken to be.
    const MARGIN: f64 = 4.0;

    /// Assumed of a device of this kind that runs so many workgroups side by side. Software devices: lavapipe of Mesa 22.3 to
    /// 26.1 on AMD EPYC (Zen 5), measured 2026-11-23. Cards: a slow one of the last ten years, from published figures.
    pub fn assumed(kind: DeviceKind, workers: u32) -> Self {
        let [gflops, gbps, dispatch, barrier] = match kind {
            DeviceKind::Discrete => [4000.0, 200.0, 3000.0, 0.1],
            DeviceKind::Software => [10.0 * f64::from(workers.max(1)), 8.0, 35_000.0, 8.0],
            _ => [400.0, 20.0, 3000.0, 0.1],
        };
        Self { measured: false, gflops, coop_gflops: None, gbps, dispatch, barrier }
    }

    /// Whether all are finite, rates above 0 and costs not below.
    pub fn are_usable(&self) -> bool {
        let above = |x: f64| x.is_finite() && x > 0.0;
        let not_below = |x: f64| x.is_finite() && x >= 0.0;
        above(self.gflops)
            && above(self.gbps)
            && self.coop_gflops.is_none_or(above)
            && not_below(self.dispatch)
            && not_below(self.barrier)
    }

    /// How long work of so many operations and bytes takes at most: what is bounded in time is cut by this.
    pub fn longest(&self, flops: u64, bytes: u64) -> Duration {
        let time = |work: u64, rate: f64| Self::MARGIN * work as f64 / rate.max(f64::MIN_POSITIVE);
        // The cast saturates.
        Duration::from_nanos((time(flops, self.gflops) + time(bytes, self.gbps)) as u64)
    }

    /// Bytes read and written in workgroup memory, 10⁹ a second: assumed by the rate of multiply-adds. Cards move 128 bytes a clock
    /// beside 128 multiply-adds (NVIDIA's from GA102 on, CUDA C++ programming guide, "Shared memory" of compute capability 8.6:
    /// 32 banks of 4 bytes; AMD's RDNA 3 with dual issue, LDS of 128 bytes a clock and compute unit); those without dual issue
    /// have half the multiply-adds for it. Drivers that run on the CPU have it in the first cache: two loads of a vector beside two
    /// multiply-adds of one.
    pub fn workgroup_gbps(&self, software: bool) -> f64 {
        self.gflops * if software { 2.0 } else { 0.5 }
    }

    /// A time that work takes at least, in ns: the larger of what its operations and its bytes take. Work `by_matrices` has
    /// f16 operands that cooperative matrices may multiply, where they are used and faster.
    pub fn floor(&self, flops: f64, bytes: f64, by_matrices: bool) -> f64 {
        let matrices = self.coop_gflops.filter(|_| by_matrices).unwrap_or(0.0);
        (flops / self.gflops.max(matrices)).max(bytes / self.gbps)
    }
}

/// Registers of 32 bits in which a program keeps its values: what finds none is written to memory and read again, often in
/// the innermost loop. No interface tells how many there are; what each vendor's devices have is published, and what Mesa's
/// compilers for them do was measured (`docs/cards.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registers {
    /// Of a lane at most.
    pub lane: u32,
    /// Of all lanes of a workgroup together.
    pub workgroup: u32,
    /// The lanes of a workgroup take registers in steps of so many: of one subgroup in each part of a processor, which has
    /// its share of the registers for itself.
    pub step: u32,
}

impl Registers {
    /// NVIDIA's and AMD's: a multiprocessor has four partitions of 16,384, of which a lane uses up to 255; so do two SIMDs of
    /// RDNA 2, which run a workgroup in waves of 64 (RDNA 3 and 4 have half as many more). What is assumed of others.
    pub const CARD: Self = Self { lane: 255, workgroup: 65_536, step: 128 };
    /// Apple's: 256 halves a lane with up to 384 lanes.
    pub const APPLE: Self = Self { lane: 128, workgroup: 49_152, step: 64 };
    /// Intel's up to Xe: 128 of 32 bytes a thread, which runs 8 lanes where a program needs that many.
    pub const INTEL: Self = Self { lane: 128, ..Self::CARD };
    /// Qualcomm's Adreno 6xx and 7xx: 48 quads a lane with up to 256 lanes.
    pub const QUALCOMM: Self = Self { lane: 192, workgroup: 49_152, step: 256 };

    /// Of each lane of a workgroup of so many.
    pub fn of_lane(&self, lanes: usize) -> usize {
        let taken = lanes.max(1).next_multiple_of(self.step.max(1) as usize);
        (self.workgroup as usize / taken).min(self.lane as usize)
    }
}

/// What a device can do. [`Caps::default`] is WebGPU's guarantee; [`Gpu::caps`](crate::Gpu::caps) is an open device's.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Caps {
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes. wgpu does not check it, so the planner does.
    pub max_workgroup_bytes: u32,
    /// Invocations in a workgroup.
    pub max_invocations: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
    /// Registers, by vendor; of no meaning where `software` is set, which has the CPU's stack.
    pub registers: Registers,
    /// Storage buffers that one shader can bind.
    pub max_storage_buffers: u32,
    /// Loop iterations that one invocation may run, all its loops together. Mesa 22.3's software driver ends an
    /// invocation without a word after 65,535, so nothing relies on more on a device that runs on the CPU.
    pub max_iterations: u64,
    /// f16 in storage buffers.
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Reductions through workgroup memory are faster than subgroup operations: taken of Intel's, where llama.cpp lost 1.3 to
    /// 3.9 times when it asked for whole subgroups (its issue 18831).
    pub slow_subgroups: bool,
    /// Smallest subgroup in lanes.
    pub min_subgroup: u32,
    /// Largest subgroup in lanes.
    pub max_subgroup: u32,
    /// Timestamps between dispatches.
    pub timestamps: bool,
    /// The device runs on the CPU: barriers are expensive, lanes few.
    pub software: bool,
    /// Workgroups that run side by side: threads of a software device, a guess for others, which do not say.
    pub workers: u32,
    /// Rows, columns and depth of the square cooperative matrices (f16 · f16 + f32) that may be used, 8 or 16.
    pub cooperative: Option<u32>,
    /// How fast it is.
    pub rates: Rates,
    /// How long one dispatch may take. Drivers reset a device that does not answer, Windows' after two seconds by default;
    /// dispatches that would take longer than this by [`Rates::longest`] are run in [chunks](crate::plan::chunks()) of workgroups, which
    /// changes no bit of the result.
    pub longest_dispatch: Duration,
    /// How long one submission may take. What resets a device counts submissions on some drivers (Linux' for AMD's cards:
    /// two seconds); a recording that would take longer than this by [`Rates::longest`] is submitted in
    /// [several](crate::plan::submissions()), which changes no bit of the result.
    pub longest_submission: Duration,
}

/// Optional features that kernels come with and without, each of which can be left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// f16 in storage buffers.
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Cooperative matrices, which go with either of the others too: their tiles are f16, and a subgroup works on each.
    pub cooperative: bool,
}

impl Caps {
    /// How long one dispatch may take unless the embedder says otherwise: a quarter of the shortest common watchdog.
    pub const LONGEST_DISPATCH: Duration = Duration::from_millis(500);
    /// How long one submission may take unless the embedder says otherwise, for the same reason.
    pub const LONGEST_SUBMISSION: Duration = Self::LONGEST_DISPATCH;

    /// A device of this kind that guarantees no more than WebGPU does.
    pub fn of(kind: DeviceKind) -> Self {
        let (software, workers) = match kind {
            DeviceKind::Software => (true, std::thread::available_parallelism().map_or(1, |n| n.get() as u32)),
            _ => (false, 64),
        };
        Self {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_workgroups: 65_535,
            registers: Registers::CARD,
            max_storage_buffers: 8,
            max_iterations: if kind == DeviceKind::Software { 65_000 } else { 1 << 30 },
            f16: false,
            subgroups: false,
            slow_subgroups: false,
            min_subgroup: 4,
            max_subgroup: 128,
            timestamps: false,
            software,
            workers,
            cooperative: None,
            rates: Rates::assumed(kind, workers),
            longest_dispatch: Self::LONGEST_DISPATCH,
            longest_submission: Self::LONGEST_SUBMISSION,
        }
    }

    /// The same device with a change: `caps.with(|caps| caps.f16 = false)`.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut caps = self.clone();
        change(&mut caps);
        caps
    }

    /// The same device without these features.
    #[must_use]
    pub fn without(&self, features: Features) -> Self {
        self.with(|caps| {
            caps.f16 &= !features.f16;
            caps.subgroups &= !features.subgroups;
            caps.cooperative = caps.cooperative.filter(|_| caps.f16 && caps.subgroups && !features.cooperative);
        })
    }

    /// Bytes of the largest tensor: one buffer, bound whole.
    pub fn max_tensor_bytes(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }
}

impl Default for Caps {
    /// WebGPU's default limits, no optional feature, and what can be relied on of every kind of device.
    fn default() -> Self {
        Self::of(DeviceKind::Integrated).with(|caps| caps.max_iterations = 65_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_rates_and_saturate() {
        let rates = Rates::assumed(DeviceKind::Discrete, 64);
        // 4 · (10⁹ / 4000 + 10⁹ / 200) ns
        assert_eq!(rates.longest(1_000_000_000, 1_000_000_000), Duration::from_nanos(21_000_000));
        assert_eq!(rates.longest(0, 0), Duration::ZERO);
        let stopped = Rates { gflops: 0.0, ..rates };
        assert_eq!(stopped.longest(1, 0), Duration::from_nanos(u64::MAX));
        assert!(rates.are_usable() && !stopped.are_usable());
        assert!(![f64::NAN, f64::INFINITY, -1.0].iter().any(|&dispatch| Rates { dispatch, ..rates }.are_usable()));
        assert_eq!(rates.floor(8e3, 100.0, false), 2.0);
        let matrices = Rates { coop_gflops: Some(8000.0), ..rates };
        assert_eq!([false, true].map(|by_matrices| matrices.floor(8e3, 100.0, by_matrices)), [2.0, 1.0]);
    }

    #[test]
    fn lanes_share_registers_in_steps() {
        let of_lane = |registers: Registers, lanes: [usize; 5]| lanes.map(|n| registers.of_lane(n));
        assert_eq!(of_lane(Registers::CARD, [1, 256, 257, 384, 512]), [255, 255, 170, 170, 128]);
        assert_eq!(of_lane(Registers::APPLE, [1, 384, 385, 512, 1024]), [128, 128, 109, 96, 48]);
        assert_eq!(of_lane(Registers::QUALCOMM, [0, 256, 257, 512, 513]), [192, 192, 96, 96, 64]);
        let none = Registers { lane: 0, workgroup: 0, step: 0 };
        assert_eq!(of_lane(none, [0, 1, 2, 3, 4]), [0; 5]);
    }

    #[test]
    fn features_left_alone_take_those_that_need_them_along() {
        let all = Caps::default().with(|caps| {
            (caps.f16, caps.subgroups, caps.cooperative) = (true, true, Some(16));
        });
        let without = |features| all.without(features);
        assert_eq!(without(Features::default()), all);
        assert_eq!(without(Features { f16: true, ..Features::default() }).cooperative, None);
        assert!(without(Features { cooperative: true, ..Features::default() }).f16);
    }
}
