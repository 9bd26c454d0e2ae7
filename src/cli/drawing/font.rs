//! Text as ink: one line of glyphs from the embedded fonts, without shaping.
//!
//! Labels are single tokens, so isolated letter forms are the right ones, and marks only need to be put on the letter
//! (or dotted circle) before them. Longer texts are set left to right in the order of their characters; they are
//! readable in scripts whose letters do not join or reorder, such as Latin, Greek and Cyrillic.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, GlyphId, OutlineCurve, Point, PxScale, point};

use super::label::{self, CIRCLE};

/// In the order they are asked for a character. The first also gives the shape of missing glyphs' numbers.
static FACES: LazyLock<Vec<FontRef<'static>>> = LazyLock::new(|| {
    let files: [&'static [u8]; 8] = [
        include_bytes!("../../../assets/fonts/NotoSans-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansArabic-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansKhmer-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansDevanagari-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansBengali-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansTamil-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansMath-subset.ttf"),
        include_bytes!("../../../assets/fonts/NotoSansSymbols2-subset.ttf"),
    ];
    files.into_iter().map(|file| FontRef::try_from_slice(file).expect("the embedded fonts are whole")).collect()
});

/// The size of a number that replaces a missing glyph, against the text around it.
const CODE_SIZE: f32 = 0.62;

/// One line of text, its glyphs placed from the pen's start at the origin; y grows downward from the baseline.
pub(crate) struct Line {
    glyphs: Vec<(usize, Glyph)>,
    /// Pixels from the start to the end of the pen's way, or of the ink where that reaches further.
    pub(super) width: f32,
}

/// The ink of a line: how much of each pixel is covered, 0..=1.
pub(crate) struct Mask {
    /// Pixels from the line's start to the left edge; may be negative.
    pub(super) left: i32,
    /// Pixels from the baseline down to the top edge; negative as a rule.
    pub(super) top: i32,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) coverage: Vec<f32>,
}

/// The face that has a character.
fn face_of(c: char) -> Option<usize> {
    FACES.iter().position(|face| face.glyph_id(c) != GlyphId(0))
}

/// Whether a text is a mark on a carrier, both of which the fonts have.
pub(crate) fn is_carried_mark(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some(CIRCLE) && characters.next().is_some_and(|c| label::is_mark(c) && face_of(c).is_some())
}

/// Whether every character of a text has a glyph.
#[cfg(test)]
pub(crate) fn covers(text: &str) -> bool {
    text.chars().all(|c| face_of(c).is_some())
}

/// The width of a text, in pixels.
pub(crate) fn width(text: &str, size: f32) -> f32 {
    set(text, size).width
}

/// The text in at most `limit` pixels, its end cut off where it is longer.
pub(crate) fn fit(text: &str, size: f32, limit: f32) -> String {
    let clusters = label::clusters(text);
    if clusters.len() <= 1 || width(text, size) <= limit {
        return text.to_owned();
    }
    // The longest beginning that fits, by halving.
    let (mut fits, mut too_long) = (0, clusters.len());
    while too_long - fits > 1 {
        let middle = fits.midpoint(too_long);
        if width(&(clusters[..middle].concat() + "…"), size) <= limit {
            fits = middle;
        } else {
            too_long = middle;
        }
    }
    clusters[..fits].concat().trim_end().to_owned() + "…"
}

/// Sets a text in one line, `size` pixels to the em.
pub(crate) fn set(text: &str, size: f32) -> Line {
    let mut setter = Setter { glyphs: Vec::new(), pen: 0.0, right: 0.0, base: None };
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        // A carrier comes from its mark's font, which has it at the right size and height.
        let next_mark = characters.peek().copied().filter(|&next| c == CIRCLE && label::is_mark(next));
        match next_mark {
            Some(mark) if label::holds_carrier(mark) => {}
            Some(mark) => setter.letter(face_of(mark).unwrap_or(0), c, size),
            None => match face_of(c) {
                Some(face) if label::is_mark(c) => match label::halves(c) {
                    Some(halves) => halves.into_iter().for_each(|half| setter.mark(face, half, size)),
                    None => setter.mark(face, c, size),
                },
                Some(face) => setter.letter(face, c, size),
                // The joiners that reach this far have no ink in any font.
                None if matches!(c, '\u{200c}' | '\u{200d}') => {}
                None => label::code(c).chars().for_each(|digit| setter.letter(0, digit, size * CODE_SIZE)),
            },
        }
    }
    Line { width: setter.pen.max(setter.right), glyphs: setter.glyphs }
}

struct Setter {
    glyphs: Vec<(usize, Glyph)>,
    pen: f32,
    /// The right end of the ink so far.
    right: f32,
    /// The last letter: its place in `glyphs`, and where its ink begins and ends.
    base: Option<(usize, f32, f32)>,
}

/// A glyph at the origin, how far it moves the pen, and where its ink begins and ends.
fn measure(face: usize, c: char, size: f32) -> (Glyph, f32, f32, f32) {
    let font = &FACES[face];
    let per_unit = size / font.units_per_em().unwrap_or(1000.0);
    let id = font.glyph_id(c);
    // ab_glyph scales by the height from descent to ascent, which differs from font to font.
    let glyph = id.with_scale_and_position(PxScale::from(per_unit * font.height_unscaled()), point(0.0, 0.0));
    let advance = font.h_advance_unscaled(id) * per_unit;
    let (left, right) =
        font.outline(id).map_or((0.0, advance), |o| (o.bounds.min.x * per_unit, o.bounds.max.x * per_unit));
    (glyph, advance, left, right)
}

impl Setter {
    fn put(&mut self, face: usize, mut glyph: Glyph, x: f32, ink_right: f32) {
        glyph.position.x = x;
        self.right = self.right.max(x + ink_right);
        self.glyphs.push((face, glyph));
    }

    fn letter(&mut self, face: usize, c: char, size: f32) {
        let (glyph, advance, left, right) = measure(face, c, size);
        // No ink left of the line's start: it would touch what is there.
        let x = if self.glyphs.is_empty() { self.pen - left.min(0.0) } else { self.pen };
        self.base = Some((self.glyphs.len(), x + left, x + right));
        self.put(face, glyph, x, right);
        self.pen = x + advance;
    }

    fn mark(&mut self, face: usize, c: char, size: f32) {
        let (glyph, advance, left, right) = measure(face, c, size);
        match self.base {
            Some((at, _, _)) if label::is_written_before(c) => {
                let x = self.glyphs[at].1.position.x;
                for (_, moved) in &mut self.glyphs[at..] {
                    moved.position.x += advance;
                }
                self.right += advance;
                self.pen += advance;
                self.base = self.base.map(|(at, from, to)| (at, from + advance, to + advance));
                self.put(face, glyph, x, right);
            }
            // Without the fonts' tables of anchors, the middle of the letter is the best place there is.
            Some((_, from, to)) if advance == 0.0 && !label::holds_carrier(c) => {
                let x = (from + to) / 2.0 - (left + right) / 2.0;
                self.put(face, glyph, x, right);
            }
            _ => {
                let x = if self.glyphs.is_empty() { self.pen - left.min(0.0) } else { self.pen };
                self.put(face, glyph, x, right);
                self.pen = x + advance.max(right);
            }
        }
    }
}

impl Line {
    /// The line's outline as SVG path data.
    pub(crate) fn path(&self) -> String {
        let mut data = String::new();
        for (face, glyph) in &self.glyphs {
            let font = &FACES[*face];
            let Some(outline) = font.outline(glyph.id) else { continue };
            let per_unit = glyph.scale.y / font.height_unscaled();
            let at = |p: Point| format!("{:.2} {:.2}", glyph.position.x + p.x * per_unit, -p.y * per_unit);
            let mut end = None;
            for curve in outline.curves {
                let (OutlineCurve::Line(start, _) | OutlineCurve::Quad(start, ..) | OutlineCurve::Cubic(start, ..)) =
                    curve;
                if end != Some(start) {
                    data += &format!("M{}", at(start));
                }
                let (step, last) = match curve {
                    OutlineCurve::Line(_, p) => (format!("L{}", at(p)), p),
                    OutlineCurve::Quad(_, a, p) => (format!("Q{} {}", at(a), at(p)), p),
                    OutlineCurve::Cubic(_, a, b, p) => (format!("C{} {} {}", at(a), at(b), at(p)), p),
                };
                data += &step;
                end = Some(last);
            }
        }
        data
    }

    /// The line's ink; none for a text of spaces.
    pub(crate) fn mask(self) -> Option<Mask> {
        let outlines: Vec<_> =
            self.glyphs.into_iter().filter_map(|(face, glyph)| FACES[face].outline_glyph(glyph)).collect();
        let first = outlines.first()?.px_bounds();
        let bounds = outlines.iter().map(|o| o.px_bounds()).fold(first, |all, one| ab_glyph::Rect {
            min: point(all.min.x.min(one.min.x), all.min.y.min(one.min.y)),
            max: point(all.max.x.max(one.max.x), all.max.y.max(one.max.y)),
        });
        let (left, top) = (bounds.min.x as i32, bounds.min.y as i32);
        let (width, height) = (bounds.width().ceil() as usize, bounds.height().ceil() as usize);
        let mut coverage = vec![0.0_f32; width * height];
        for outline in outlines {
            let corner = outline.px_bounds().min;
            let (dx, dy) = ((corner.x as i32 - left) as usize, (corner.y as i32 - top) as usize);
            outline.draw(|x, y, covered| {
                let (x, y) = (dx + x as usize, dy + y as usize);
                if x < width && y < height {
                    let pixel = &mut coverage[y * width + x];
                    *pixel = (*pixel + covered).min(1.0);
                }
            });
        }
        Some(Mask { left, top, width, height, coverage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stay_on_their_carrier() {
        for mark in ["\u{17b7}", "\u{17d2}", "\u{902}", "\u{64e}", "\u{301}"] {
            let shown = label::shown(mark);
            let alone = set("\u{25cc}", 40.0).width;
            let line = set(&shown, 40.0);
            assert_eq!(line.glyphs.len(), 2, "{shown}");
            assert!(line.width < 1.5 * alone, "{shown}: {} against {alone}", line.width);
        }
        // Written before the circle, and with the circle inside its own glyph.
        let before = set("\u{25cc}\u{17c1}", 40.0);
        assert!(before.glyphs[1].1.position.x < before.glyphs[0].1.position.x);
        assert_eq!(set("\u{25cc}\u{17c4}", 40.0).glyphs.len(), 1);
        assert_eq!(set("\u{25cc}\u{9cb}", 40.0).glyphs.len(), 3);
    }

    #[test]
    fn missing_glyphs_become_numbers() {
        assert!(!covers("\u{11200}"));
        let line = set("\u{11200}", 40.0);
        assert_eq!(line.glyphs.len(), "U+11200".len());
        assert!(line.mask().is_some());
        assert!(set(" ", 40.0).mask().is_none());
        assert!(set("", 40.0).mask().is_none());
    }

    #[test]
    fn fitting_cuts_the_end() {
        let text = "a rather long title";
        assert_eq!(fit(text, 20.0, 1e6), text);
        let cut = fit(text, 20.0, 100.0);
        assert!(cut.ends_with('…') && width(&cut, 20.0) <= 100.0, "{cut}");
    }
}
