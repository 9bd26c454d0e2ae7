//! "Show, Attend and Tell" (Xu et al. 2015) without the training: soft and hard attention over a picture, word by word.
//!
//! The picture is drawn here. Each of its 14 × 14 cells is annotated with six fixed features that anyone can check: how
//! red, yellow and green it is, how bright, how rough (mean gradient) and how uneven (spread of brightness). A word of the
//! caption is a state with a 1 for each feature it asks for, and the weights make unit k of the additive score an AND:
//! tanh(4·(a_k + h_k − 1.5)) is high only where feature k is asked for and there. All else (softmax, draw, gate, penalty)
//! is the layer's.
//!
//! ```sh
//! cargo run --release --example show_attend_tell [FOLDER]     # writes soft.png and hard.png
//! ```

use std::path::PathBuf;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use regard::gpu::Open;
use regard::layers::{GpuVisualAttention, Linear, VisualAttention, VisualOutputs, VisualWeights};
use regard::tensor::{Array, DType};
use regard::{Error, Gpu, Tensor};

/// Cells along each side, as in the paper.
const GRID: usize = 14;
/// Pixels of a cell.
const CELL: usize = 24;
const SIDE: usize = GRID * CELL;
const FEATURES: [&str; 6] = ["red", "yellow", "green", "bright", "rough", "uneven"];

/// The words, and what each asks for.
const WORDS: [(&str, &[&str]); 3] =
    [("red", &["red"]), ("yellow, bright", &["yellow", "bright"]), ("green, rough", &["green", "rough", "uneven"])];

type Color = [f32; 3];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/show_attend_tell"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let picture = draw();
    let annotations = annotate(&picture);
    let asked = |k: usize| f32::from(u8::from(WORDS[k / 6].1.contains(&FEATURES[k % 6])));
    let hidden = Array::from_fn(&[WORDS.len(), 1, FEATURES.len()], asked);

    let gpu = match Gpu::open(&Open::default()) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoAdapter(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match &gpu {
        Some(gpu) => println!("on {}", gpu.adapter()),
        None => println!("no GPU adapter answers: on the CPU, by the reference"),
    }
    for (name, layer) in [("soft", VisualAttention::soft()), ("hard", VisualAttention::hard(7))] {
        let outputs = attend(gpu.as_ref(), &layer, &annotations, &hidden)?;
        report(name, &outputs);
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, sheet(&picture, &outputs)?.png()?)?;
        println!("  {}", path.display());
    }
    Ok(())
}

/// Wa = Wh = 4·I, b = −6: the AND of the head of this file. A gate that opens the more the word asks for.
fn weights() -> VisualWeights<Array> {
    let n = FEATURES.len();
    let four = Array::from_fn(&[n, n], |k| if k % (n + 1) == 0 { 4.0 } else { 0.0 });
    VisualWeights {
        annotation: four.clone(),
        hidden: Linear::with_bias(four, Array::filled(&[n], -6.0)),
        v: Array::filled(&[n], 2.2),
        gate: Some(Linear::with_bias(Array::filled(&[1, n], 1.2), Array::filled(&[1], -0.6))),
    }
}

fn attend(
    gpu: Option<&Gpu>,
    layer: &VisualAttention,
    annotations: &Array,
    hidden: &Array,
) -> regard::Result<VisualOutputs<Array>> {
    let Some(gpu) = gpu else {
        return layer.reference(&weights(), annotations, hidden, None);
    };
    let upload = |name: &str, array: &Array| Tensor::upload(gpu, name, array, DType::F32);
    let (annotations, hidden) = (upload("annotations", annotations)?, upload("hidden", hidden)?);
    let layer = GpuVisualAttention::upload(gpu, layer, &weights(), DType::F32)?;
    layer.run(gpu, &annotations, &hidden, None)?.download(gpu)
}

fn report(name: &str, outputs: &VisualOutputs<Array>) {
    println!("{name} attention, penalty {:.2} over {} words", outputs.penalty.data()[0], WORDS.len());
    let betas = outputs.beta.as_ref().map_or(&[][..], Array::data);
    for (t, ((word, _), alpha)) in WORDS.iter().zip(outputs.alpha.data().chunks(GRID * GRID)).enumerate() {
        let (place, most) = largest(alpha);
        let beta = betas.get(t).copied().unwrap_or(1.0);
        let entropy = outputs.entropy.data()[t];
        print!("  {word:<15} α up to {most:.3} at row {}, column {}", place / GRID, place % GRID);
        print!(", β {beta:.2}, entropy {entropy:.2} nats");
        match &outputs.log_probability {
            Some(logs) => println!(", ln p of the draw {:.2}", logs.data()[t]),
            None => println!(),
        }
    }
}

fn largest(alpha: &[f32]) -> (usize, f32) {
    alpha.iter().copied().enumerate().fold((0, 0.0), |best, here| if here.1 > best.1 { here } else { best })
}

// ---- the picture ----

/// A red balloon over a meadow with a tree, a pond and a sun; each pixel is the mean of 3 × 3 samples.
fn draw() -> Vec<Color> {
    let sample = |k: usize| {
        let mut sum = [0.0; 3];
        for s in 0..9 {
            let x = ((k % SIDE) as f32 + (s % 3) as f32 / 3.0 + 1.0 / 6.0) / SIDE as f32;
            let y = ((k / SIDE) as f32 + (s / 3) as f32 / 3.0 + 1.0 / 6.0) / SIDE as f32;
            let color = scene(x, y);
            (0..3).for_each(|c| sum[c] += color[c] / 9.0);
        }
        sum
    };
    (0..SIDE * SIDE).map(sample).collect()
}

fn mix(a: Color, b: Color, share: f32) -> Color {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * share.clamp(0.0, 1.0))
}

/// Distance from a centre in units of the radii: below 1 inside the ellipse.
fn ellipse(x: f32, y: f32, [cx, cy, rx, ry]: [f32; 4]) -> f32 {
    ((x - cx) / rx).hypot((y - cy) / ry)
}

/// The colour at a point of the unit square; y grows downward.
fn scene(x: f32, y: f32) -> Color {
    // sky, with clouds and a sun
    let mut color = mix([0.45, 0.68, 0.93], [0.86, 0.93, 0.98], y * 1.45);
    for cloud in
        [[0.34, 0.13, 0.09, 0.035], [0.41, 0.155, 0.08, 0.03], [0.88, 0.43, 0.08, 0.028], [0.94, 0.45, 0.07, 0.026]]
    {
        if ellipse(x, y, cloud) < 1.0 {
            color = [0.97, 0.98, 1.0];
        }
    }
    let sun = ellipse(x, y, [0.14, 0.15, 0.085, 0.085]);
    color = mix([1.0, 0.93, 0.62], color, (sun - 1.0) * 2.2);
    if sun < 1.0 {
        color = mix([1.0, 0.91, 0.35], [1.0, 0.8, 0.13], sun);
    }
    // hills and meadow
    let (far, near) = (0.66 + 0.035 * (x * 7.0 + 0.6).sin(), 0.74 + 0.03 * (x * 5.0 + 2.4).sin());
    if y > far {
        color = mix([0.55, 0.7, 0.72], [0.62, 0.76, 0.66], (y - far) * 8.0);
    }
    if y > near {
        color = mix([0.6, 0.78, 0.42], [0.44, 0.66, 0.3], (y - near) * 4.0);
    }
    let pond = ellipse(x, y, [0.76, 0.89, 0.17, 0.055]);
    if pond < 1.0 {
        color = mix([0.5, 0.72, 0.9], [0.3, 0.52, 0.76], pond * pond);
    }
    // tree: a crown of leaves that are lighter and darker at random
    if (x - 0.25).abs() < 0.018 + 0.02 * (y - 0.7).max(0.0) && (0.62..0.86).contains(&y) {
        color = [0.38, 0.26, 0.17];
    }
    let crown = [[0.25, 0.55, 0.13, 0.13], [0.16, 0.6, 0.085, 0.085], [0.34, 0.6, 0.085, 0.085]];
    if crown.iter().any(|&part| ellipse(x, y, part) < 1.0) {
        let light = 0.75 * leaf(x * 52.0, y * 52.0) + 0.55 * (0.62 - y) / 0.2;
        color = mix([0.08, 0.26, 0.08], [0.42, 0.66, 0.22], light);
    }
    // balloon: envelope with gores, ropes, basket
    let (cx, cy, r) = (0.66, 0.27, 0.165);
    for rope in [-0.045, -0.015, 0.015, 0.045] {
        let along = (y - cy - 0.12) / 0.2;
        if (0.0..1.0).contains(&along) && (x - cx - rope * (1.9 - along)).abs() < 0.0022 {
            color = [0.3, 0.22, 0.18];
        }
    }
    let narrow = 1.0 - 0.75 * ((y - cy) / r - 0.35).clamp(0.0, 1.0).powi(2);
    let inside = ellipse(x, y, [cx, cy, r * narrow, r * 1.12]);
    if inside < 1.0 {
        let across = (x - cx) / (r * narrow * (1.0 - ((y - cy) / (r * 1.12)).powi(2)).max(0.01).sqrt());
        let gore = (across.asin() * 4.5).cos().abs();
        let lit = 1.0 - 0.35 * ellipse(x, y, [cx - 0.05, cy - 0.06, 0.3, 0.3]);
        color = mix([0.72, 0.07, 0.08], [0.92, 0.14, 0.11], gore).map(|c| c * lit + 0.02);
    }
    if (x - cx).abs() < 0.036 && (0.585..0.635).contains(&y) {
        color = if y < 0.597 { [0.45, 0.3, 0.16] } else { [0.62, 0.44, 0.25] };
    }
    color
}

/// Leaves, one at a random place in each unit square: the shade, 0 to 1, of the one nearest.
fn leaf(x: f32, y: f32) -> f32 {
    let mut nearest = (f32::INFINITY, 0.0);
    for k in 0..9 {
        let (i, j) = (x.floor() + (k % 3) as f32 - 1.0, y.floor() + (k / 3) as f32 - 1.0);
        let distance = (x - i - noise(i, j, 1)).hypot(y - j - noise(i, j, 2));
        if distance < nearest.0 {
            nearest = (distance, noise(i, j, 3) - 0.3 * distance);
        }
    }
    nearest.1
}

/// 0 to 1, the same for the same place.
fn noise(i: f32, j: f32, salt: u32) -> f32 {
    let mut n = (i as i32 as u32).wrapping_mul(0x9e37_79b1) ^ (j as i32 as u32).wrapping_mul(0x85eb_ca6b) ^ (salt << 9);
    n = (n ^ (n >> 15)).wrapping_mul(0x2c1b_3c6d);
    n = (n ^ (n >> 12)).wrapping_mul(0x297a_2d39);
    ((n ^ (n >> 15)) & 0xffff) as f32 / 65_535.0
}

// ---- annotation vectors ----

fn brightness([r, g, b]: Color) -> f32 {
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// [1, 196, 6], each feature from 0 to 1.
fn annotate(picture: &[Color]) -> Array {
    let cells: Vec<[f32; 6]> = (0..GRID * GRID).map(|cell| features(picture, cell)).collect();
    Array::from_fn(&[1, GRID * GRID, FEATURES.len()], |k| cells[k / FEATURES.len()][k % FEATURES.len()])
}

fn features(picture: &[Color], cell: usize) -> [f32; 6] {
    let (left, top) = (cell % GRID * CELL, cell / GRID * CELL);
    let pixel = |x: usize, y: usize| picture[y.min(SIDE - 1) * SIDE + x.min(SIDE - 1)];
    let mean = |f: &dyn Fn(usize, usize) -> f32| {
        (0..CELL * CELL).map(|k| f(left + k % CELL, top + k / CELL)).sum::<f32>() / (CELL * CELL) as f32
    };
    let of = |f: fn(Color) -> f32| mean(&|x, y| f(pixel(x, y)).max(0.0));
    let light = |x: usize, y: usize| brightness(pixel(x, y));
    let bright = mean(&light);
    let spread = mean(&|x, y| (light(x, y) - bright).powi(2)).sqrt();
    let gradient = mean(&|x, y| (light(x + 1, y) - light(x, y)).hypot(light(x, y + 1) - light(x, y)));
    [
        1.6 * of(|[r, g, b]| r - g.max(b)),
        1.6 * of(|[r, g, b]| r.min(g) - b),
        4.0 * of(|[r, g, b]| g - r.max(b)),
        1.1 * bright,
        22.0 * gradient,
        9.0 * spread,
    ]
    .map(|feature| feature.clamp(0.0, 1.0))
}

// ---- the sheet: the picture, then one panel a word ----

const GAP: usize = 14;
const CAPTION: usize = 46;

/// Rows of pixels, from the top.
struct Sheet {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Sheet {
    fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()?;
        Ok(file)
    }
}

fn sheet(picture: &[Color], outputs: &VisualOutputs<Array>) -> Result<Sheet, Box<dyn std::error::Error>> {
    let font = FontRef::try_from_slice(include_bytes!("../assets/fonts/NotoSans-subset.ttf"))?;
    let panels = WORDS.len() + 1;
    let (width, height) = (panels * (SIDE + GAP) + GAP, SIDE + 2 * GAP + CAPTION);
    let mut sheet = Sheet { width, height, pixels: vec![[255; 3]; width * height] };
    let mut paint = |panel: usize, color: &dyn Fn(usize) -> Color| {
        for k in 0..SIDE * SIDE {
            let (x, y) = (GAP + panel * (SIDE + GAP) + k % SIDE, GAP + k / SIDE);
            sheet.pixels[y * width + x] = color(k).map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8);
        }
    };
    paint(0, &|k| picture[k]);
    for (t, alpha) in outputs.alpha.data().chunks(GRID * GRID).enumerate() {
        let glow = upsampled(alpha);
        let drawn = outputs.log_probability.as_ref().map(|_| largest(alpha).0);
        // dimmed and grey where unattended; a frame around the cell that was drawn
        paint(t + 1, &|k| {
            if drawn.is_some_and(|cell| on_frame(k % SIDE, k / SIDE, cell)) {
                return [1.0; 3];
            }
            let grey = [brightness(picture[k]); 3];
            let dim = mix(grey, picture[k], 0.35).map(|c| 0.09 + 0.3 * c);
            mix(dim, picture[k], glow[k])
        });
    }
    let mut caption = |panel: usize, line: usize, text: &str, size: f32, ink: u8| {
        let left = (GAP + panel * (SIDE + GAP)) as f32;
        write(&mut sheet, &font, text, [left, (SIDE + GAP + 20 + line * 20) as f32], size, ink);
    };
    caption(0, 0, "the picture", 19.0, 60);
    let betas = outputs.beta.as_ref().map_or(&[][..], Array::data);
    for (t, (word, _)) in WORDS.iter().enumerate() {
        let weight = match &outputs.log_probability {
            Some(logs) => format!("drawn with probability {:.2}", logs.data()[t].exp()),
            None => format!("largest weight {:.2}", largest(&outputs.alpha.data()[t * GRID * GRID..][..GRID * GRID]).1),
        };
        caption(t + 1, 0, word, 19.0, 20);
        caption(t + 1, 1, &format!("gate {:.2}, {weight}", betas.get(t).copied().unwrap_or(1.0)), 15.0, 110);
    }
    Ok(sheet)
}

/// Whether a pixel is on the outermost two of a cell.
fn on_frame(x: usize, y: usize, cell: usize) -> bool {
    let (left, top) = (cell % GRID * CELL, cell / GRID * CELL);
    let inside = |margin: usize| {
        (left + margin..left + CELL - margin).contains(&x) && (top + margin..top + CELL - margin).contains(&y)
    };
    inside(0) && !inside(2)
}

/// A weight for every pixel, from 0 to 1 at the most attended: a bell around each cell, a little wider than the cell.
fn upsampled(alpha: &[f32]) -> Vec<f32> {
    let bell = |pixel: usize, cell: usize| {
        let distance = (pixel as f32 + 0.5) / CELL as f32 - (cell as f32 + 0.5);
        (-distance * distance / (2.0 * 0.62 * 0.62)).exp()
    };
    // the bell is a product, so rows first, then columns
    let rows: Vec<f32> =
        (0..GRID * SIDE).map(|k| (0..GRID).map(|j| alpha[k / SIDE * GRID + j] * bell(k % SIDE, j)).sum()).collect();
    let map: Vec<f32> =
        (0..SIDE * SIDE).map(|k| (0..GRID).map(|i| rows[i * SIDE + k % SIDE] * bell(k / SIDE, i)).sum()).collect();
    let most = map.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    map.into_iter().map(|m| (m / most).powf(0.7)).collect()
}

fn write(sheet: &mut Sheet, font: &FontRef<'_>, text: &str, [left, baseline]: [f32; 2], size: f32, ink: u8) {
    let scaled = font.as_scaled(PxScale::from(size));
    let mut pen = left;
    for character in text.chars() {
        let id = scaled.glyph_id(character);
        let glyph = id.with_scale_and_position(PxScale::from(size), point(pen, baseline));
        pen += scaled.h_advance(id);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let corner = outline.px_bounds().min;
        outline.draw(|x, y, coverage| {
            let (x, y) = (corner.x as i64 + i64::from(x), corner.y as i64 + i64::from(y));
            if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y))
                && x < sheet.width
                && y < sheet.height
            {
                let blend = |paper: u8| f32::from(paper) + (f32::from(ink) - f32::from(paper)) * coverage.min(1.0);
                let pixel = &mut sheet.pixels[y * sheet.width + x];
                *pixel = pixel.map(|paper| blend(paper).round() as u8);
            }
        });
    }
}
