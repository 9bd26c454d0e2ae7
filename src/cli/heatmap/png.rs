//! A scene as a PNG file.

use std::io::Cursor;

use image::{ImageFormat, Rgb as Pixel, RgbImage};

use super::font;
use super::ramp::{self, Rgb};
use super::scene::{Cells, Item, MAX_SIDE, SEPARATED_CELL, Scene, Text};

pub(super) const INK: Rgb = [26, 28, 33];
pub(super) const FRAME: Rgb = [96, 100, 110];
pub(super) const SEPARATOR: Rgb = [222, 227, 234];

pub(super) fn encode(scene: &Scene) -> Result<Vec<u8>, String> {
    if scene.width > MAX_SIDE || scene.height > MAX_SIDE {
        return Err(format!("the panels do not fit a picture of {MAX_SIDE} × {MAX_SIDE} pixels: draw fewer of them"));
    }
    let mut canvas = Canvas(RgbImage::from_pixel(scene.width as u32, scene.height as u32, Pixel([255; 3])));
    for item in &scene.items {
        match item {
            Item::Text(text) => canvas.text(text),
            &Item::Tick(x, y, width, height) => canvas.fill(x, y, width, height, FRAME),
            &Item::Frame(x, y, width, height) => canvas.frame(x, y, width, height),
            &Item::Swatch(x, y, width, height, share) => canvas.fill(x, y, width, height, ramp::shade(share)),
            Item::Cells(cells) => canvas.cells(cells, scene.full_scale),
        }
    }
    let mut file = Cursor::new(Vec::new());
    canvas.0.write_to(&mut file, ImageFormat::Png).map_err(|e| format!("the picture cannot be encoded: {e}"))?;
    Ok(file.into_inner())
}

struct Canvas(RgbImage);

impl Canvas {
    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, color: Rgb) {
        let end = |at: f32, length: f32, limit: u32| ((at + length).round().max(0.0) as u32).min(limit);
        for py in y.round().max(0.0) as u32..end(y, height, self.0.height()) {
            for px in x.round().max(0.0) as u32..end(x, width, self.0.width()) {
                self.0.put_pixel(px, py, Pixel(color));
            }
        }
    }

    /// A line of one pixel around the rectangle.
    fn frame(&mut self, x: f32, y: f32, width: f32, height: f32) {
        self.fill(x - 1.0, y - 1.0, width + 2.0, 1.0, FRAME);
        self.fill(x - 1.0, y + height, width + 2.0, 1.0, FRAME);
        self.fill(x - 1.0, y - 1.0, 1.0, height + 2.0, FRAME);
        self.fill(x + width, y - 1.0, 1.0, height + 2.0, FRAME);
    }

    fn cells(&mut self, cells: &Cells, full_scale: f32) {
        let Cells { x, y, side, blocks } = *cells;
        for row in 0..blocks.rows {
            for column in 0..blocks.columns {
                let color = ramp::shade(blocks.weight(row, column) / full_scale);
                self.fill(x + column as f32 * side, y + row as f32 * side, side, side, color);
            }
        }
        if side >= SEPARATED_CELL {
            for row in 1..blocks.rows {
                self.fill(x, y + row as f32 * side, blocks.columns as f32 * side, 1.0, SEPARATOR);
            }
            for column in 1..blocks.columns {
                self.fill(x + column as f32 * side, y, 1.0, blocks.rows as f32 * side, SEPARATOR);
            }
        }
    }

    fn text(&mut self, text: &Text) {
        let line = font::set(&text.text, text.size);
        let back = text.anchor.before(line.width);
        let Some(mask) = line.mask() else { return };
        for my in 0..mask.height {
            for mx in 0..mask.width {
                let covered = mask.coverage[my * mask.width + mx];
                // From the anchor, along the line and down from the baseline.
                let along = mx as i32 + mask.left - back.round() as i32;
                let down = my as i32 + mask.top;
                let (px, py) = if text.upward { (down, -along - 1) } else { (along, down) };
                self.blend(text.x.round() as i32 + px, text.y.round() as i32 + py, covered);
            }
        }
    }

    fn blend(&mut self, x: i32, y: i32, covered: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if let Some(pixel) = self.0.get_pixel_mut_checked(x, y) {
            for (channel, ink) in pixel.0.iter_mut().zip(INK) {
                let mixed = f32::from(*channel) + (f32::from(ink) - f32::from(*channel)) * covered;
                *channel = mixed.round() as u8;
            }
        }
    }
}
