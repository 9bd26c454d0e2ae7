//! What a language model goes on with, and its best answers by beam search: on a graphics card, or on the CPU where there is none.
//!
//! The folder is one of a GPT-2 or LLaMA as Hugging Face has it; tokens go in and come out as numbers. Without one it is a tiny
//! model of random numbers, which the tests have.
//!
//! ```sh
//! cargo run --release --example generation -- FOLDER 464 3797 3332 319 262
//! ```

use std::path::Path;

use regard::models::{Beam, CausalModel, Generation, Sampling};
use regard::{Device, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "tests/vectors/causal/llama".to_owned());
    let prompt: Vec<u32> = arguments.filter_map(|token| token.parse().ok()).collect();
    let prompt = if prompt.is_empty() { vec![21, 50, 9] } else { prompt };

    let model = CausalModel::from_folder(Path::new(&folder))?;
    let device = Device::auto();
    let mut network = model.network(device.run())?;
    for (name, sampling) in [
        ("greedy", Sampling::Greedy),
        ("drawn", Sampling::TopK { k: 10, temperature: 0.8, seed: 1 }),
        ("drawn again", Sampling::TopK { k: 10, temperature: 0.8, seed: 2 }),
    ] {
        let options = Generation { most: 12, sampling, end: None };
        println!("{name}: {:?}", network.generate(std::slice::from_ref(&prompt), &options)?[0]);
    }
    let beam = Beam { width: 4, most: 12, end: None, length_exponent: 1.0 };
    for found in &network.beam(&[prompt], &beam)?[0] {
        println!("log-probability {:.3} of {:?}", found.log_probability, found.tokens);
    }
    Ok(())
}
