//! Shaded cells in a terminal.

use super::ramp;
use super::{Blocks, Heatmap, Panel, Scale};
use crate::drawing::{Rgb, label};

/// Without colour: the nearest quarter of full scale.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
/// A weight that is not finite, without colour.
const MARKED: char = '?';

/// Characters of a row's label, and lines of a column's label.
const ROW_LABEL: usize = 14;
const COLUMN_LABEL: usize = 8;

/// Terminals that reorder Arabic need to know that each label is a text of its own: this left-to-right mark, which
/// takes no column, ends it.
const LEFT_TO_RIGHT: char = '\u{200e}';

pub(super) fn draw(map: &Heatmap, color: bool, width: usize) -> String {
    let scale = map.scale();
    let mut out = String::new();
    let axes = [("rows", &map.row_axis), ("columns", &map.column_axis)]
        .iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(side, name)| format!("{side}: {}", clean(name)))
        .collect::<Vec<_>>()
        .join(", ");
    for line in [clean(&map.title), axes] {
        if !line.is_empty() {
            out += &(line + "\n");
        }
    }
    for panel in &map.panels {
        if !out.is_empty() {
            out.push('\n');
        }
        if !panel.title.is_empty() {
            out += &(clean(&panel.title) + "\n");
        }
        draw_panel(panel, scale, color, width, &mut out);
    }
    out.push('\n');
    out += &legend(scale, color, map.has_marked());
    out.push('\n');
    out
}

/// A text that may be written to a terminal: it moves no cursor and starts no line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn draw_panel(panel: &Panel, scale: Scale, color: bool, width: usize, out: &mut String) {
    if panel.rows.is_empty() || panel.columns.is_empty() {
        out.push_str("(empty)\n");
        return;
    }
    let row_labels = |block: usize| -> Vec<String> {
        let name = |(at, token): (usize, &String)| match block {
            1 => label::shorten(&label::shown(token), ROW_LABEL),
            _ if label::are_numbers(&panel.rows) => token.clone(),
            _ => at.to_string(),
        };
        panel.rows.iter().enumerate().step_by(block).map(name).collect()
    };
    let widest = |labels: &[String]| labels.iter().map(|l| label::columns(l)).max().unwrap_or(0);
    let margin = widest(&row_labels(1)).max(panel.rows.len().to_string().len());
    // Beside the label there are a space and the two edges.
    let room = width.saturating_sub(margin + 3).max(8);
    let block = panel.columns.len().div_ceil(room);
    let blocks = panel.blocks(block);
    let cell = if blocks.columns * 2 <= room { 2 } else { 1 };
    let labels = row_labels(block);

    for line in header(panel, &blocks, cell) {
        let indent = " ".repeat(margin + 2);
        out.push_str(guard(&(indent + &line)).trim_end());
        out.push('\n');
    }
    for (row, name) in labels.iter().enumerate() {
        let pad = " ".repeat(margin - label::columns(name));
        out.push_str(&guard(&format!("{pad}{name}")));
        out.push_str(" │");
        let shares = (0..blocks.columns).map(|column| blocks.shown(row, column).share(scale));
        push_cells(shares, cell, color, out);
        out.push_str("│\n");
    }
    if block > 1 {
        out.push_str(&format!("each cell: the largest of {block} × {block} weights\n"));
    }
}

fn push_cells(shares: impl Iterator<Item = f32>, cell: usize, color: bool, out: &mut String) {
    if !color {
        for share in shares {
            out.extend(std::iter::repeat_n(shade(share), cell));
        }
        return;
    }
    let mut last: Option<Rgb> = None;
    for share in shares {
        let now = ramp::shade(share);
        if last != Some(now) {
            let [r, g, b] = now;
            out.push_str(&format!("\x1b[48;2;{r};{g};{b}m"));
            last = Some(now);
        }
        out.push_str(&" ".repeat(cell));
    }
    out.push_str("\x1b[0m");
}

fn shade(share: f32) -> char {
    if !share.is_finite() {
        return MARKED;
    }
    SHADES[(share.clamp(0.0, 1.0) * (SHADES.len() - 1) as f32).round() as usize]
}

/// The lines over the cells: labels from top to bottom where each fits its column, else numbers at intervals.
fn header(panel: &Panel, blocks: &Blocks, cell: usize) -> Vec<String> {
    let names: Vec<String> =
        panel.columns.iter().map(|token| label::shorten(&label::shown(token), COLUMN_LABEL)).collect();
    let letters: Vec<Vec<&str>> = names.iter().map(|name| label::clusters(name)).collect();
    let numbers = label::are_numbers(&panel.columns);
    if numbers || blocks.block > 1 || letters.iter().flatten().any(|l| label::columns(l) > cell) {
        let number = |at: usize| if numbers { panel.columns[at].clone() } else { at.to_string() };
        let widest = number(panel.columns.len() - 1).len();
        let step = label::tick_step(cell as f32, widest as f32 + 1.0);
        let mut line = String::new();
        for at in (0..blocks.columns).step_by(step) {
            line += &" ".repeat((at * cell).saturating_sub(line.len()));
            line += &number(at * blocks.block);
        }
        return vec![line];
    }
    let height = letters.iter().map(Vec::len).max().unwrap_or(0);
    (0..height)
        .map(|from_top| {
            let letter = |name: &Vec<&str>| {
                let letter = (from_top + name.len()).checked_sub(height).map_or("", |at| name[at]);
                letter.to_owned() + &" ".repeat(cell - label::columns(letter))
            };
            letters.iter().map(letter).collect()
        })
        .collect()
}

/// Keeps the letters of a line at their places in terminals that reorder Arabic.
fn guard(line: &str) -> String {
    if !line.chars().any(label::is_right_to_left) {
        return line.to_owned();
    }
    let mut out = String::from(LEFT_TO_RIGHT);
    for cluster in label::clusters(line) {
        out.push_str(cluster);
        if cluster.chars().any(label::is_right_to_left) {
            out.push(LEFT_TO_RIGHT);
        }
    }
    out
}

fn legend(scale: Scale, color: bool, marked: bool) -> String {
    let mut out = String::from("weight 0 │");
    let steps = if color { 16 } else { SHADES.len() };
    push_cells((0..steps).map(|i| i as f32 / (steps - 1) as f32), 2, color, &mut out);
    out.push_str(&format!("│ {}", scale.top));
    if marked {
        out.push_str("   not finite │");
        push_cells(std::iter::once(f32::NAN), 2, color, &mut out);
        out.push('│');
    }
    out
}
