//! Heat maps of attention weights: a PNG or SVG picture, or shaded cells for a terminal.
//!
//! [`scene`] decides once where everything goes; [`png`] and [`svg`] only draw what it lists. [`terminal`] has a
//! layout of its own, counted in characters.

mod font;
mod label;
mod png;
mod ramp;
mod scene;
mod svg;
mod terminal;

/// One matrix of weights: one row a target symbol (decoder step), one column a source symbol.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Shown above the matrix; may be empty.
    pub(crate) title: String,
    /// One label a row: a vocabulary token, or a number.
    pub(crate) rows: Vec<String>,
    /// One label a column.
    pub(crate) columns: Vec<String>,
    /// `rows.len() * columns.len()` weights of 0..=1, row by row. A missing or non-finite one is drawn as marked.
    pub(crate) weights: Vec<f32>,
}

/// Panels that are read together, with one scale for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Heatmap {
    pub(crate) title: String,
    /// What the rows are, such as "output".
    pub(crate) row_axis: String,
    /// What the columns are, such as "input".
    pub(crate) column_axis: String,
    pub(crate) panels: Vec<Panel>,
}

impl Heatmap {
    /// The bytes of a PNG file, at most [`scene::MAX_SIDE`] pixels a side. Matrices too large for that show the
    /// largest weight of each block of cells, and say so.
    ///
    /// # Errors
    /// When the panels do not fit even so.
    pub(crate) fn png(&self) -> Result<Vec<u8>, String> {
        png::encode(&scene::arrange(self))
    }

    /// The same picture as an SVG document. Its text is set in whatever fonts the reader has, but for marks alone.
    pub(crate) fn svg(&self) -> String {
        svg::document(&self.title, &scene::arrange(self))
    }

    /// Lines for a terminal of `width` characters: 24-bit background shades, or with `color` off, ` ░▒▓█`.
    pub(crate) fn terminal(&self, color: bool, width: usize) -> String {
        terminal::draw(self, color, width)
    }

    /// The weight at the dark end of the scale: 1, or where every weight is under half of that, the smallest of
    /// 0.5, 0.2, 0.1, … that holds them all, so that weights spread over many columns can still be told apart.
    fn full_scale(&self) -> f32 {
        let largest =
            self.panels.iter().flat_map(|p| &p.weights).copied().filter(|w| w.is_finite()).fold(0.0_f32, f32::max);
        if largest <= 0.0 {
            return 1.0;
        }
        let steps = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
        steps.into_iter().rfind(|&top| largest <= top).unwrap_or(1.0)
    }

    /// Whether some weight is missing, infinite or not a number.
    fn has_marked(&self) -> bool {
        self.panels.iter().any(|p| {
            let cells = p.rows.len() * p.columns.len();
            p.weights.len() < cells || p.weights.iter().take(cells).any(|w| !w.is_finite())
        })
    }
}

impl Panel {
    fn weight(&self, row: usize, column: usize) -> f32 {
        self.weights.get(row * self.columns.len() + column).copied().unwrap_or(f32::NAN)
    }

    /// The matrix seen in blocks of `block` × `block` weights.
    fn blocks(&self, block: usize) -> Blocks<'_> {
        Blocks {
            panel: self,
            block,
            rows: self.rows.len().div_ceil(block),
            columns: self.columns.len().div_ceil(block),
        }
    }
}

/// A panel whose cells each stand for a square block of weights (of one weight, as a rule).
#[derive(Clone, Copy, Debug)]
struct Blocks<'a> {
    panel: &'a Panel,
    block: usize,
    rows: usize,
    columns: usize,
}

impl Blocks<'_> {
    /// The largest weight of a cell's block; not a number where one of them is not finite.
    fn weight(&self, row: usize, column: usize) -> f32 {
        let last_row = ((row + 1) * self.block).min(self.panel.rows.len());
        let last_column = ((column + 1) * self.block).min(self.panel.columns.len());
        let mut largest = f32::NEG_INFINITY;
        for r in row * self.block..last_row {
            for c in column * self.block..last_column {
                let weight = self.panel.weight(r, c);
                if !weight.is_finite() {
                    return f32::NAN;
                }
                largest = largest.max(weight);
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests;
