//! Mixed calls from many threads over one device for minutes: answers right, memory flat, pools bounded.
//!
//! ```sh
//! cargo run --release --example soak                  # 100,000 calls from 8 threads
//! cargo run --release --example soak -- 5000 16       # calls, threads
//! ```
//!
//! Attention of many shapes, masks and paths, additive scores, recurrences, caches that grow and are decoded from, merged
//! parts, transfers with and without blocking, and mistakes that have to be refused. Answers are computed on the CPU once,
//! and judged as `regard validate` judges. Ends with 1 when anything was wrong or grew.

mod work;

use std::process::ExitCode;
use std::time::Instant;

use regard::gpu::Open;
use regard::{Gpu, Result};
use work::{Progress, Soak};

fn main() -> ExitCode {
    match soak() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn soak() -> Result<bool> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut number = |name: &str, usual: usize| match numbers.next() {
        None => Ok(usual),
        Some(Ok(number)) if number > 0 => Ok(number),
        Some(_) => Err(regard::Error::option(name, "expected a whole number above 0: `soak [CALLS [THREADS]]`")),
    };
    let (calls, threads) = (number("CALLS", 100_000)?, number("THREADS", 8)?);
    let gpu = Gpu::open(&Open::default())?;
    println!("{}", gpu.adapter());
    let soak = Soak::new(&gpu, 23)?;
    println!("{calls} calls of {} kinds from {threads} threads", soak.kinds());
    let start = Instant::now();
    let mut first = None;
    let last = soak.run(&gpu, calls, threads, |progress| {
        first.get_or_insert(progress);
        let Progress { calls, wrong, refused, resident, scratch, pipelines } = progress;
        println!(
            "{:4} s: {calls} calls, {wrong} wrong, {refused} refused as they had to be; resident {} MiB, scratch {:.1} MiB, {pipelines} pipelines",
            start.elapsed().as_secs(),
            mebibytes(resident),
            scratch as f64 / f64::from(1 << 20),
        );
    });
    let first = first.unwrap_or(last);
    println!(
        "wrong {}, resident memory {} MiB after the first tenth, {} at the end",
        last.wrong,
        mebibytes(first.resident),
        mebibytes(last.resident),
    );
    // Threads meet in ever other ways, so that a little more is held at once; a leak of 1 KiB a call would show.
    let grew = last.resident.zip(first.resident).is_some_and(|(last, first)| last > first + first / 10 + (16 << 20));
    let unbounded = last.scratch > 4 * first.scratch || last.pipelines > first.pipelines + first.pipelines / 10;
    Ok(last.wrong == 0 && !grew && !unbounded)
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("?".to_owned(), |bytes| (bytes >> 20).to_string())
}
