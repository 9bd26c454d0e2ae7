// The score function of a user who has none.
fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score;
}
