//! The layout of a picture: what is drawn, and where.

use super::ramp::{self, LEVELS, Paint};
use super::{Blocks, Curve, Heatmap, Panel, Scale};
use crate::drawing::{
    Anchor, Cells, HALF_LETTER, Item, LEADING, MAX_SIDE, SEPARATED_CELL, Scene, font, label, text, upward,
};

const TITLE: f32 = 24.0;
const PANEL_TITLE: f32 = 18.0;
const AXIS: f32 = 18.0;
const SCALE: f32 = 15.0;

/// Pictures wider than this are drawn with smaller cells if they can be: on a page its text is 5 points high.
const PAGE: f32 = 1650.0;

/// White around the picture, between panels, and between a label and its cells.
const MARGIN: f32 = 16.0;
const BETWEEN: f32 = 26.0;
const GAP: f32 = 5.0;

/// Cells smaller than this have numbers at intervals instead of a label each.
const LABELLED_CELL: f32 = 11.0;
const LARGEST_CELL: f32 = 48.0;

/// A label longer than this is cut. Longer than a letter and its marks, it is a special token and set smaller.
const LABEL_CHARACTERS: usize = 14;
const TOKEN_SIZE: f32 = 0.8;

const EMPTY: &str = "empty";

/// The picture, with the largest cells that keep it within bounds: it is too large only where panels are very many.
pub(super) fn arrange(map: &Heatmap) -> Scene<'_> {
    let longest = map.panels.iter().map(|p| p.rows.len().max(p.columns.len())).max().unwrap_or(0).max(1);
    // The side of a panel that is wanted: less each, but more together, when there are several.
    let wanted = (950.0 / (map.panels.len().max(1) as f32).sqrt()).clamp(120.0, 760.0);
    let mut cell = (wanted / longest as f32).round().clamp(1.0, LARGEST_CELL);
    let mut block = 1;
    let scale = map.scale();
    loop {
        let scene = Layout::new(map, cell, block).scene(map, scale);
        let fits = scene.width <= MAX_SIDE && scene.height <= MAX_SIDE;
        if (fits && (scene.width <= PAGE || cell <= SEPARATED_CELL)) || (cell <= 1.0 && block >= longest) {
            return scene;
        }
        if cell > 1.0 {
            cell = (cell * 0.9).floor().max(1.0);
        } else {
            block += (block / 4).max(1);
        }
    }
}

/// A label or number at the side of one cell.
struct Mark {
    /// The cell.
    at: usize,
    text: String,
    size: f32,
    width: f32,
    /// Longer than a letter and its marks, or among labels that are.
    long: bool,
}

/// The labels along one side of a panel.
struct Side {
    marks: Vec<Mark>,
    /// Whether only some cells have numbers, which then have ticks.
    ticks: bool,
    /// Whether long labels of columns are turned, as one of them is wider than its column.
    upward: bool,
}

/// A panel with what its labels take.
struct Placed<'a> {
    panel: &'a Panel,
    blocks: Blocks<'a>,
    rows: Side,
    columns: Side,
    /// From the block's left edge to the cells, and from the top of the column labels to them.
    left: f32,
    above: f32,
    /// Of the cells; at least a small box where there are none.
    width: f32,
    height: f32,
}

struct Layout<'a> {
    cell: f32,
    panels: Vec<Placed<'a>>,
    /// Panels side by side.
    across: usize,
}

impl<'a> Layout<'a> {
    fn new(map: &'a Heatmap, cell: f32, block: usize) -> Self {
        let mut panels: Vec<_> = map.panels.iter().map(|panel| Placed::new(panel, cell, block)).collect();
        let same = |of: fn(&Panel) -> &[String]| panels.windows(2).all(|pair| of(pair[0].panel) == of(pair[1].panel));
        let (same_rows, same_columns) = (same(|p| &p.rows), same(|p| &p.columns));
        let widest = |of: fn(&Placed) -> f32| panels.iter().map(of).fold(1.0, f32::max);
        let width = BETWEEN + if same_rows { widest(|p| p.full_width() - p.left) } else { widest(|p| p.full_width()) };
        let height = BETWEEN
            + PANEL_TITLE * LEADING
            + if same_columns { widest(|p| p.height) } else { widest(|p| p.full_height()) };
        // As near as can be to a page's shape, without a ragged last row.
        let ragged = |across: usize| {
            let down = panels.len().div_ceil(across);
            let shape = (across as f32 * width) / (down as f32 * height);
            (shape / 1.4).ln().abs() + 1.5 * (down * across - panels.len()) as f32 / panels.len() as f32
        };
        let across = (1..=panels.len()).min_by(|&a, &b| ragged(a).total_cmp(&ragged(b))).unwrap_or(1);
        // Where all panels have the same labels, those at the left and at the top are enough.
        for (at, placed) in panels.iter_mut().enumerate() {
            if same_rows && at % across > 0 {
                (placed.rows, placed.left) = (Side::bare(), 0.0);
            }
            if same_columns && at >= across {
                (placed.columns, placed.above) = (Side::bare(), 0.0);
            }
        }
        Self { cell, panels, across }
    }

    fn scene(self, map: &Heatmap, scale: Scale) -> Scene<'a> {
        let mut items = Vec::new();
        let named = self.panels.iter().any(|p| !p.panel.title.is_empty());

        let title = font::fit(&map.title, TITLE, MAX_SIDE - 2.0 * MARGIN);
        let mut y = MARGIN;
        let mut width = 2.0 * MARGIN;
        if !title.is_empty() {
            width += font::width(&title, TITLE);
            items.push(text(MARGIN, y + TITLE, TITLE, Anchor::Start, title));
            y += TITLE * LEADING + 12.0;
        }
        let axis_y = y + AXIS;
        if !map.column_axis.is_empty() {
            y += AXIS * LEADING + 4.0;
        }
        let top = y;
        let left = MARGIN + if map.row_axis.is_empty() { 0.0 } else { AXIS * LEADING + 4.0 };

        // The grid: every column as wide as its widest panel, cells aligned within each row and column, and at whole
        // pixels so that all have the same width.
        let down = self.panels.len().div_ceil(self.across);
        let widest = |pick: fn(&Placed) -> f32, column: usize| {
            self.panels.iter().skip(column).step_by(self.across).map(pick).fold(0.0, f32::max)
        };
        let tallest = |pick: fn(&Placed) -> f32, row: usize| {
            self.panels.iter().skip(row * self.across).take(self.across).map(pick).fold(0.0, f32::max)
        };
        let mut columns = Vec::new();
        let mut x = left;
        for column in 0..self.across.min(self.panels.len()) {
            let margin = widest(|p| p.left, column);
            columns.push((x + margin).round());
            x += margin + widest(|p| p.full_width() - p.left, column) + BETWEEN;
        }
        let mut rows = Vec::new();
        for row in 0..down {
            let margin = tallest(|p| p.above, row) + if named { PANEL_TITLE * LEADING + 4.0 } else { 0.0 };
            rows.push((y + margin).round());
            y += margin + tallest(|p| p.height, row) + BETWEEN;
        }
        let right = if columns.is_empty() { left } else { x - BETWEEN };
        let mut bottom = if rows.is_empty() { y } else { y - BETWEEN };
        let (first_x, first_y) = (columns.first().copied().unwrap_or(left), rows.first().copied().unwrap_or(bottom));

        for (i, placed) in self.panels.iter().enumerate() {
            placed.draw(columns[i % self.across], rows[i / self.across], self.cell, scale, &mut items);
        }
        if !self.panels.is_empty() {
            // The names are put at the middle of all the cells.
            let across_end = right.min(columns.last().map_or(right, |&x| x + widest(|p| p.width, self.across - 1)));
            let (middle_x, middle_y) = ((first_x + across_end) / 2.0, (first_y + bottom) / 2.0);
            let column_axis = font::fit(&map.column_axis, AXIS, MAX_SIDE - 2.0 * MARGIN);
            let half = font::width(&column_axis, AXIS) / 2.0;
            let middle_x = middle_x.max(left + half);
            width = width.max(middle_x + half + MARGIN);
            items.push(text(middle_x, axis_y, AXIS, Anchor::Middle, column_axis));
            let row_axis = font::fit(&map.row_axis, AXIS, MAX_SIDE - 2.0 * MARGIN);
            let half = font::width(&row_axis, AXIS) / 2.0;
            let middle_y = middle_y.max(top + half);
            bottom = bottom.max(middle_y + half);
            items.push(upward(MARGIN + AXIS, middle_y, AXIS, Anchor::Middle, row_axis));
        }

        let (scale_right, scale_bottom) =
            draw_scale(map, right + BETWEEN, first_y, bottom - first_y, scale, &mut items);
        bottom = bottom.max(scale_bottom);
        width = width.max(scale_right + MARGIN);

        let block = self.panels.first().map_or(1, |p| p.blocks.block);
        if block > 1 {
            let note = format!("Each cell shows the largest of {block} × {block} weights.");
            width = width.max(2.0 * MARGIN + font::width(&note, SCALE));
            bottom += 10.0 + SCALE;
            items.push(text(MARGIN, bottom, SCALE, Anchor::Start, note));
        }
        Scene { width: width.ceil(), height: (bottom + MARGIN).ceil(), items }
    }
}

/// The colour bar with its numbers, and what other paints mean. Returns its right and bottom ends.
fn draw_scale(map: &Heatmap, x: f32, y: f32, room: f32, scale: Scale, items: &mut Vec<Item>) -> (f32, f32) {
    const WIDTH: f32 = 16.0;
    let mut others = Vec::new();
    others.extend(map.has_hidden().then_some((Paint::Hidden, "hidden")));
    others.extend(map.has_marked().then_some((Paint::NotFinite, "not finite")));
    let height = (room - others.len() as f32 * 2.0 * WIDTH).clamp(120.0, 720.0).floor();
    for i in 0..height as usize {
        let share = 1.0 - i as f32 / (height - 1.0);
        let level = (share * f32::from(LEVELS)).round() as u8;
        items.push(Item::Swatch(x, y + i as f32, WIDTH, 1.0, Paint::Level(level).fill()));
    }
    let (numbers, name) = match scale.curve {
        Curve::Linear => ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], map.measure.to_owned()),
        Curve::Sqrt => ([0.0, 0.05, 0.2, 0.4, 0.7, 1.0], format!("{}, square-root scale", map.measure)),
    };
    // As many decimals as the smallest number needs, for all.
    let decimals = (1.0 / (numbers[1] * scale.top)).log10().ceil().max(0.0) as usize;
    let mut right = x + WIDTH;
    for share in numbers {
        let at = (y + (1.0 - scale.place(share * scale.top)) * (height - 1.0)).round();
        items.push(Item::Tick(x + WIDTH, at, 5.0, 1.0));
        let number = format!("{:.decimals$}", share * scale.top);
        right = right.max(x + WIDTH + 9.0 + font::width(&number, SCALE));
        items.push(text(x + WIDTH + 9.0, at + SCALE * HALF_LETTER, SCALE, Anchor::Start, number));
    }
    items.push(Item::Frame(x, y, WIDTH, height));
    // Above the bar there are the labels' rows; beside it, read upward, the name is near and out of the way.
    items.push(upward(right + 4.0 + SCALE, y + height / 2.0, SCALE, Anchor::Middle, name));
    right += 4.0 + SCALE * LEADING;
    let mut bottom = y + height;
    for (paint, name) in others {
        bottom += WIDTH;
        items.push(Item::Swatch(x, bottom, WIDTH, WIDTH, paint.fill()));
        items.push(Item::Frame(x, bottom, WIDTH, WIDTH));
        right = right.max(x + WIDTH + 9.0 + font::width(name, SCALE));
        let baseline = bottom + WIDTH / 2.0 + SCALE * HALF_LETTER;
        items.push(text(x + WIDTH + 9.0, baseline, SCALE, Anchor::Start, name.to_owned()));
        bottom += WIDTH;
    }
    (right, bottom)
}

impl<'a> Placed<'a> {
    fn new(panel: &'a Panel, cell: f32, block: usize) -> Self {
        let blocks = panel.blocks(block);
        let rows = Side::new(&panel.rows, cell, block);
        let columns = Side::new(&panel.columns, cell, block);
        let tick = |side: &Side| if side.ticks { 4.0 } else { 0.0 };
        let left = rows.marks.iter().map(|m| m.width).fold(0.0, f32::max) + GAP + tick(&rows);
        let above = columns.marks.iter().map(|m| columns.height_above(m)).fold(0.0, f32::max) + GAP + tick(&columns);
        let empty = blocks.rows == 0 || blocks.columns == 0;
        let least = if empty { font::width(EMPTY, SCALE) + 16.0 } else { 0.0 };
        let width = (blocks.columns as f32 * cell).max(least);
        let height = (blocks.rows as f32 * cell).max(if empty { 34.0 } else { 0.0 });
        Self { panel, blocks, rows, columns, left, above, width, height }
    }

    /// From the row labels to the end of the cells, or of the title where that is wider.
    fn full_width(&self) -> f32 {
        let title = font::width(&self.panel.title, PANEL_TITLE).min(self.width.max(260.0));
        // The number over the last cell may reach beyond it.
        let over = self.columns.marks.iter().map(|m| m.width / 2.0).fold(0.0, f32::max);
        self.left + self.width.max(title) + if self.columns.ticks { over } else { 0.0 }
    }

    fn full_height(&self) -> f32 {
        self.above + self.height
    }

    fn draw(&self, x: f32, y: f32, cell: f32, scale: Scale, items: &mut Vec<Item<'a>>) {
        let room = self.full_width() - self.left;
        let title = font::fit(&self.panel.title, PANEL_TITLE, room);
        // A title wider than its cells starts with them, so that it stays clear of the panel before.
        let (title_x, anchor) = if font::width(&title, PANEL_TITLE) <= self.width {
            (x + self.width / 2.0, Anchor::Middle)
        } else {
            (x, Anchor::Start)
        };
        items.push(text(title_x, y - self.above - 8.0, PANEL_TITLE, anchor, title));

        if self.blocks.rows == 0 || self.blocks.columns == 0 {
            items.push(text(x + self.width / 2.0, y + 22.0, SCALE, Anchor::Middle, EMPTY.to_owned()));
        } else {
            let blocks @ Blocks { rows, columns, .. } = self.blocks;
            let fill = Box::new(move |row, column| Paint::of(blocks.shown(row, column), scale).fill());
            items.push(Item::Cells(Cells { x, y, side: cell, rows, columns, fill, ground: ramp::color(0) }));
        }
        items.push(Item::Frame(x, y, self.width, self.height));

        for mark in &self.rows.marks {
            let middle = y + (mark.at as f32 + 0.5) * cell;
            let tick = if self.rows.ticks { 4.0 } else { 0.0 };
            if self.rows.ticks {
                items.push(Item::Tick(x - 5.0, middle.floor(), 5.0, 1.0));
            }
            let place = (x - GAP - tick, middle + mark.size * HALF_LETTER);
            items.push(text(place.0, place.1, mark.size, Anchor::End, mark.text.clone()));
        }
        for mark in &self.columns.marks {
            let middle = x + (mark.at as f32 + 0.5) * cell;
            let tick = if self.columns.ticks { 4.0 } else { 0.0 };
            if self.columns.ticks {
                items.push(Item::Tick(middle.floor(), y - 5.0, 1.0, 5.0));
            }
            items.push(if self.columns.is_upward(mark) {
                upward(middle + mark.size * HALF_LETTER, y - GAP, mark.size, Anchor::Start, mark.text.clone())
            } else {
                let baseline = y - GAP - tick - mark.depth();
                text(middle, baseline, mark.size, Anchor::Middle, mark.text.clone())
            });
        }
    }
}

impl Side {
    /// Without labels.
    fn bare() -> Self {
        Self { marks: Vec::new(), ticks: false, upward: false }
    }

    fn new(labels: &[String], cell: f32, block: usize) -> Self {
        let numbers = label::are_numbers(labels);
        let named = block == 1 && cell >= LABELLED_CELL && !numbers;
        let mark = |at: usize, text: String, size: f32, long: bool| {
            let width = font::width(&text, size);
            Mark { at, text, size, width, long }
        };
        if named {
            let shown: Vec<String> =
                labels.iter().map(|token| label::shorten(&label::shown(token), LABEL_CHARACTERS)).collect();
            // The largest label must fit in a cell, and letters of other scripts have marks above and below.
            let high = shown.iter().any(|text| text.chars().any(|c| c > '\u{24f}' && c != '…'));
            let size = (cell * if high { 0.6 } else { 0.75 }).clamp(9.0, if high { 20.0 } else { 16.0 });
            let is_long = |text: &str| label::clusters(text).len() > 1;
            // Among words a lone letter is turned too, among letters only the word.
            let words = !high && 2 * shown.iter().filter(|text| is_long(text)).count() > shown.len();
            let each = shown.into_iter().enumerate().map(|(at, text)| {
                let long = words || is_long(&text);
                let smaller = if long && high { (size * TOKEN_SIZE).max(9.0) } else { size };
                mark(at, text, smaller, long)
            });
            let marks: Vec<_> = each.collect();
            let upward = marks.iter().any(|m| m.width > cell - 1.0);
            return Self { marks, ticks: false, upward };
        }
        let size = (cell * 0.6).clamp(12.0, 15.0);
        let number = |at: usize| if numbers { labels[at].clone() } else { at.to_string() };
        let widest = labels.len().checked_sub(1).map_or(0.0, |last| font::width(&number(last), size));
        // The same along both sides, so that those of a square matrix are alike.
        let needed = (widest + 8.0).max(size * LEADING);
        let step = label::tick_step(cell, needed);
        let cells = labels.len().div_ceil(block);
        let marks = (0..cells).step_by(step).map(|at| mark(at, number(at * block), size, false)).collect();
        Self { marks, ticks: step > 1, upward: false }
    }

    /// Whether a column's label is turned.
    fn is_upward(&self, mark: &Mark) -> bool {
        self.upward && mark.long
    }

    /// What a column's label takes above the cells.
    fn height_above(&self, mark: &Mark) -> f32 {
        if self.is_upward(mark) { mark.width.max(mark.size) } else { mark.size + mark.depth() }
    }
}

impl Mark {
    /// What a column's label takes below its baseline: nothing for numbers, else enough for marks below the letter.
    fn depth(&self) -> f32 {
        if self.text.bytes().all(|b| b.is_ascii_digit()) { 0.0 } else { self.size * 0.3 }
    }
}
