//! Compares a model in a folder with the answers of its original runtime in `golden.json` beside it.
//!
//! ```sh
//! cargo run --release --example golden -- FOLDER [cpu|gpu|reference]
//! ```

use std::path::Path;
use std::sync::OnceLock;

use regard::gpu::Run;
use regard::gpu::{Gpu, Open};
use regard::seq2seq::{Model, Network};

#[allow(clippy::unwrap_used, reason = "part of the tests, where a panic is the message")]
#[path = "../tests/it/golden.rs"]
mod golden;

static GPU: OnceLock<Gpu> = OnceLock::new();

fn gpu(model: &Model) -> Box<dyn Network + '_> {
    let network = GPU.get().map(|gpu| model.network(Run::new(gpu)));
    Box::new(network.expect("the GPU is opened first").expect("the weights fit the GPU"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let device: golden::Device = match arguments.next().as_deref() {
        Some("gpu") => {
            let opened = Gpu::open(&Open::default())?;
            GPU.get_or_init(|| opened);
            gpu
        }
        Some("reference") => golden::reference,
        _ => golden::cpu,
    };
    let (model, cases) = (Model::from_folder(Path::new(&folder))?, golden::cases(Path::new(&folder)));
    for (key, beam) in [("greedy", 1), ("beam2", 2), ("beam3", 3)] {
        let found = golden::agreement(&model, &cases, key, beam, device);
        if found.cases > 0 {
            println!(
                "{key}: {} of {} texts as the original, scores within {:.1e}, {} attention matrices within {:.1e}; \
                 {} source ids as the original",
                found.equal, found.cases, found.score, found.matrices, found.weight, found.ids
            );
        }
    }
    Ok(())
}
