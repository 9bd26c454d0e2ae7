#![allow(clippy::unwrap_used, dead_code)]
#[path = "../it/faults.rs"]
mod faults;
#[path = "../it/gpu.rs"]
mod gpu;
#[path = "../it/limits.rs"]
mod limits;
#[path = "../it/soak.rs"]
mod soak;

/// Big reads while the device is destroyed.
#[test]
fn big_reads() {
    use regard::tensor::{Array, DType};
    use regard::{Tensor, wgpu};
    for round in 0..12u64 {
        let gpu = gpu::open(regard::gpu::Open::default());
        let whole = Array::from_fn(&[16 << 20], |k| k as f32);
        let x = Tensor::upload(&gpu, "x", &whole, DType::F32).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                let mut n = 0;
                loop {
                    match x.download(&gpu) {
                        Ok(got) => assert!(got.data()[12345678] == 12345678.0),
                        Err(e) => return (n, e),
                    }
                    n += 1;
                }
            });
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = gpu.device().poll(wgpu::PollType::Poll);
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(100 + 37 * round));
            gpu.device().destroy();
            println!("{:?}", read.join().unwrap());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
