//! A scene as a PNG file.

use std::io::Cursor;

use image::{ImageFormat, Rgb as Pixel, RgbImage};

use super::ramp::{HATCH, HATCH_STEP, Paint, Rgb};
use super::scene::{Cells, Item, LINE, SEPARATED_CELL, Scene, Text};
use super::{Scale, font};

pub(super) const INK: Rgb = [26, 28, 33];
pub(super) const FRAME: Rgb = [96, 100, 110];
pub(super) const SEPARATOR: Rgb = [222, 227, 234];

/// The longest side of a picture, in pixels.
pub(super) const MAX_SIDE: f32 = 4000.0;
/// Pixels to a unit of the layout, so that small text is sharp in print; 1 where that would be too large.
const FINE: f32 = 2.0;

pub(super) fn encode(scene: &Scene) -> Result<Vec<u8>, String> {
    let longest = scene.width.max(scene.height);
    if longest > MAX_SIDE {
        return Err(format!("the panels do not fit a picture of {MAX_SIDE} × {MAX_SIDE} pixels: draw fewer of them"));
    }
    let pixels = if longest * FINE <= MAX_SIDE { FINE } else { 1.0 };
    let (width, height) = ((scene.width * pixels) as u32, (scene.height * pixels) as u32);
    let mut canvas = Canvas { image: RgbImage::from_pixel(width, height, Pixel([255; 3])), pixels };
    for item in &scene.items {
        match item {
            Item::Text(text) => canvas.text(text),
            &Item::Tick(x, y, width, height) => canvas.fill(x, y, width, height, FRAME),
            &Item::Frame(x, y, width, height) => canvas.frame(x, y, width, height),
            &Item::Swatch(x, y, width, height, paint) => canvas.paint(x, y, width, height, paint),
            Item::Cells(cells) => canvas.cells(cells, scene.scale),
        }
    }
    let mut file = Cursor::new(Vec::new());
    canvas.image.write_to(&mut file, ImageFormat::Png).map_err(|e| format!("the picture cannot be encoded: {e}"))?;
    Ok(file.into_inner())
}

struct Canvas {
    image: RgbImage,
    /// To a unit.
    pixels: f32,
}

impl Canvas {
    /// The pixels of a rectangle, one by one.
    fn each(&mut self, x: f32, y: f32, width: f32, height: f32, mut f: impl FnMut(u32, u32) -> Option<Rgb>) {
        let end = |at: f32, limit: u32| ((at * self.pixels).round().max(0.0) as u32).min(limit);
        let (columns, rows) = self.image.dimensions();
        for py in end(y, rows)..end(y + height, rows) {
            for px in end(x, columns)..end(x + width, columns) {
                if let Some(color) = f(px, py) {
                    self.image.put_pixel(px, py, Pixel(color));
                }
            }
        }
    }

    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, color: Rgb) {
        self.each(x, y, width, height, |_, _| Some(color));
    }

    fn paint(&mut self, x: f32, y: f32, width: f32, height: f32, paint: Paint) {
        if let Some(color) = paint.color() {
            return self.fill(x, y, width, height, color);
        }
        // Lines at one angle through the whole picture, so that cells side by side are one surface.
        let (step, line) = ((HATCH_STEP * self.pixels) as u32, self.pixels as u32);
        self.each(x, y, width, height, |px, py| Some(if (px + py) % step < line { HATCH } else { [255; 3] }));
    }

    /// A line of one unit around the rectangle.
    fn frame(&mut self, x: f32, y: f32, width: f32, height: f32) {
        self.fill(x - 1.0, y - 1.0, width + 2.0, 1.0, FRAME);
        self.fill(x - 1.0, y + height, width + 2.0, 1.0, FRAME);
        self.fill(x - 1.0, y - 1.0, 1.0, height + 2.0, FRAME);
        self.fill(x + width, y - 1.0, 1.0, height + 2.0, FRAME);
    }

    fn cells(&mut self, cells: &Cells, scale: Scale) {
        let Cells { x, y, side, blocks } = *cells;
        for row in 0..blocks.rows {
            for column in 0..blocks.columns {
                let paint = Paint::of(blocks.shown(row, column), scale);
                self.paint(x + column as f32 * side, y + row as f32 * side, side, side, paint);
            }
        }
        if side >= SEPARATED_CELL {
            for row in 1..blocks.rows {
                self.fill(x, y + row as f32 * side, blocks.columns as f32 * side, LINE, SEPARATOR);
            }
            for column in 1..blocks.columns {
                self.fill(x + column as f32 * side, y, LINE, blocks.rows as f32 * side, SEPARATOR);
            }
        }
    }

    fn text(&mut self, text: &Text) {
        let line = font::set(&text.text, text.size * self.pixels);
        let back = text.anchor.before(line.width);
        let Some(mask) = line.mask() else { return };
        let (x, y) = ((text.x * self.pixels).round() as i32, (text.y * self.pixels).round() as i32);
        for my in 0..mask.height {
            for mx in 0..mask.width {
                let covered = mask.coverage[my * mask.width + mx];
                // From the anchor, along the line and down from the baseline.
                let along = mx as i32 + mask.left - back.round() as i32;
                let down = my as i32 + mask.top;
                let (px, py) = if text.upward { (down, -along - 1) } else { (along, down) };
                self.blend(x + px, y + py, covered);
            }
        }
    }

    fn blend(&mut self, x: i32, y: i32, covered: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if let Some(pixel) = self.image.get_pixel_mut_checked(x, y) {
            for (channel, ink) in pixel.0.iter_mut().zip(INK) {
                let mixed = f32::from(*channel) + (f32::from(ink) - f32::from(*channel)) * covered;
                *channel = mixed.round() as u8;
            }
        }
    }
}
