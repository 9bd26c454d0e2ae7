//! Pictures: what is drawn and where, as a PNG file or an SVG document.

mod canvas;
pub(crate) mod font;
pub(crate) mod label;
pub(crate) mod raster;
mod svg;

use std::ffi::OsStr;
use std::path::Path;

pub(crate) use canvas::MAX_SIDE;
use regard::{Error, Result};

use crate::failure::{Failure, Outcome};
use crate::{output, stream};

/// The kind of a picture's file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    Png,
    Svg,
}

impl Format {
    /// By the ending of the file's name; standard output, `-`, is a PNG.
    ///
    /// # Errors
    /// [`Error::Option`] for any other ending, and for a PNG to a terminal.
    pub(crate) fn of(option: &str, path: &Path) -> Result<Self> {
        stream::refuse_terminal(option, Some(path))?;
        let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
        match ending.as_str() {
            _ if stream::is_standard(path) => Ok(Self::Png),
            "png" => Ok(Self::Png),
            "svg" => Ok(Self::Svg),
            _ => Err(Error::option(option, "a picture's file is called `.png` or `.svg`")),
        }
    }
}

/// A colour of the screen: red, green, blue.
pub(crate) type Rgb = [u8; 3];

pub(crate) const INK: Rgb = [26, 28, 33];
const FRAME: Rgb = [96, 100, 110];
const SEPARATOR: Rgb = [222, 227, 234];

/// The lines that hidden cells are hatched with, on white: a pattern stays apart from every colour in grey print too.
pub(crate) const HATCH: Rgb = [190, 194, 200];
/// From one line of the hatching to the next, along either axis.
const HATCH_STEP: f32 = 5.0;

/// Cells smaller than this have no lines between them.
pub(crate) const SEPARATED_CELL: f32 = 12.0;
/// How wide such a line is.
const LINE: f32 = 1.0;

/// From the baseline to the middle of capitals and of most letters, against the size.
pub(crate) const HALF_LETTER: f32 = 0.34;
/// How much higher than its size a line of text is apart from the next.
pub(crate) const LEADING: f32 = 1.35;

/// Everything in a picture, back to front, in units of the SVG document; y grows downward. The ground is white.
pub(crate) struct Scene<'a> {
    pub(crate) width: f32,
    pub(crate) height: f32,
    pub(crate) items: Vec<Item<'a>>,
}

impl Scene<'_> {
    /// The bytes of a PNG file, at most [`MAX_SIDE`] pixels a side.
    ///
    /// # Errors
    /// When the scene is larger than that.
    pub(crate) fn png(&self) -> Result<Vec<u8>, String> {
        canvas::encode(self)
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn save(&self, title: &str, path: &Path, format: Format) -> Outcome {
        match format {
            Format::Svg => output::save(path, self.svg(title).as_bytes()),
            Format::Png => {
                let png = self.png().map_err(|reason| Failure::other(format!("{}: {reason}", path.display())))?;
                output::save(path, &png)
            }
        }
    }

    /// The same picture as an SVG document. Its text is set in whatever fonts the reader has, but for marks alone.
    pub(crate) fn svg(&self, title: &str) -> String {
        svg::document(title, self)
    }
}

pub(crate) enum Item<'a> {
    Text(Text),
    /// A short thin line at an axis: its corner, width and height.
    Tick(f32, f32, f32, f32),
    /// The outline of a rectangle.
    Frame(f32, f32, f32, f32),
    /// A rectangle of one paint.
    Swatch(f32, f32, f32, f32, Fill),
    Cells(Cells<'a>),
    Line(Line),
    /// The inside of a convex polygon, its corners clockwise on screen.
    Polygon(Vec<[f32; 2]>, Rgb),
}

/// What a surface is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fill {
    Color(Rgb),
    /// In [`HATCH`] on white.
    Hatched,
}

/// A matrix of square cells from a corner.
pub(crate) struct Cells<'a> {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) side: f32,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// By row and column.
    pub(crate) fill: Box<dyn Fn(usize, usize) -> Fill + 'a>,
    /// The colour that most cells may have.
    pub(crate) ground: Rgb,
}

/// A line through points, round at its ends and corners.
pub(crate) struct Line {
    pub(crate) points: Vec<[f32; 2]>,
    pub(crate) width: f32,
    pub(crate) color: Rgb,
    /// Lengths of a stroke and of the gap behind it.
    pub(crate) dash: Option<[f32; 2]>,
}

pub(crate) struct Text {
    /// The baseline's point that `anchor` says.
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) size: f32,
    pub(crate) anchor: Anchor,
    /// Turned a quarter to the left: it is read upward.
    pub(crate) upward: bool,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    /// How much of a text's width comes before the anchor.
    fn before(self, width: f32) -> f32 {
        match self {
            Self::Start => 0.0,
            Self::Middle => width / 2.0,
            Self::End => width,
        }
    }
}

/// A text to be read from left to right.
pub(crate) fn text<'a>(x: f32, y: f32, size: f32, anchor: Anchor, text: String) -> Item<'a> {
    Item::Text(Text { x, y, size, anchor, upward: false, text })
}

/// A text to be read upward.
pub(crate) fn upward<'a>(x: f32, y: f32, size: f32, anchor: Anchor, text: String) -> Item<'a> {
    Item::Text(Text { x, y, size, anchor, upward: true, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_the_ending() {
        let format = |path| Format::of("plot", Path::new(path));
        assert_eq!(format("a/b.png").unwrap(), Format::Png);
        assert_eq!(format("b.SVG").unwrap(), Format::Svg);
        for wrong in ["b", "b.jpg", "png", ".png", "-.jpg"] {
            assert!(matches!(format(wrong), Err(Error::Option { .. })), "{wrong}");
        }
    }
}
