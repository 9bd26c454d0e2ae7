//! Attention with a score function of one's own: a sentence in three clauses, each word drawn to its neighbours in its own
//! clause. The same function runs inside the fused kernel, in WGSL, and in the CPU reference, in Rust.
//!
//! ```sh
//! cargo run --release --example score_function
//! ```

use std::sync::Arc;

use regard::attention::{Attention, AttentionInputs, ScoreMod};
use regard::gpu::Open;
use regard::tensor::{Array, DType};
use regard::{Gpu, compare, reference};

const WORDS: [&str; 9] = ["rain", "fell", ";", "we", "stayed", "inside", ";", "nobody", "called"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A clause ends with its semicolon, the words numbered 2 and 6; another clause costs 4, each word of distance 0.5.
    let wgsl = "
        fn clause(k: u32) -> u32 {
            return select(0u, 1u, k > 2u) + select(0u, 1u, k > 6u);
        }
        fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
            let apart = abs(f32(i) - f32(j));
            return score - 0.5 * apart - select(4.0, 0.0, clause(i) == clause(j));
        }";
    let clause = |k: usize| usize::from(k > 2) + usize::from(k > 6);
    let same = move |s: f64, _: usize, _: usize, i: usize, j: usize| {
        s - 0.5 * i.abs_diff(j) as f64 - if clause(i) == clause(j) { 0.0 } else { 4.0 }
    };
    let score_mod = ScoreMod::new(wgsl, Some(Arc::new(same)));

    // [B = 1, H = 1, N = 9, D = 16]: made-up words; the values tell which word they came from.
    let wave = |f: f32| Array::from_fn(&[1, 1, WORDS.len(), 16], |k| (k as f32 * f).sin());
    let one_hot = Array::from_fn(&[1, 1, WORDS.len(), WORDS.len()], |k| f32::from(k / WORDS.len() == k % WORDS.len()));
    let inputs = AttentionInputs::new(wave(0.37), wave(0.71), one_hot);

    let gpu = Gpu::open(&Open::default())?;
    let attention = Attention { score_mod: Some(score_mod), ..Attention::default() };
    let shares = attention.run(&gpu, &inputs.upload(&gpu, DType::F32)?)?.output.download(&gpu)?;

    println!("on {}; per cent of each word's attention", gpu.adapter());
    println!("{:>8} {}", "", WORDS.map(|word| format!("{word:>7}")).concat());
    for (word, row) in WORDS.iter().zip(shares.data().chunks(WORDS.len())) {
        println!("{word:>8} {}", row.iter().map(|share| format!("{:>7.0}", share * 100.0)).collect::<String>());
    }
    let want = reference::attention(&attention, &inputs)?.output;
    compare::close("output", &shares, &want, 1e-5, 1e-6)?.check("output")?;
    println!("the reference says the same");
    Ok(())
}
