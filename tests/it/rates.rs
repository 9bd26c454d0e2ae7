//! What is measured of a device, and how.

use std::time::Instant;

use regard::device::Rates;
use regard::gpu::{Gpu, Open, Run};
use regard::kernels::{barrier_rate, copy};
use regard::tensor::{Array, DType};
use regard::{Error, Tensor};

use crate::gpu::{cooperative_gpu, gpu, minimal_gpu};

#[test]
fn ceilings_and_overheads_are_numbers() {
    let rates = Rates::measure(gpu()).unwrap();
    assert!(rates.gflops > 0.0 && rates.gflops.is_finite() && rates.gbps > 0.0 && rates.gbps.is_finite(), "{rates:?}");
    println!("{rates:?}");
    assert!((0.0..1e9).contains(&rates.dispatch) && (0.0..1e9).contains(&rates.barrier), "{rates:?}");
    assert!(rates.measured && !gpu().caps().rates.measured);
    // What is planned next goes by them.
    assert_eq!(gpu().clone().with_rates(rates).caps().rates, rates);
}

#[test]
fn cooperative_matrices_have_a_rate_where_they_are_used() {
    let gpu = cooperative_gpu();
    let rates = Rates::measure(gpu).unwrap();
    assert_eq!(rates.coop_gflops.is_some(), gpu.caps().cooperative.is_some());
    assert!(rates.coop_gflops.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "{rates:?}");
    println!("{rates:?} on {}", gpu.adapter());
    // Never without being asked for.
    assert_eq!(self::gpu().caps().cooperative, None);
}

#[test]
fn the_time_of_a_run_is_that_of_all_it_holds() {
    for minimal in [false, true] {
        let adapter = Some(gpu().adapter().name.clone());
        let gpu = Gpu::open(&Open { adapter, minimal, ..Open::default() }).unwrap();
        assert!(!(minimal && gpu.caps().timestamps));
        let source = Tensor::upload(&gpu, "source", &Array::filled(&[1 << 16], 2.0), DType::F32).unwrap();
        let target = Tensor::upload(&gpu, "target", &Array::filled(&[1 << 16], 0.0), DType::F32).unwrap();
        let time = |copies: usize| {
            let mut run = Run::new(&gpu);
            let (from, to) = (run.bind("source", &source), run.bind("target", &target));
            (0..copies).for_each(|_| copy::record(run.recording_mut(), gpu.caps(), &from, &to).unwrap());
            let (submits, start) = (gpu.counts().submits, Instant::now());
            let time = run.submit_and_time().unwrap();
            let wall = start.elapsed().as_nanos() as f64;
            assert_eq!(gpu.counts().submits, submits + 1);
            assert!(time > 0.0 && time <= wall, "{time} of {wall}");
            time
        };
        let least = |copies| (0..3).map(|_| time(copies)).fold(f64::INFINITY, f64::min);
        let (one, many) = (least(1), least(200));
        assert!(many > 5.0 * one, "1 copy {one} ns, 200 copies {many} ns");
        assert_eq!(target.download(&gpu).unwrap(), source.download(&gpu).unwrap());
    }
}

#[test]
fn a_workgroup_wider_than_the_device_allows_is_refused() {
    let gpu = minimal_gpu();
    let lanes = gpu.caps().max_invocations as usize + 1;
    let mut run = Run::new(gpu);
    let (view, _) = run.output("output", &[lanes], DType::F32).unwrap();
    let refused = barrier_rate::record(run.recording_mut(), gpu.caps(), 1, &view);
    assert!(matches!(refused, Err(Error::Limit { needed, .. }) if needed == lanes as u64), "{refused:?}");
}
