//! Curves over logarithmic axes: one panel beside the other, one legend for all.

use crate::drawing::{Anchor, HALF_LETTER, INK, Item, LEADING, Line, Rgb, Scene, font, text, upward};

/// Panels that are read together.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// Lines below the title.
    pub(crate) notes: Vec<String>,
    pub(crate) x_axis: String,
    pub(crate) y_axis: String,
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Drawn in this order; those of one name look alike in every panel.
    pub(crate) curves: Vec<Curve>,
}

#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) look: Look,
    /// Both above 0, x ascending.
    pub(crate) points: Vec<[f64; 2]>,
}

/// What a curve is drawn like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Look {
    /// A broad pale band.
    Band,
    /// A line with a marker at each point: one of several that stay distinguishable, also in grey.
    Marked(usize),
    /// A dashed line without markers.
    Dashed,
}

/// Colours that differ for colour-blind eyes: those of Okabe and Ito (2008) but for yellow, which is too pale on white,
/// then three dark ones.
const COLORS: [Rgb; 10] = [
    [0, 114, 178],
    [0, 158, 115],
    [213, 94, 0],
    [110, 112, 120],
    [204, 121, 167],
    [86, 180, 233],
    [150, 110, 0],
    [136, 34, 85],
    [0, 90, 100],
    [96, 130, 30],
];
const BAND: Rgb = [214, 222, 238];
const BAND_WIDTH: f32 = 11.0;
const GRID: Rgb = [232, 235, 240];

const TITLE: f32 = 22.0;
const NOTE: f32 = 14.0;
const NAME: f32 = 15.0;
const NUMBER: f32 = 13.0;
const MARGIN: f32 = 20.0;
const BETWEEN: f32 = 34.0;
/// Of the axes of one panel.
const WIDTH: f32 = 380.0;
const HEIGHT: f32 = 260.0;
/// From a point's middle to the edge of its marker.
const MARKER: f32 = 4.5;

impl Chart {
    /// What is drawn, and where.
    pub(crate) fn scene(&self) -> Scene<'static> {
        let mut items = Vec::new();
        let mut y = MARGIN + TITLE;
        let mut right = MARGIN + font::width(&self.title, TITLE);
        items.push(text(MARGIN, y, TITLE, Anchor::Start, self.title.clone()));
        for note in &self.notes {
            y += NOTE * LEADING;
            right = right.max(MARGIN + font::width(note, NOTE));
            items.push(text(MARGIN, y, NOTE, Anchor::Start, note.clone()));
        }
        let across = match self.panels.len() {
            0..=3 => self.panels.len().max(1),
            4 => 2,
            _ => 3,
        };
        // Room for the numbers and the name of the vertical axis.
        let left = MARGIN + NAME * LEADING + 46.0;
        let step = [WIDTH + BETWEEN + 46.0, HEIGHT + NAME * LEADING + NUMBER * LEADING + BETWEEN];
        let grid_right = left + across as f32 * step[0] - BETWEEN - 46.0;
        y = self.legend(y + 14.0, grid_right.max(right), &mut items) + NAME * LEADING + 12.0;
        let top = y;
        let down = self.panels.len().div_ceil(across);
        for (at, panel) in self.panels.iter().enumerate() {
            panel.draw([left + (at % across) as f32 * step[0], top + (at / across) as f32 * step[1]], &mut items);
        }
        let bottom = top + (down as f32 - 1.0).max(0.0) * step[1] + HEIGHT;
        let middle = [(left + grid_right) / 2.0, (top + bottom) / 2.0];
        let below = bottom + NUMBER + NAME + 16.0;
        items.push(text(middle[0], below, NAME, Anchor::Middle, self.x_axis.clone()));
        items.push(upward(MARGIN + NAME, middle[1], NAME, Anchor::Middle, self.y_axis.clone()));
        let width = right.max(grid_right) + MARGIN;
        Scene { width: width.ceil(), height: (below + NAME * 0.3 + MARGIN).ceil(), items }
    }

    /// Each name once, in lines; gives the bottom.
    fn legend(&self, top: f32, right: f32, items: &mut Vec<Item<'static>>) -> f32 {
        const SAMPLE: f32 = 34.0;
        let mut known: Vec<(&str, Look)> = Vec::new();
        for curve in self.panels.iter().flat_map(|panel| &panel.curves) {
            if !known.iter().any(|(name, _)| *name == curve.name) {
                known.push((&curve.name, curve.look));
            }
        }
        let (mut x, mut y) = (MARGIN, top + NAME / 2.0);
        for (name, look) in known {
            let width = SAMPLE + 8.0 + font::width(name, NAME);
            if x > MARGIN && x + width > right {
                (x, y) = (MARGIN, y + NAME * LEADING);
            }
            // A round end reaches half a width further.
            let end = if look == Look::Band { BAND_WIDTH / 2.0 } else { 0.0 };
            stroke(look, vec![[x + end, y], [x + SAMPLE - end, y]], items);
            marker(look, [x + SAMPLE / 2.0, y], items);
            items.push(text(x + SAMPLE + 8.0, y + NAME * HALF_LETTER, NAME, Anchor::Start, name.to_owned()));
            x += width + 24.0;
        }
        y + NAME / 2.0
    }
}

impl Panel {
    fn draw(&self, [left, top]: [f32; 2], items: &mut Vec<Item<'static>>) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Axis::new(points().map(|p| p[0]), 2.0, WIDTH);
        let y = Axis::new(points().map(|p| p[1]), 10.0, HEIGHT);
        let (bottom, base) = (top + HEIGHT, top - 10.0);
        items.push(text(left, base, NAME, Anchor::Start, font::fit(&self.title, NAME, WIDTH)));

        let line = |points: Vec<[f32; 2]>, color| Item::Line(Line { points, width: 1.0, color, dash: None });
        for tick in x.ticks() {
            let at = left + x.place(tick);
            items.push(line(vec![[at, top], [at, bottom]], GRID));
            items.push(text(at, bottom + NUMBER + 6.0, NUMBER, Anchor::Middle, power_of_two(tick)));
        }
        for tick in y.ticks() {
            let at = bottom - y.place(tick);
            items.push(line(vec![[left, at], [left + WIDTH, at]], GRID));
            items.push(text(left - 7.0, at + NUMBER * HALF_LETTER, NUMBER, Anchor::End, decimal(tick)));
        }
        items.push(Item::Frame(left, top, WIDTH, HEIGHT));
        for curve in &self.curves {
            let at: Vec<[f32; 2]> =
                curve.points.iter().map(|&[a, b]| [left + x.place(a), bottom - y.place(b)]).collect();
            stroke(curve.look, at.clone(), items);
            at.into_iter().for_each(|point| marker(curve.look, point, items));
        }
    }
}

fn stroke(look: Look, points: Vec<[f32; 2]>, items: &mut Vec<Item<'static>>) {
    let (width, color, dash) = match look {
        Look::Band => (BAND_WIDTH, BAND, None),
        Look::Marked(which) => (2.2, COLORS[which % COLORS.len()], None),
        Look::Dashed => (1.6, INK, Some([7.0, 4.0])),
    };
    items.push(Item::Line(Line { points, width, color, dash }));
}

/// A marker with a white edge, so that it stands out from lines that cross it.
fn marker(look: Look, [x, y]: [f32; 2], items: &mut Vec<Item<'static>>) {
    let Look::Marked(which) = look else { return };
    // Corners of a regular polygon, clockwise from an angle; more than four are as good as a circle.
    let (corners, turn, size) = match which % 4 {
        0 => (24, 0.0, 1.0),
        1 => (4, 0.125, 1.25),
        2 => (3, 0.75, 1.4),
        _ => (4, 0.0, 1.3),
    };
    for (grown, color) in [(1.5, [255; 3]), (0.0, COLORS[which % COLORS.len()])] {
        let corner = |k: usize| {
            let angle = (k as f32 / corners as f32 + turn) * std::f32::consts::TAU;
            let reach = MARKER * size + grown * size;
            [x + reach * angle.cos(), y + reach * angle.sin()]
        };
        items.push(Item::Polygon((0..corners).map(corner).collect(), color));
    }
}

/// A logarithmic axis.
struct Axis {
    /// Logarithms to its base at both ends.
    ends: [f64; 2],
    base: f64,
    length: f32,
}

impl Axis {
    /// That holds some values; at least one power of its base long.
    fn new(values: impl Iterator<Item = f64>, base: f64, length: f32) -> Self {
        let logs: Vec<f64> =
            values.filter(|value| *value > 0.0 && value.is_finite()).map(|v| v.ln() / base.ln()).collect();
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
        // A little room, so that no marker lies on the frame.
        let room = 0.06 * (most - least).max(1.0);
        let short = (1.0 - (most - least)).max(0.0) / 2.0;
        Self { ends: [least - room - short, most + room + short], base, length }
    }

    /// From its start.
    fn place(&self, value: f64) -> f32 {
        let share = (value.max(f64::MIN_POSITIVE).ln() / self.base.ln() - self.ends[0]) / (self.ends[1] - self.ends[0]);
        share as f32 * self.length
    }

    /// Where the numbers are: at powers of the base, not closer than they can be read; where an axis of tens has but few of
    /// those, at twice and five times as well.
    fn ticks(&self) -> Vec<f64> {
        let [first, last] = [self.ends[0].floor() as i32, self.ends[1].ceil() as i32];
        let powers = self.ends[1] - self.ends[0];
        let between: &[f64] = if self.base == 10.0 && powers < 3.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let step = ((powers * 34.0 / f64::from(self.length)).ceil() as usize).max(1);
        let ticks = (first..=last).step_by(step).flat_map(|k| between.iter().map(move |&f| (k, f)));
        ticks
            .map(|(power, factor)| factor * self.base.powi(power))
            .filter(|tick| (0.0..=self.length).contains(&self.place(*tick)))
            .collect()
    }
}

/// 512, 1k, 64k, 1M.
fn power_of_two(x: f64) -> String {
    match x {
        x if x >= 1_048_576.0 => format!("{}M", x / 1_048_576.0),
        x if x >= 1024.0 => format!("{}k", x / 1024.0),
        x => format!("{x}"),
    }
}

/// 0.05, 20, 5 000.
fn decimal(x: f64) -> String {
    if x < 1.0 {
        let decimals = (-x.log10() - 1e-9).ceil() as usize;
        return format!("{x:.decimals$}");
    }
    let digits = format!("{x:.0}");
    let groups: Vec<&str> = (0..digits.len().div_ceil(3))
        .rev()
        .map(|k| &digits[digits.len().saturating_sub(3 * (k + 1))..digits.len() - 3 * k])
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::raster::Raster;

    fn chart(curves: Vec<Curve>) -> Chart {
        Chart {
            title: "throughput".to_owned(),
            notes: vec!["a device".to_owned()],
            x_axis: "sequence length".to_owned(),
            y_axis: "GFLOP/s".to_owned(),
            panels: vec![Panel { title: "prefill".to_owned(), curves }; 2],
        }
    }

    fn curve(name: &str, look: Look, points: &[[f64; 2]]) -> Curve {
        Curve { name: name.to_owned(), look, points: points.to_vec() }
    }

    #[test]
    fn numbers_at_axes() {
        assert_eq!([512.0, 1024.0, 65_536.0, 2_097_152.0].map(power_of_two), ["512", "1k", "64k", "2M"]);
        assert_eq!(
            [0.05, 0.1, 0.002, 1.0, 20.0, 5e3, 1.5e6].map(decimal),
            ["0.05", "0.1", "0.002", "1", "20", "5 000", "1 500 000"]
        );
        let x = Axis::new([512.0, 8192.0].into_iter(), 2.0, WIDTH);
        assert_eq!(x.ticks(), [512.0, 1024.0, 2048.0, 4096.0, 8192.0]);
        let y = Axis::new([3.0, 90.0].into_iter(), 10.0, HEIGHT);
        assert_eq!(
            y.ticks(),
            [5.0, 10.0, 20.0, 50.0, 100.0].iter().copied().filter(|t| *t <= 100.0).collect::<Vec<_>>()
        );
        assert!(Axis::new([1e-3, 1e9].into_iter(), 10.0, HEIGHT).ticks().len() <= 13);
        // One value, or none, still makes an axis.
        assert!(Axis::new([7.0].into_iter(), 2.0, WIDTH).ticks().contains(&8.0));
        assert!(!Axis::new(std::iter::empty(), 10.0, HEIGHT).ticks().is_empty());
    }

    #[test]
    fn higher_is_higher_and_later_is_further_right() {
        let axis = Axis::new([10.0, 1000.0].into_iter(), 10.0, 100.0);
        assert!((axis.place(100.0) - 50.0).abs() < 1e-3);
        let lengths: Vec<f32> = [10.0, 100.0, 1000.0].map(|x| axis.place(x)).to_vec();
        assert!(lengths.windows(2).all(|w| w[0] < w[1]) && lengths[0] > 0.0 && lengths[2] < 100.0);
    }

    #[test]
    fn every_curve_is_in_both_files() {
        let curves = vec![
            curve("auto", Look::Band, &[[1.0, 5.0], [2.0, 9.0]]),
            curve("fused <1>", Look::Marked(0), &[[1.0, 5.0], [2.0, 9.0], [4.0, 8.0]]),
            curve("ceiling", Look::Dashed, &[[1.0, 50.0], [4.0, 50.0]]),
        ];
        let scene = chart(curves).scene();
        let svg = scene.svg("throughput");
        assert_eq!(svg.matches("<polyline").count() - svg.matches("stroke-width=\"1\"").count(), 3 + 2 * 3, "{svg}");
        assert_eq!(svg.matches(">fused &lt;1&gt;<").count(), 1, "the legend names it once: {svg}");
        let picture = Raster::decode(&scene.png().unwrap());
        for color in [COLORS[0], BAND, INK] {
            assert!(picture.pixels().filter(|&(_, _, pixel)| pixel == color).count() > 50, "{color:?}");
        }
        // Nothing is drawn at the edges, where it would be cut.
        let Raster { width, height, .. } = picture;
        let inside = |x: u32, y: u32| (8..width - 8).contains(&x) && (8..height - 8).contains(&y);
        assert!(picture.pixels().all(|(x, y, pixel)| inside(x, y) || pixel == [255; 3]));
    }
}
