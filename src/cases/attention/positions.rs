//! Rotary embedding, and windows with tokens that stay.

use super::{AttentionCase, Size, Table, every_output, numbers, poison_rows, spoil};
use crate::attention::{
    Causal, Mask, Monotonic, Normalize, Past, Rotary, RotaryEmbedding, RotaryLayout, Score, Window,
};
use crate::cases::Random;
use crate::tensor::Array;

pub(super) fn add(table: &mut Table) {
    rotary(table);
    windows(table);
}

/// Tables of `width`, one position longer than needed.
fn with_tables(case: &mut AttentionCase, layout: RotaryLayout, offset: usize, width: usize) {
    let inputs = &mut case.inputs;
    let past = inputs.past.as_ref().map_or(0, |past| past.key.shape()[2]);
    let longest = (past + inputs.key.shape()[2]).max(past + inputs.query.shape()[2]);
    let tables = Rotary::tables(100.0, width, longest + offset + 1).ok();
    inputs.rotary = tables.map(|tables| RotaryEmbedding::new(Rotary { layout, offset }, tables));
}

fn past(case: &mut AttentionCase, random: &mut Random, length: usize) {
    let longer = |shape: &[usize]| [shape[0], shape[1], length, shape[3]];
    let (key, value) = (longer(case.inputs.key.shape()), longer(case.inputs.value.shape()));
    case.inputs.past = Some(Past { key: random.array(&key), value: random.array(&value) });
}

fn rotary(table: &mut Table) {
    let layouts = [RotaryLayout::HalfSplit, RotaryLayout::Interleaved];
    for (layout, dim, width) in [
        (layouts[0], 2, 2),
        (layouts[1], 3, 2),
        (layouts[0], 40, 40),
        (layouts[1], 59, 32),
        (layouts[1], 64, 64),
        (layouts[0], 80, 20),
        (layouts[0], 128, 128),
        (layouts[1], 256, 64),
    ] {
        table.add(format!("rotary {layout:?}, {width} of {dim}"), Size::dims(dim, 16), |case, _| {
            with_tables(case, layout, 0, width);
        });
    }
    for layout in layouts {
        table.add(format!("rotary {layout:?} past the offset, causal"), Size::rows(17, 33), |case, _| {
            with_tables(case, layout, 1000, 10);
            case.options.causal = Some(Causal::BottomRight);
            every_output(case);
        });
        // The positions of some queries are before the first key.
        table.add(format!("rotary {layout:?}, lengths"), Size { batch: 4, ..Size::rows(9, 20) }, |case, _| {
            with_tables(case, layout, 2, 8);
            case.inputs.kv_lengths = numbers(&[20, 4, 0, 11]);
            spoil(case, |b, j| j >= [20, 4, 0, 11][b]);
        });
        table.add(format!("rotary {layout:?} after a past"), Size::rows(5, 6), |case, random| {
            past(case, random, 31);
            with_tables(case, layout, 3, 10);
            case.options.causal = Some(Causal::TopLeft);
        });
    }
    table.add("rotary, one query after a past", Size { dim: 64, key_dim: 64, ..Size::rows(1, 1) }, |case, random| {
        past(case, random, 65);
        with_tables(case, RotaryLayout::HalfSplit, 0, 64);
        case.options.causal = Some(Causal::TopLeft);
        case.options.window = Some(Window { sink_tokens: 4, ..Window::new(Some(16), None) });
    });
    table.add("rotary, cosine score", Size::rows(9, 17), |case, _| {
        with_tables(case, RotaryLayout::Interleaved, 0, 10);
        case.options.score = Score::Cosine;
        case.options.scale = Some(4.0);
    });
    table.add("rotary, general score", Size { dim: 10, key_dim: 14, ..Size::rows(9, 17) }, |case, random| {
        with_tables(case, RotaryLayout::HalfSplit, 1, 10);
        case.options.score = Score::General;
        case.options.scale = Some(0.2);
        case.inputs.score.weight = Some(random.array(&[10, 14]));
    });
    table.add("rotary, additive score", Size { dim: 10, key_dim: 14, ..Size::rows(9, 17) }, |case, random| {
        with_tables(case, RotaryLayout::HalfSplit, 0, 6);
        case.options.score = Score::Additive;
        case.inputs.score.query_weight = Some(random.array(&[7, 10]).map(|x| x * 0.3));
        case.inputs.score.key_weight = Some(random.array(&[7, 14]).map(|x| x * 0.3));
    });
    table.add("rotary, padded queries", Size { batch: 3, ..Size::rows(9, 17) }, |case, _| {
        with_tables(case, RotaryLayout::Interleaved, 0, 8);
        case.inputs.query_lengths = numbers(&[9, 4, 0]);
        case.inputs.kv_lengths = numbers(&[17, 16, 5]);
        case.options.causal = Some(Causal::TopLeft);
        poison_rows(&mut case.inputs.query, |b, i| i >= [9, 4, 0][b]);
        every_output(case);
    });
    table.add("rotary, monotonic", Size::rows(9, 17), |case, _| {
        with_tables(case, RotaryLayout::HalfSplit, 0, 10);
        case.options.normalize = Normalize::Monotonic(Monotonic::Parallel);
        every_output(case);
    });
}

fn windows(table: &mut Table) {
    for (left, right, sink_tokens) in
        [(Some(3), None, 1), (Some(0), Some(0), 2), (Some(4), Some(1), 5), (None, Some(2), 64), (Some(2), None, 1000)]
    {
        for causal in [None, Some(Causal::BottomRight)] {
            let side = |n: Option<u32>| n.map_or("open".to_owned(), |n| n.to_string());
            let end = if causal.is_some() { ", bottom right" } else { "" };
            let name = format!("window {} {}, {sink_tokens} sink tokens{end}", side(left), side(right));
            table.add(name, Size::rows(33, 70), |case, _| {
                case.options.window = Some(Window { left, right, sink_tokens });
                case.options.causal = causal;
            });
        }
    }
    table.add("poison between sink tokens and window", Size::rows(5, 150), |case, _| {
        case.options.causal = Some(Causal::BottomRight);
        case.options.window = Some(Window { sink_tokens: 3, ..Window::new(Some(70), None) });
        spoil(case, |_, j| (3..75).contains(&j));
        every_output(case);
    });
    table.add("sink tokens, lengths", Size { batch: 4, ..Size::rows(6, 40) }, |case, _| {
        let lengths = [40, 7, 2, 0];
        case.inputs.kv_lengths = numbers(&lengths);
        case.options.causal = Some(Causal::TopLeft);
        case.options.window = Some(Window { sink_tokens: 4, ..Window::new(Some(2), None) });
        spoil(case, |b, j| j >= lengths[b]);
        every_output(case);
    });
    table.add("sink tokens and sinks", Size::rows(17, 65), |case, random| {
        case.options.window = Some(Window { sink_tokens: 2, ..Window::new(Some(5), Some(0)) });
        case.inputs.sinks = Some(random.array(&[6]));
        case.inputs.alibi_slopes = Some(Array::from_fn(&[6], |h| 0.5f32.powi(h as i32 + 1)));
        case.inputs.mask = Some(Mask::Bool(random.mask(&[17, 60], 12)));
        every_output(case);
    });
}
