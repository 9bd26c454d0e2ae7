//! Attention weights as heat maps: what goes into each panel, and the files they are written to.

use std::path::Path;

use regard::attention::{Attention, AttentionInputs, AttentionOutputs, Past, ScoreStage};
use regard::problem::AttentionProblem;
use regard::seq2seq::Transliteration;
use regard::tensor::Array;
use regard::{Error, reference};

use crate::drawing::Format;
use crate::failure::Outcome;
use crate::heatmap::{Curve, Heatmap, Panel};
use crate::{output, stream};

/// Heads or texts in one picture at most.
pub(crate) const MOST_PANELS: usize = 64;

/// What the queries and keys of a picture are called.
#[derive(Debug)]
pub(crate) struct Labels {
    queries: Vec<String>,
    keys: Vec<String>,
}

impl Labels {
    /// From text files with one label a line, for queries and for keys; their numbers where there is no file.
    pub(crate) fn read([queries, keys]: [Option<&Path>; 2], problem: &AttentionProblem) -> regard::Result<Self> {
        Ok(Self { queries: labels(queries, problem.queries)?, keys: labels(keys, problem.keys)? })
    }
}

fn labels(file: Option<&Path>, count: usize) -> regard::Result<Vec<String>> {
    let Some(path) = file else { return Ok((0..count).map(|i| i.to_string()).collect()) };
    let text = stream::read_text(path)?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.len() == count {
        Ok(lines)
    } else {
        Err(Error::file(path, format!("expected {count} labels, one a line, found {}", lines.len())))
    }
}

/// The weights of the first batch row, one panel a head.
pub(crate) fn heads(
    outputs: &AttentionOutputs<Array>,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    labels: Labels,
    curve: Curve,
) -> Outcome<Heatmap> {
    let weights = outputs.weights.as_ref().ok_or_else(|| Error::missing("weights", "[B, Hq, Nq, Nk]"))?;
    let &[_, heads, queries, keys] = weights.shape() else {
        return Err(Error::shape("weights", "rank", 4, weights.shape().len()).into());
    };
    if heads > MOST_PANELS {
        output::warn(&format!("the picture shows the first {MOST_PANELS} of {heads} heads"));
    }
    let masked = masked(options, inputs)?;
    let each = weights.data().chunks_exact(queries * keys).zip(masked.data().chunks_exact(queries * keys));
    let panel = |(head, (weights, masked)): (usize, (&[f32], &[f32]))| Panel {
        title: if heads > 1 { format!("head {head}") } else { String::new() },
        rows: labels.queries.clone(),
        columns: labels.keys.clone(),
        weights: weights.to_vec(),
        hidden: masked.iter().map(|&score| score == f32::NEG_INFINITY).collect(),
    };
    Ok(Heatmap {
        title: String::new(),
        row_axis: "query".to_owned(),
        column_axis: "key".to_owned(),
        panels: each.take(heads.min(MOST_PANELS)).enumerate().map(panel).collect(),
        measure: "attention weight",
        curve,
    })
}

/// Scores [B, Hq, Nq, Nk] that are −∞ exactly where a query does not see a key: those of attention with the same masks
/// over zeros, which no weight of 0 can be mistaken for.
fn masked(options: &Attention, inputs: &AttentionInputs<Array>) -> regard::Result<Array> {
    let zeros = |array: &Array| {
        let shape = [&array.shape()[..3], &[1]].concat();
        Array::filled(&shape, 0.0)
    };
    let seen = AttentionInputs {
        past: inputs.past.as_ref().map(|past| Past { key: zeros(&past.key), value: zeros(&past.value) }),
        mask: inputs.mask.clone(),
        kv_lengths: inputs.kv_lengths.clone(),
        query_lengths: inputs.query_lengths.clone(),
        cu_seqlens: inputs.cu_seqlens.clone(),
        block_mask: inputs.block_mask.clone(),
        block_table: inputs.block_table.clone(),
        ..AttentionInputs::new(zeros(&inputs.query), zeros(&inputs.key), zeros(&inputs.value))
    };
    let options = Attention {
        causal: options.causal,
        window: options.window,
        scores: Some(ScoreStage::Masked),
        ..Attention::default()
    };
    reference::attention(&options, &seen)?.scores.ok_or_else(|| Error::missing("scores", "[B, Hq, Nq, Nk]"))
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
        hidden: Vec::new(),
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
    Heatmap {
        title: title.to_owned(),
        row_axis: "output".to_owned(),
        column_axis: "input".to_owned(),
        panels,
        measure: "attention weight",
        curve: Curve::Linear,
    }
}

/// One answer's weights for this terminal.
pub(crate) fn terminal(panel: Panel) -> String {
    use std::io::IsTerminal;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
    heatmap("", vec![panel]).terminal(color, width)
}

/// Writes the picture; beside a PNG file, the same as SVG.
pub(crate) fn save(path: &Path, picture: &Heatmap) -> Outcome {
    let format = Format::of("heatmap", path)?;
    let scene = picture.scene();
    scene.save(&picture.title, path, format)?;
    match format {
        Format::Png if !stream::is_standard(path) => {
            scene.save(&picture.title, &path.with_extension("svg"), Format::Svg)
        }
        _ => Ok(()),
    }
}
