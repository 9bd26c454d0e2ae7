//! A scene as an SVG document. Text stays text, except marks on a carrier.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{
    Anchor, Cells, FRAME, Fill, HATCH, HATCH_STEP, INK, Item, LINE, Line, Rgb, SEPARATED_CELL, SEPARATOR, Scene, Text,
    font,
};

/// Noto first, which the layout is measured in; then what systems without it are likely to have.
const FAMILIES: &str = "'Noto Sans','Noto Sans Arabic','Noto Sans Khmer','Noto Sans Devanagari','Noto Sans Bengali',\
                        'Noto Sans Tamil','Noto Sans Math','Noto Sans Symbols 2','Noto Sans Symbols2','DejaVu Sans',\
                        'Khmer OS','Nirmala UI','Leelawadee UI','Segoe UI',Arial,sans-serif";

pub(super) fn document(title: &str, scene: &Scene) -> String {
    let mut out = String::new();
    let (width, height) = (scene.width, scene.height);
    line(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"{FAMILIES}\" fill=\"{}\">",
            hex(INK)
        ),
    );
    line(&mut out, format_args!("<title>{}</title>", escaped(title)));
    line(&mut out, format_args!("<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"));
    // Lines from the lower left to the upper right, where x + y is one more than a multiple of the step.
    let (step, end) = (HATCH_STEP, HATCH_STEP + 1.0);
    line(
        &mut out,
        format_args!(
            "<pattern id=\"hidden\" width=\"{step}\" height=\"{step}\" patternUnits=\"userSpaceOnUse\">\
             <rect width=\"{step}\" height=\"{step}\" fill=\"#fff\"/>\
             <path stroke=\"{}\" stroke-width=\"{:.2}\" d=\"M-1 2L2 -1M0 {end}L{end} 0\"/></pattern>",
            hex(HATCH),
            LINE * std::f32::consts::FRAC_1_SQRT_2
        ),
    );
    for item in &scene.items {
        match item {
            Item::Text(text) => write_text(&mut out, text),
            &Item::Tick(x, y, w, h) => line(&mut out, format_args!("{}", rect(x, y, w, h, &hex(FRAME)))),
            &Item::Frame(x, y, w, h) => line(
                &mut out,
                format_args!(
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"{}\"/>",
                    x - 0.5,
                    y - 0.5,
                    w + 1.0,
                    h + 1.0,
                    hex(FRAME)
                ),
            ),
            &Item::Swatch(x, y, w, h, paint) => {
                // A little longer than it is high, so that no white shows between the steps of the scale.
                line(&mut out, format_args!("{}", rect(x, y, w, h + 0.2, &fill(paint))));
            }
            Item::Cells(cells) => write_cells(&mut out, cells),
            Item::Line(stroke) => write_line(&mut out, stroke),
            Item::Polygon(corners, color) => {
                line(&mut out, format_args!("<polygon points=\"{}\" fill=\"{}\"/>", points(corners), hex(*color)))
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, arguments: std::fmt::Arguments) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
    out.push('\n');
}

fn rect(x: f32, y: f32, width: f32, height: f32, fill: &str) -> String {
    format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>")
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn write_text(out: &mut String, text: &Text) {
    if text.text.is_empty() {
        return;
    }
    let (x, y) = (text.x, text.y);
    // Readers set a mark on its carrier in many ways, most of them wrong: the circle twice, or the mark beside it.
    if font::is_carried_mark(&text.text) {
        let set = font::set(&text.text, text.size);
        let back = text.anchor.before(set.width);
        let angle = if text.upward { " rotate(-90)" } else { "" };
        return line(
            out,
            format_args!(
                "<path aria-label=\"{}\" transform=\"translate({x:.1} {y:.1}){angle} translate({:.1} 0)\" d=\"{}\"/>",
                escaped(&text.text),
                -back,
                set.path()
            ),
        );
    }
    let anchor = match text.anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let turn = if text.upward { format!(" transform=\"rotate(-90 {x:.1} {y:.1})\"") } else { String::new() };
    line(
        out,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{:.1}\" text-anchor=\"{anchor}\"{turn}>{}</text>",
            text.size,
            escaped(&text.text)
        ),
    );
}

fn fill(paint: Fill) -> String {
    match paint {
        Fill::Color(color) => hex(color),
        Fill::Hatched => "url(#hidden)".to_owned(),
    }
}

fn points(points: &[[f32; 2]]) -> String {
    points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

fn write_line(out: &mut String, stroke: &Line) {
    let dash = stroke.dash.map_or(String::new(), |[on, off]| format!(" stroke-dasharray=\"{on} {off}\""));
    let cap = if stroke.dash.is_some() { "butt" } else { "round" };
    line(
        out,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linecap=\"{cap}\" \
             stroke-linejoin=\"round\"{dash}/>",
            points(&stroke.points),
            hex(stroke.color),
            stroke.width
        ),
    );
}

/// Cells of one colour are one path; the ground is painted once below all others.
fn write_cells(out: &mut String, cells: &Cells) {
    let Cells { x, y, side, rows, columns, ground, .. } = *cells;
    let (width, height) = (columns as f32 * side, rows as f32 * side);
    let mut paths: BTreeMap<Fill, String> = BTreeMap::new();
    for row in 0..rows {
        let paints: Vec<_> = (0..columns).map(|column| (cells.fill)(row, column)).collect();
        let mut column = 0;
        for run in paints.chunk_by(|a, b| a == b) {
            if run[0] != Fill::Color(ground) {
                let path = paths.entry(run[0]).or_default();
                let (from, length) = (column as f32 * side, run.len() as f32 * side);
                path.push_str(&format!("M{from} {}h{length}v{side}H{from}z", row as f32 * side));
            }
            column += run.len();
        }
    }
    line(
        out,
        format_args!(
            "<g transform=\"translate({x} {y})\" shape-rendering=\"crispEdges\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
            hex(ground)
        ),
    );
    for (paint, path) in paths {
        line(out, format_args!("<path fill=\"{}\" d=\"{path}\"/>", fill(paint)));
    }
    if side >= SEPARATED_CELL && rows * columns > 1 {
        let at = |k: usize| k as f32 * side + LINE / 2.0;
        let across = (1..rows).map(|row| format!("M0 {}H{width}", at(row)));
        let down = (1..columns).map(|column| format!("M{} 0V{height}", at(column)));
        let path: String = across.chain(down).collect();
        line(out, format_args!("<path stroke=\"{}\" d=\"{path}\"/>", hex(SEPARATOR)));
    }
    out.push_str("</g>\n");
}

/// A text for an element or attribute. Characters XML does not allow become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
