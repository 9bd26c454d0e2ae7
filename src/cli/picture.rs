//! Attention weights as heat maps: what goes into each panel, and the files they are written to.

use std::path::Path;

use regard::Error;
use regard::attention::AttentionOutputs;
use regard::seq2seq::Transliteration;
use regard::tensor::Array;

use crate::failure::{Failure, Outcome};
use crate::heatmap::{Heatmap, Panel};
use crate::output;

/// Heads or texts in one picture at most.
pub(crate) const MOST_PANELS: usize = 64;

/// The weights of the first batch row, one panel a head.
pub(crate) fn heads(outputs: &AttentionOutputs<Array>) -> Outcome<Heatmap> {
    let weights = outputs.weights.as_ref().ok_or_else(|| Error::missing("weights", "[B, Hq, Nq, Nk]"))?;
    let &[_, heads, queries, keys] = weights.shape() else {
        return Err(Error::shape("weights", "rank", 4, weights.shape().len()).into());
    };
    if heads > MOST_PANELS {
        output::warn(&format!("the picture shows the first {MOST_PANELS} of {heads} heads"));
    }
    let numbers = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    let panel = |(head, weights): (usize, &[f32])| Panel {
        title: if heads > 1 { format!("head {head}") } else { String::new() },
        rows: numbers(queries),
        columns: numbers(keys),
        weights: weights.to_vec(),
    };
    let first = weights.data().chunks_exact(queries * keys).take(heads.min(MOST_PANELS));
    Ok(Heatmap {
        title: "attention weights".to_owned(),
        row_axis: "query".to_owned(),
        column_axis: "key".to_owned(),
        panels: first.enumerate().map(panel).collect(),
    })
}

/// The weights of one answer; none where there is no answer. Padding is one column, as what it gets counts but which
/// of it does not matter.
pub(crate) fn alignment(answer: &Transliteration) -> Option<Panel> {
    let weights = answer.weights.as_ref()?;
    let labels = &answer.source_labels;
    let real = labels.iter().rposition(|label| !label.is_empty()).map_or(0, |last| last + 1);
    let mut columns = labels[..real].to_vec();
    if real < labels.len() {
        columns.push("pad".to_owned());
    }
    let row = |row: &[f32]| {
        let (shown, padding) = row.split_at(real);
        let padding = (!padding.is_empty()).then(|| padding.iter().sum());
        shown.iter().copied().chain(padding).collect::<Vec<f32>>()
    };
    Some(Panel {
        title: format!("{} -> {}", answer.input, answer.output),
        rows: answer.target_labels.clone(),
        columns,
        weights: weights.data().chunks_exact(labels.len().max(1)).flat_map(row).collect(),
    })
}

/// The part of a title whose letters stand side by side as they are: a picture joins and reorders none, as Arabic,
/// Khmer or Devanagari text would need. The labels at the axes are single symbols and need none of that.
fn drawable(title: &str) -> String {
    let simple = |c: char| c < '\u{590}' || ('\u{1e00}'..'\u{2100}').contains(&c);
    title.split(" -> ").filter(|part| part.chars().all(simple)).collect::<Vec<_>>().join(" -> ")
}

/// The weights of several answers, for a picture.
pub(crate) fn alignments(title: &str, mut panels: Vec<Panel>) -> Heatmap {
    panels.iter_mut().for_each(|panel| panel.title = drawable(&panel.title));
    heatmap(title, panels)
}

fn heatmap(title: &str, panels: Vec<Panel>) -> Heatmap {
    Heatmap { title: title.to_owned(), row_axis: "output".to_owned(), column_axis: "input".to_owned(), panels }
}

/// One answer's weights for this terminal.
pub(crate) fn terminal(panel: Panel) -> String {
    use std::io::IsTerminal;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
    heatmap("", vec![panel]).terminal(color, width)
}

/// Writes the PNG, and the SVG beside it.
pub(crate) fn save(path: &Path, picture: &Heatmap) -> Outcome {
    let png = picture.png().map_err(|reason| Failure::other(format!("{}: {reason}", path.display())))?;
    output::save(path, &png)?;
    output::save(&path.with_extension("svg"), picture.svg().as_bytes())
}

/// A picture's file must not be called `.svg`, or one would overwrite the other.
pub(crate) fn check_name(path: &Path) -> regard::Result<()> {
    match path.extension().and_then(|e| e.to_str()) {
        Some(ending) if ending.eq_ignore_ascii_case("svg") => {
            Err(Error::option("heatmap", "names the PNG file; the SVG is written beside it under the same name"))
        }
        _ => Ok(()),
    }
}
