//! Sentence vectors of a model in a folder, and which texts are alike: on a graphics card, or on the CPU where there is none.
//!
//! ```sh
//! python3 models/minilm/fetch.py
//! cargo run --release --example sentence_encoder -- target/models/all-MiniLM-L6-v2
//! ```

use std::path::Path;

use regard::models::{SentenceEncoder, normalize};
use regard::{Device, Result};

const TEXTS: [&str; 4] =
    ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Share prices fell on Monday.", "The market crashed."];

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/models/all-MiniLM-L6-v2".to_owned());
    let encoder = SentenceEncoder::from_folder(Path::new(&folder))?;
    let device = Device::auto();
    let mut network = encoder.network(device.run())?;

    let tokens = TEXTS.iter().map(|text| Ok(encoder.tokens(text)?.0)).collect::<Result<Vec<_>>>()?;
    let mut vectors = network.encode(&tokens, None)?.vectors;
    normalize(&mut vectors);

    let rows: Vec<&[f32]> = vectors.data().chunks_exact(encoder.config().channels).collect();
    for (text, row) in TEXTS.iter().zip(&rows) {
        let cosine = |other: &&[f32]| row.iter().zip(*other).map(|(a, b)| a * b).sum::<f32>();
        println!("{text:<32} {:.2?}", rows.iter().map(cosine).collect::<Vec<_>>());
    }
    Ok(())
}
