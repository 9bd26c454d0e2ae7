//! Heat maps of attention weights: a PNG or SVG picture, or shaded cells for a terminal.
//!
//! [`scene`] decides once where everything goes. [`terminal`] has a layout of its own, counted in characters.

mod ramp;
mod scene;
mod terminal;

use clap::ValueEnum;

use crate::drawing::Scene;

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
    /// Which of them are hidden by a mask; empty where none is. A picture distinguishes these from weights of 0, a terminal does
    /// not.
    pub(crate) hidden: Vec<bool>,
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
    /// What the numbers are, such as "attention weight".
    pub(crate) measure: &'static str,
    pub(crate) curve: Curve,
}

/// How weights become shades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Curve {
    /// In proportion.
    #[default]
    Linear,
    /// By their square roots: small weights stay distinguishable beside large ones.
    Sqrt,
}

/// The shades of a picture: those of its darkest weight and all below.
#[derive(Clone, Copy, Debug)]
struct Scale {
    top: f32,
    curve: Curve,
}

impl Scale {
    /// From 0 for no weight to 1 for the darkest.
    fn place(self, weight: f32) -> f32 {
        match self.curve {
            Curve::Linear => weight / self.top,
            Curve::Sqrt => (weight / self.top).max(0.0).sqrt(),
        }
    }
}

impl Heatmap {
    /// The picture. Matrices too large for one show the largest weight of each block of cells, and say so.
    pub(crate) fn scene(&self) -> Scene<'_> {
        scene::arrange(self)
    }

    /// Lines for a terminal of `width` characters: 24-bit background shades, or with `color` off, ` ░▒▓█`.
    pub(crate) fn terminal(&self, color: bool, width: usize) -> String {
        terminal::draw(self, color, width)
    }

    /// The weight at the dark end of the scale: 1, or where every weight is under half of that, the smallest of
    /// 0.5, 0.2, 0.1, … that holds them all, so that weights spread over many columns stay distinguishable.
    fn full_scale(&self) -> f32 {
        let largest = self.panels.iter().flat_map(|p| &p.weights).copied().filter(|w| w.is_finite());
        let largest = largest.fold(0.0_f32, f32::max);
        if largest <= 0.0 {
            return 1.0;
        }
        let steps = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
        steps.into_iter().rfind(|&top| largest <= top).unwrap_or(1.0)
    }

    fn scale(&self) -> Scale {
        Scale { top: self.full_scale(), curve: self.curve }
    }

    /// Whether some visible weight is missing, infinite or not a number.
    fn has_marked(&self) -> bool {
        self.panels.iter().any(|p| {
            p.weights.len() < p.rows.len() * p.columns.len()
                || p.weights.iter().enumerate().any(|(at, w)| !w.is_finite() && !p.is_hidden(at))
        })
    }

    /// Whether some weight is hidden.
    fn has_hidden(&self) -> bool {
        self.panels.iter().any(|p| p.hidden.contains(&true))
    }
}

impl Panel {
    fn weight(&self, at: usize) -> f32 {
        self.weights.get(at).copied().unwrap_or(f32::NAN)
    }

    fn is_hidden(&self, at: usize) -> bool {
        self.hidden.get(at).copied().unwrap_or(false)
    }

    /// The matrix in blocks of `block` × `block` weights.
    fn blocks(&self, block: usize) -> Blocks<'_> {
        Blocks {
            panel: self,
            block,
            rows: self.rows.len().div_ceil(block),
            columns: self.columns.len().div_ceil(block),
        }
    }
}

/// A panel whose cells each show a square block of weights (of one weight, as a rule).
#[derive(Clone, Copy, Debug)]
struct Blocks<'a> {
    panel: &'a Panel,
    block: usize,
    rows: usize,
    columns: usize,
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    /// The largest weight of its block.
    Weight(f32),
    /// One of them is not finite.
    NotFinite,
    /// All of them are hidden.
    Hidden,
}

impl Shown {
    /// Its place on the scale; not a number where a weight is not finite.
    fn share(self, scale: Scale) -> f32 {
        match self {
            Self::Weight(weight) => scale.place(weight),
            Self::NotFinite => f32::NAN,
            Self::Hidden => 0.0,
        }
    }
}

impl Blocks<'_> {
    fn shown(&self, row: usize, column: usize) -> Shown {
        let last_row = ((row + 1) * self.block).min(self.panel.rows.len());
        let last_column = ((column + 1) * self.block).min(self.panel.columns.len());
        let mut shown = Shown::Hidden;
        for r in row * self.block..last_row {
            for at in (column * self.block..last_column).map(|c| r * self.panel.columns.len() + c) {
                if self.panel.is_hidden(at) {
                    continue;
                }
                let weight = self.panel.weight(at);
                if !weight.is_finite() {
                    return Shown::NotFinite;
                }
                shown = match shown {
                    Shown::Weight(largest) => Shown::Weight(largest.max(weight)),
                    _ => Shown::Weight(weight),
                };
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests;
