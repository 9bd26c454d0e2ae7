use super::*;
use crate::drawing::raster::Raster;
use crate::drawing::{Cells, HATCH, Item, Scene, font, label};

fn strings(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|&l| l.to_owned()).collect()
}

fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

/// A panel whose weight is 1 at each `(row, column)` given and 0 elsewhere.
fn panel(rows: &[&str], columns: &[&str], ones: &[(usize, usize)]) -> Panel {
    let mut weights = vec![0.0; rows.len() * columns.len()];
    for &(row, column) in ones {
        weights[row * columns.len() + column] = 1.0;
    }
    Panel { title: String::new(), rows: strings(rows), columns: strings(columns), weights, hidden: Vec::new() }
}

fn map(panels: Vec<Panel>) -> Heatmap {
    Heatmap {
        title: "title".into(),
        row_axis: "output".into(),
        column_axis: "input".into(),
        panels,
        measure: "attention weight",
        curve: Curve::Linear,
    }
}

fn decode(map: &Heatmap) -> Raster {
    Raster::decode(&map.scene().png().unwrap())
}

/// The pixel at a place of the layout, a large picture's own or one of two by two.
fn pixel(picture: &Raster, scene: &Scene, x: f32, y: f32) -> [u8; 3] {
    let pixels = picture.width as f32 / scene.width;
    picture.get((x * pixels) as u32, (y * pixels) as u32)
}

/// The first matrix of a picture.
fn cells<'a>(scene: &'a Scene<'a>) -> &'a Cells<'a> {
    let found = scene.items.iter().find_map(|item| match item {
        Item::Cells(cells) => Some(cells),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn model_characters_have_glyphs() {
    let texts = [
        "ABCXYZabcxyz0123456789 '-()[]{}<>*/|~!?^$@_£«»“”’·•…␣→\u{fffd}",
        "ÁÂÉÎÖàáâãäæçèéêëíîïñóôöøúûüýćıŞşț",
        "āḍīṭṇēūṅṛśṣōṁṃḥḳẽḵẖạẕẹḷṡčṉŧḑǰġʼ\u{300}\u{301}\u{302}\u{303}\u{304}\u{306}\u{307}\u{308}\u{309}\u{30a}",
        "\u{30d}\u{310}\u{312}\u{314}\u{323}\u{324}\u{325}\u{32e}\u{331}тир",
        "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيچژڤڨگپ\u{64b}\u{64e}\u{651}\u{652}",
        "កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវសហឡអឥឦឧឩឪឫឬឭឮឯឰឱឲឳ។ៗ០១៩",
        "\u{17b6}\u{17b7}\u{17b8}\u{17b9}\u{17ba}\u{17bb}\u{17bc}\u{17bd}\u{17be}\u{17bf}\u{17c0}\u{17c1}\u{17c2}\u{17c3}",
        "\u{17c4}\u{17c5}\u{17c6}\u{17c7}\u{17c8}\u{17c9}\u{17ca}\u{17cb}\u{17cc}\u{17cd}\u{17ce}\u{17cf}\u{17d0}\u{17d2}",
        "अआइईउऊऋऌऍऎएऐऑओऔकखगघङचछजझञटठडढणतथदधनऩपफबभमयरऱलळवशषसहऽॐ।॥०१२३४५६७८९॰৺",
        "\u{958}\u{959}\u{95a}\u{95b}\u{95c}\u{95d}\u{95e}\u{95f}\u{900}\u{901}\u{902}\u{903}\u{93c}\u{93e}\u{93f}\u{940}",
        "\u{941}\u{942}\u{943}\u{945}\u{946}\u{947}\u{948}\u{949}\u{94a}\u{94b}\u{94c}\u{94d}\u{951}\u{952}\u{954}\u{962}",
        "অআউকখচজদধনবমরলসহৰ\u{981}\u{9be}\u{9bf}\u{9c0}\u{9c1}\u{9c7}\u{9cb}\u{9cd}கஙசஜடணதநனமர\u{bbe}\u{bbf}\u{bc1}\u{bcd}",
    ];
    for text in texts {
        for c in text.chars() {
            assert!(font::covers(&c.to_string()), "{} {c}", label::code(c));
            assert!(font::covers(&label::shown(&c.to_string())), "{c} as a token");
        }
    }
}

#[test]
fn cells_have_the_colors_of_their_weights() {
    let mut one = panel(&["a", "b"], &["x", "y", "z"], &[(0, 2), (1, 0)]);
    one.weights[4] = f32::NAN;
    let map = map(vec![one]);
    let picture = decode(&map);
    let scene = scene::arrange(&map);
    let cells = cells(&scene);
    for row in 0..2 {
        for column in 0..3 {
            let at = |i: usize, corner: f32| corner + (i as f32 + 0.5) * cells.side;
            let want = match (row, column) {
                (1, 1) => ramp::MARKED,
                (0, 2) | (1, 0) => ramp::shade(1.0),
                _ => ramp::shade(0.0),
            };
            let found = pixel(&picture, &scene, at(column, cells.x), at(row, cells.y));
            assert_eq!(found, want, "{row},{column}");
        }
    }
}

/// A hidden cell is hatched, a weight of 0 is not; what a mask hides does not count, be it not a number.
#[test]
fn hidden_cells_are_hatched() {
    let mut one = panel(&["a", "b"], &["x", "y", "z"], &[(0, 0)]);
    one.weights[5] = f32::NAN;
    one.hidden = vec![false, true, true, false, false, true];
    let map = map(vec![one.clone()]);
    assert!(map.has_hidden() && !map.has_marked());
    let picture = decode(&map);
    let scene = scene::arrange(&map);
    let cells = cells(&scene);
    for (at, &hidden) in one.hidden.iter().enumerate() {
        let corner = [cells.x + (at % 3) as f32 * cells.side, cells.y + (at / 3) as f32 * cells.side];
        let inside = (4..cells.side as u32 - 4).flat_map(|x| (4..cells.side as u32 - 4).map(move |y| (x, y)));
        let found: std::collections::BTreeSet<_> =
            inside.map(|(x, y)| pixel(&picture, &scene, corner[0] + x as f32, corner[1] + y as f32)).collect();
        let want = if hidden { vec![HATCH, [255; 3]] } else { vec![ramp::shade(one.weights[at])] };
        assert_eq!(found.into_iter().collect::<Vec<_>>(), want, "cell {at}");
    }
    let svg = map.scene().svg(&map.title);
    assert_well_formed(&svg);
    assert!(svg.contains(">hidden<") && !svg.contains(">not finite<"));
    assert_eq!(svg.matches("fill=\"url(#hidden)\"").count(), 2, "the cells' path and its meaning: {svg}");

    // A block of cells is hidden when all of it is.
    let blocks = map.panels[0].blocks(2);
    assert_eq!((blocks.shown(0, 0), blocks.shown(0, 1)), (Shown::Weight(1.0), Shown::Hidden));
}

/// Panels with the same labels name them once along each side; those with labels of their own keep them.
#[test]
fn shared_labels_stand_once() {
    let one = |columns: &[&str]| panel(&["eins", "zwei"], columns, &[(1, 1)]);
    let same = map(vec![one(&["drei", "vier"]); 4]);
    let svg = same.scene().svg(&same.title);
    assert_eq!(["eins", "drei"].map(|label| svg.matches(&format!(">{label}<")).count()), [2, 2], "{svg}");
    let mut other = same.clone();
    other.panels[3] = one(&["drei", "acht"]);
    let svg = other.scene().svg(&other.title);
    assert_eq!(["eins", "drei", "acht"].map(|label| svg.matches(&format!(">{label}<")).count()), [2, 4, 1], "{svg}");
}

/// Numbers at the colour bar: as many decimals for each, at the places of their shades.
#[test]
fn the_scale_has_even_decimals() {
    let numbers = |top: f32, curve: Curve| -> Vec<(String, f32)> {
        let mut one = panel(&["a"], &["b"], &[]);
        one.weights[0] = top;
        let map = Heatmap { curve, ..map(vec![one]) };
        let scene = scene::arrange(&map);
        let ticks: Vec<f32> = scene
            .items
            .iter()
            .filter_map(|i| match i {
                Item::Tick(_, y, ..) => Some(*y),
                _ => None,
            })
            .collect();
        let texts = scene.items.iter().filter_map(|item| match item {
            Item::Text(text) if text.text.parse::<f32>().is_ok() => Some(text.text.clone()),
            _ => None,
        });
        texts.zip(ticks).collect()
    };
    let texts = |top, curve| numbers(top, curve).into_iter().map(|(text, _)| text).collect::<Vec<_>>();
    assert_eq!(texts(1.0, Curve::Linear), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(texts(0.05, Curve::Linear), ["0.00", "0.01", "0.02", "0.03", "0.04", "0.05"]);
    assert_eq!(texts(1.0, Curve::Sqrt), ["0.00", "0.05", "0.20", "0.40", "0.70", "1.00"]);
    // A quarter of the weight is half way up by square roots.
    let places = numbers(1.0, Curve::Sqrt);
    let share = |at: usize| (places[0].1 - places[at].1) / (places[0].1 - places[5].1);
    assert!((share(2) - 0.2_f32.sqrt()).abs() < 0.01, "{}", share(2));
}

#[test]
fn labels_leave_ink_beside_and_above() {
    for token in ["ب", "ក", "\u{17d2}", "\u{17be}", "क", "\u{93f}", "\u{94d}", "<EOS>", " ", "\u{11200}", "é"] {
        let map = map(vec![panel(&[token], &[token], &[])]);
        let picture = decode(&map);
        let scene = scene::arrange(&map);
        let cells = cells(&scene);
        let (x, y, side) = (cells.x as u32, cells.y as u32, cells.side as u32);
        let dark = |xs: std::ops::Range<u32>, ys: std::ops::Range<u32>| {
            xs.flat_map(|x| ys.clone().map(move |y| (x, y)))
                .filter(|&(x, y)| pixel(&picture, &scene, x as f32, y as f32)[0] < 128)
                .count()
        };
        assert!(dark(x - 22..x - 2, y..y + side) >= 8, "{token} as a row");
        assert!(dark(x..x + side, y - 30..y - 2) >= 8, "{token} as a column");
    }
}

#[test]
fn labels_do_not_leave_the_picture() {
    let tokens = ["<UNK_COUNTRY>", "<ROLE_UNKNOWN>", "\u{17bf}", "\u{1f600}", "W", "", "\u{10ffff}"];
    let mut one = panel(&tokens, &tokens, &[(1, 1)]);
    one.title = "a title that is quite a bit wider than the few cells below it could ever be".into();
    let picture = decode(&map(vec![one.clone(), one]));
    let (width, height) = (picture.width, picture.height);
    for (x, y, pixel) in picture.pixels() {
        let inside = (10..width - 10).contains(&x) && (10..height - 10).contains(&y);
        assert!(inside || pixel == [255; 3], "ink at {x},{y} of {width}x{height}");
    }
}

#[test]
fn odd_shapes_are_drawn() {
    let nothing: [&str; 0] = [];
    let mut short = panel(&["a", "b"], &["c", "d"], &[]);
    short.weights.truncate(1);
    let odd = [
        map(vec![]),
        map(vec![panel(&nothing, &nothing, &[])]),
        map(vec![panel(&["a"], &nothing, &[]), panel(&nothing, &["b"], &[]), panel(&["a"], &["b"], &[])]),
        map(vec![short]),
        Heatmap { title: String::new(), row_axis: String::new(), column_axis: String::new(), ..map(vec![]) },
    ];
    for map in odd {
        decode(&map);
        assert_well_formed(&map.scene().svg(&map.title));
        assert!(map.terminal(true, 0).ends_with('\n'));
        assert!(map.terminal(false, 80).ends_with('\n'));
    }
}

#[test]
fn large_matrices_stay_within_bounds() {
    let heads = (0..8).map(|head| Panel {
        title: format!("head {head}"),
        rows: numbered(64),
        columns: numbered(64),
        weights: vec![1.0 / 64.0; 64 * 64],
        hidden: Vec::new(),
    });
    let Raster { width, height, .. } = decode(&map(heads.collect()));
    assert!(width.max(height) <= 4000 && width.min(height) > 600, "{width}x{height}");

    let mut weights = vec![0.0; 20 * 9000];
    weights[7 * 9000 + 8999] = 1.0;
    let long = Panel { title: String::new(), rows: numbered(20), columns: numbered(9000), weights, hidden: Vec::new() };
    let map = map(vec![long]);
    let picture = decode(&map);
    assert!(picture.width <= 4000);
    let scene = scene::arrange(&map);
    let cells = cells(&scene);
    let block = 9000_usize.div_ceil(cells.columns);
    let (row, column) = (7 / block, 8999 / block);
    assert!(block > 1);
    let found = pixel(&picture, &scene, cells.x + column as f32, cells.y + row as f32);
    assert_eq!(found, ramp::shade(1.0));
}

#[test]
fn scale_follows_small_weights() {
    let with = |weight: f32| {
        let mut one = panel(&["a"], &["b", "c"], &[]);
        one.weights[0] = weight;
        map(vec![one]).full_scale()
    };
    assert_eq!([0.0, 1.0, 0.51, 0.5, 0.07, f32::NAN, 3.0].map(with), [1.0, 1.0, 1.0, 0.5, 0.1, 1.0, 1.0]);
}

/// Checks tags, attributes and escapes, as far as this module writes them.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert_text(&rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
        attributes.split('"').skip(1).step_by(2).for_each(assert_text);
        if !closed {
            open.push(name);
        }
    }
    assert_eq!(rest.trim(), "");
    assert!(open.is_empty(), "{open:?}");
}

fn assert_text(text: &str) {
    assert!(!text.contains(['<', '>']), "{text}");
    for after in text.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|e| after.starts_with(e)), "&{after}");
    }
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn svg_is_well_formed() {
    let tokens = ["<", "&", "\"", "'", ">", "<EOS>", "]]>", "\u{0}", "\u{ffff}", "\t", "\u{17d2}", "ب"];
    let mut map = map(vec![panel(&tokens, &tokens, &[(0, 0), (3, 4), (3, 5)])]);
    map.title = "a < b & \"c\"".into();
    let svg = map.scene().svg(&map.title);
    let scene = scene::arrange(&map);
    let side = cells(&scene).side;
    assert_well_formed(&svg);
    assert!(svg.contains(">&lt;</text>") && svg.contains(">&amp;</text>") && svg.contains(">&quot;</text>"));
    assert!(svg.contains("<path aria-label=\"\u{25cc}\u{17d2}\""));
    assert!(
        svg.contains(&format!("M{} {}h{}v{side}H{}z", 4.0 * side, 3.0 * side, 2.0 * side, 4.0 * side)),
        "neighbours of one colour are one rectangle"
    );
}

#[test]
fn terminal_lines_and_shades() {
    let map = map(vec![panel(&["ب", "<EOS>"], &["a", "\u{17d2}", "<S>"], &[(0, 1), (1, 2)])]);
    let plain = map.terminal(false, 80);
    let lines: Vec<&str> = plain.lines().collect();
    // Title, axes, blank; three lines of column labels; two rows; blank, scale.
    assert_eq!(lines.len(), 3 + 3 + 2 + 2, "{plain}");
    assert_eq!(lines[5], "       a \u{25cc}\u{17d2} >");
    assert_eq!(lines[6], "\u{200e}    ب\u{200e} │  ██  │");
    assert_eq!(lines[7], "<EOS> │    ██│");
    let colored = map.terminal(true, 80);
    assert_eq!(colored.lines().count(), lines.len());
    assert!(colored.contains("\x1b[48;2;30;46;92m  \x1b["));
}

#[test]
fn terminal_keeps_to_its_width() {
    let wide = |n: usize| {
        map(vec![Panel {
            title: "head 0".into(),
            rows: numbered(5),
            columns: numbered(n),
            weights: vec![0.3; 5 * n],
            hidden: Vec::new(),
        }])
    };
    for (n, block) in [(30, 1), (64, 1), (200, 3)] {
        let plain = wide(n).terminal(false, 80);
        assert!(plain.lines().all(|line| label::columns(line) <= 80), "{plain}");
        let rows = plain.lines().filter(|line| line.ends_with('│')).count();
        assert_eq!(rows, 5_usize.div_ceil(block));
        assert_eq!(plain.contains("largest of"), block > 1);
    }
}

#[test]
fn terminal_text_holds_no_commands() {
    let mut map = map(vec![panel(&["\u{1b}"], &["\u{7}"], &[])]);
    map.title = "\x1b[2Jline\none".into();
    map.panels[0].title = "\u{9b}".into();
    assert!(map.terminal(false, 80).chars().all(|c| c == '\n' || !c.is_control()));
}
