//! Compares a model in a folder, on the CPU, with the answers of its original runtime in `golden.json` beside it.
//!
//! ```sh
//! cargo run --release --example golden -- FOLDER
//! ```

use std::path::Path;

use regard::seq2seq::Model;

#[allow(clippy::unwrap_used, reason = "part of the tests, where a panic is the message")]
#[path = "../tests/it/golden.rs"]
mod golden;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder?")?;
    let (model, cases) = (Model::from_folder(Path::new(&folder))?, golden::cases(Path::new(&folder)));
    for (key, beam) in [("greedy", 1), ("beam2", 2), ("beam3", 3)] {
        let found = golden::agreement(&model, &cases, key, beam, golden::cpu);
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
