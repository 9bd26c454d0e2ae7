//! A scene as a PNG file.

use super::raster::Raster;
use super::{
    Cells, FRAME, Fill, HATCH, HATCH_STEP, INK, Item, LINE, Line, Rgb, SEPARATED_CELL, SEPARATOR, Scene, Text, font,
};

/// The longest side of a picture, in pixels.
pub(crate) const MAX_SIDE: f32 = 4000.0;
/// Pixels to a unit of the layout, so that small text is sharp in print; 1 where that would be too large.
const FINE: f32 = 2.0;

pub(super) fn encode(scene: &Scene) -> Result<Vec<u8>, String> {
    let longest = scene.width.max(scene.height);
    if longest > MAX_SIDE {
        return Err(format!("the panels do not fit a picture of {MAX_SIDE} × {MAX_SIDE} pixels: draw fewer of them"));
    }
    let pixels = if longest * FINE <= MAX_SIDE { FINE } else { 1.0 };
    let (width, height) = ((scene.width * pixels) as u32, (scene.height * pixels) as u32);
    let mut canvas = Canvas { raster: Raster::new(width, height), pixels };
    for item in &scene.items {
        match item {
            Item::Text(text) => canvas.text(text),
            &Item::Tick(x, y, width, height) => canvas.fill(x, y, width, height, FRAME),
            &Item::Frame(x, y, width, height) => canvas.frame(x, y, width, height),
            &Item::Swatch(x, y, width, height, paint) => canvas.paint(x, y, width, height, paint),
            Item::Cells(cells) => canvas.cells(cells),
            Item::Line(line) => canvas.line(line),
            Item::Polygon(corners, color) => canvas.polygon(corners, *color),
        }
    }
    canvas.raster.encode().map_err(|e| format!("the picture cannot be encoded: {e}"))
}

struct Canvas {
    raster: Raster,
    /// To a unit.
    pixels: f32,
}

impl Canvas {
    /// The pixels of a rectangle, one by one.
    fn each(&mut self, x: f32, y: f32, width: f32, height: f32, mut f: impl FnMut(u32, u32) -> Option<Rgb>) {
        let end = |at: f32, limit: u32| ((at * self.pixels).round().max(0.0) as u32).min(limit);
        let (columns, rows) = (self.raster.width, self.raster.height);
        for py in end(y, rows)..end(y + height, rows) {
            for px in end(x, columns)..end(x + width, columns) {
                if let Some(color) = f(px, py) {
                    self.raster.put(px, py, color);
                }
            }
        }
    }

    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, color: Rgb) {
        self.each(x, y, width, height, |_, _| Some(color));
    }

    fn paint(&mut self, x: f32, y: f32, width: f32, height: f32, paint: Fill) {
        if let Fill::Color(color) = paint {
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

    fn cells(&mut self, cells: &Cells) {
        let Cells { x, y, side, rows, columns, .. } = *cells;
        for row in 0..rows {
            for column in 0..columns {
                let fill = (cells.fill)(row, column);
                self.paint(x + column as f32 * side, y + row as f32 * side, side, side, fill);
            }
        }
        if side >= SEPARATED_CELL {
            for row in 1..rows {
                self.fill(x, y + row as f32 * side, columns as f32 * side, LINE, SEPARATOR);
            }
            for column in 1..columns {
                self.fill(x + column as f32 * side, y, LINE, rows as f32 * side, SEPARATOR);
            }
        }
    }

    /// Each pixel by how far its middle is inside a shape whose points lie around `points`, at most `reach` away: from
    /// all (half a pixel and more) to nothing.
    fn shade(&mut self, points: &[[f32; 2]], reach: f32, color: Rgb, inside: impl Fn([f32; 2]) -> f32) {
        let most = |axis: usize| points.iter().map(|p| p[axis]).fold(f32::NEG_INFINITY, f32::max) + reach;
        let least = |axis: usize| points.iter().map(|p| p[axis]).fold(f32::INFINITY, f32::min) - reach;
        let pixels = self.pixels;
        let pixel = |at: f32, limit: u32| (at * pixels).clamp(0.0, limit as f32) as u32;
        let (columns, rows) = (self.raster.width, self.raster.height);
        for py in pixel(least(1), rows)..pixel(most(1) + 1.0, rows) {
            for px in pixel(least(0), columns)..pixel(most(0) + 1.0, columns) {
                let at = [px, py].map(|p| (p as f32 + 0.5) / pixels);
                let covered = (inside(at) * pixels + 0.5).clamp(0.0, 1.0);
                if covered > 0.0 {
                    self.blend(px as i32, py as i32, covered, color);
                }
            }
        }
    }

    fn line(&mut self, line: &Line) {
        let half = line.width / 2.0;
        for stroke in strokes(&line.points, line.dash) {
            self.shade(&stroke, half + 1.0, line.color, |at| {
                let nearest =
                    stroke.windows(2).map(|ends| distance(at, ends[0], ends[1])).fold(f32::INFINITY, f32::min);
                half - nearest
            });
        }
    }

    fn polygon(&mut self, corners: &[[f32; 2]], color: Rgb) {
        let sides: Vec<_> = corners.iter().zip(corners.iter().cycle().skip(1)).collect();
        self.shade(corners, 1.0, color, |at| {
            let depth = |(a, b): &(&[f32; 2], &[f32; 2])| {
                let along = [b[0] - a[0], b[1] - a[1]];
                let length = along[0].hypot(along[1]).max(f32::MIN_POSITIVE);
                (along[0] * (at[1] - a[1]) - along[1] * (at[0] - a[0])) / length
            };
            sides.iter().map(depth).fold(f32::INFINITY, f32::min)
        });
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
                self.blend(x + px, y + py, covered, INK);
            }
        }
    }

    fn blend(&mut self, x: i32, y: i32, covered: f32, color: Rgb) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if let Some(pixel) = self.raster.at(x, y) {
            for (channel, ink) in pixel.iter_mut().zip(color) {
                let mixed = f32::from(*channel) + (f32::from(ink) - f32::from(*channel)) * covered;
                *channel = mixed.round() as u8;
            }
        }
    }
}

/// From a point to the nearest of a segment.
fn distance(at: [f32; 2], from: [f32; 2], to: [f32; 2]) -> f32 {
    let (along, off) = ([to[0] - from[0], to[1] - from[1]], [at[0] - from[0], at[1] - from[1]]);
    let length = along[0] * along[0] + along[1] * along[1];
    let share = ((along[0] * off[0] + along[1] * off[1]) / length.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0);
    (off[0] - share * along[0]).hypot(off[1] - share * along[1])
}

/// A line as its visible strokes.
fn strokes(points: &[[f32; 2]], dash: Option<[f32; 2]>) -> Vec<Vec<[f32; 2]>> {
    let Some([on, off]) = dash.filter(|dash| dash.iter().all(|length| *length > 0.0)) else {
        return vec![points.to_vec()];
    };
    let (mut strokes, mut walked) = (Vec::new(), 0.0);
    for ends in points.windows(2) {
        let length = (ends[1][0] - ends[0][0]).hypot(ends[1][1] - ends[0][1]);
        let at = |way: f32| [0, 1].map(|axis| ends[0][axis] + (ends[1][axis] - ends[0][axis]) * (way / length));
        // The phase of the pattern at the segment's start.
        let mut start = -(walked % (on + off));
        while start < length {
            let (from, to) = (start.max(0.0), (start + on).min(length));
            if from < to {
                strokes.push(vec![at(from), at(to)]);
            }
            start += on + off;
        }
        walked += length;
    }
    strokes
}
