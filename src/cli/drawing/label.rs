//! What is shown for a vocabulary token, and the facts about characters that takes.

/// Carries a combining mark that stands alone.
pub(crate) const CIRCLE: char = '\u{25cc}';

/// Combining marks, in order. Those of the Indian scripts from U+0900 to U+0D7F lie at the same places of every block
/// and are found by [`indic_mark`].
const MARKS: [(u32, u32); 34] = [
    (0x0300, 0x036f),
    (0x0483, 0x0489),
    (0x0591, 0x05bd),
    (0x05bf, 0x05bf),
    (0x05c1, 0x05c2),
    (0x05c4, 0x05c5),
    (0x05c7, 0x05c7),
    (0x0610, 0x061a),
    (0x064b, 0x065f),
    (0x0670, 0x0670),
    (0x06d6, 0x06dc),
    (0x06df, 0x06e4),
    (0x06e7, 0x06e8),
    (0x06ea, 0x06ed),
    (0x0d81, 0x0d83),
    (0x0dca, 0x0dca),
    (0x0dcf, 0x0ddf),
    (0x0e31, 0x0e31),
    (0x0e34, 0x0e3a),
    (0x0e47, 0x0e4e),
    (0x0eb1, 0x0eb1),
    (0x0eb4, 0x0ebc),
    (0x0ec8, 0x0ece),
    (0x102b, 0x103e),
    (0x17b4, 0x17d3),
    (0x17dd, 0x17dd),
    (0x1ab0, 0x1aff),
    (0x1cd0, 0x1cd2),
    (0x1cd4, 0x1ce8),
    (0x1dc0, 0x1dff),
    (0x20d0, 0x20f0),
    (0xa8e0, 0xa8f1),
    (0xfe00, 0xfe0f),
    (0xfe20, 0xfe2f),
];

/// Marks that take a column of their own in a terminal, in order.
const SPACING_MARKS: [(u32, u32); 18] = [
    (0x0903, 0x0903),
    (0x093b, 0x093b),
    (0x093e, 0x0940),
    (0x0949, 0x094c),
    (0x094e, 0x094f),
    (0x0982, 0x0983),
    (0x09be, 0x09c0),
    (0x09c7, 0x09cc),
    (0x09d7, 0x09d7),
    (0x0bbe, 0x0bbf),
    (0x0bc1, 0x0bcc),
    (0x0bd7, 0x0bd7),
    (0x102b, 0x102c),
    (0x1031, 0x1031),
    (0x1038, 0x1038),
    (0x17b6, 0x17b6),
    (0x17be, 0x17c5),
    (0x17c7, 0x17c8),
];

/// Letters that terminals give two columns: Hangul, Chinese, Japanese, full-width forms, pictographs.
const WIDE: [(u32, u32); 7] = [
    (0x1100, 0x115f),
    (0x2e80, 0xa4cf),
    (0xac00, 0xd7a3),
    (0xf900, 0xfaff),
    (0xff00, 0xff60),
    (0x1f300, 0x1f9ff),
    (0x20000, 0x3fffd),
];

fn within(ranges: &[(u32, u32)], c: char) -> bool {
    let c = u32::from(c);
    let at = ranges.partition_point(|&(_, last)| last < c);
    ranges.get(at).is_some_and(|&(first, _)| first <= c)
}

fn indic_mark(c: char) -> bool {
    let c = u32::from(c);
    (0x0900..0x0d80).contains(&c)
        && match c % 0x80 {
            // The exceptions are letters.
            0x00..=0x03 => !matches!(c, 0x0980 | 0x0b83 | 0x0c80),
            0x3c | 0x3e..=0x4d | 0x62 | 0x63 => true,
            0x3a | 0x3b | 0x4e | 0x4f | 0x51..=0x54 => c < 0x0980,
            0x55..=0x57 => !(0x0d54..=0x0d56).contains(&c),
            _ => false,
        }
}

/// Whether a character combines with the one before it.
pub(crate) fn is_mark(c: char) -> bool {
    within(&MARKS, c) || indic_mark(c)
}

/// Whether a mark is written before the letter it follows in the text.
pub(crate) fn is_written_before(c: char) -> bool {
    matches!(
        u32::from(c),
        0x093f | 0x094e | 0x09bf | 0x09c7 | 0x09c8 | 0x0bc6..=0x0bc8 | 0x17c1..=0x17c3
    )
}

/// The two halves of a mark that is written on both sides of its letter, where each is a character too.
pub(crate) fn halves(c: char) -> Option<[char; 2]> {
    Some(match u32::from(c) {
        0x09cb => ['\u{9c7}', '\u{9be}'],
        0x09cc => ['\u{9c7}', '\u{9d7}'],
        0x0bca => ['\u{bc6}', '\u{bbe}'],
        0x0bcb => ['\u{bc7}', '\u{bbe}'],
        0x0bcc => ['\u{bc6}', '\u{bd7}'],
        _ => return None,
    })
}

/// Whether the glyph of a mark has the dotted circle inside: those of Khmer that are written on both sides.
pub(crate) fn holds_carrier(c: char) -> bool {
    matches!(u32::from(c), 0x17be..=0x17c0 | 0x17c4 | 0x17c5)
}

/// Whether a character is written from right to left.
pub(crate) fn is_right_to_left(c: char) -> bool {
    matches!(u32::from(c), 0x0590..=0x08ff | 0xfb1d..=0xfdff | 0xfe70..=0xfeff | 0x10800..=0x10fff | 0x1e800..=0x1efff)
}

/// Terminal columns a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '\u{200b}'..='\u{200f}' => 0,
            c if is_mark(c) => usize::from(within(&SPACING_MARKS, c)),
            c if within(&WIDE, c) => 2,
            _ => 1,
        })
        .sum()
}

/// What is shown for a token: itself, except that a mark alone gets a carrier and what cannot be seen gets a name.
pub(crate) fn shown(token: &str) -> String {
    let mut text = String::new();
    for (i, c) in token.chars().enumerate() {
        match c {
            ' ' if token.len() == 1 => text.push('␣'),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\u{a0}' => text.push_str("NBSP"),
            '\u{200b}' => text.push_str("ZWSP"),
            // Inside a word the joiners do their work unseen.
            '\u{200c}' if token.len() == 3 => text.push_str("ZWNJ"),
            '\u{200d}' if token.len() == 3 => text.push_str("ZWJ"),
            '\u{200c}' | '\u{200d}' => {}
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                text.push_str(&code(c));
            }
            c if c.is_control() => text.push_str(&code(c)),
            c if i == 0 && is_mark(c) => text.extend([CIRCLE, c]),
            c => text.push(c),
        }
    }
    text
}

/// A character's number, for those that cannot be drawn.
pub(crate) fn code(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// The text in at most `limit` characters and their marks, its middle cut out; the end of a `<TOKEN>` stays.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let clusters = clusters(text);
    if clusters.len() <= limit {
        return text.to_owned();
    }
    let end = if text.ends_with('>') { ">" } else { "" };
    let kept = limit.saturating_sub(1 + end.len());
    clusters[..kept].concat() + "…" + end
}

/// Characters with the marks that follow them.
pub(crate) fn clusters(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.char_indices().filter(|&(_, c)| !is_mark(c)).map(|(i, _)| i).collect();
    if !text.is_empty() && starts.first() != Some(&0) {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &text[start..end]).collect()
}

/// The numbers of a whole axis, when all its labels are plain numbers.
pub(crate) fn are_numbers(labels: &[String]) -> bool {
    !labels.is_empty() && labels.iter().all(|l| !l.is_empty() && l.len() <= 9 && l.bytes().all(|b| b.is_ascii_digit()))
}

/// Every how many cells of `cell` units a number is written, so that numbers `needed` units wide stay apart.
pub(crate) fn tick_step(cell: f32, needed: f32) -> usize {
    let mut decade = 1;
    loop {
        for factor in [1, 2, 5] {
            let step: usize = decade * factor;
            if step as f32 * cell >= needed || decade > 100_000_000 {
                return step;
            }
        }
        decade *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order() {
        for table in [&MARKS[..], &SPACING_MARKS[..], &WIDE[..]] {
            assert!(table.iter().all(|r| r.0 <= r.1));
            assert!(table.windows(2).all(|w| w[0].1 < w[1].0));
        }
        for &(first, last) in &SPACING_MARKS {
            for c in first..=last {
                let c = char::from_u32(c).unwrap();
                assert!(is_mark(c) || !c.is_alphanumeric(), "{}", code(c));
            }
        }
    }

    #[test]
    fn tokens_become_visible() {
        assert_eq!(shown(" "), "␣");
        assert_eq!(shown("\t"), "\\t");
        assert_eq!(shown("\u{200d}"), "ZWJ");
        assert_eq!(shown("\u{17d2}"), "\u{25cc}\u{17d2}");
        assert_eq!(shown("\u{93e}"), "\u{25cc}\u{93e}");
        assert_eq!(shown("ب"), "ب");
        assert_eq!(shown("\u{92f}\u{93c}"), "\u{92f}\u{93c}");
        assert_eq!(shown("\u{1b}"), "U+001B");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn widths_and_shortening() {
        assert_eq!(columns("a\u{301}"), 1);
        assert_eq!(columns("\u{25cc}\u{17d2}"), 1);
        assert_eq!(columns("\u{25cc}\u{17b6}"), 2);
        assert_eq!(columns("字"), 2);
        assert_eq!(shorten("<UNK_COUNTRY>", 8), "<UNK_C…>");
        assert_eq!(shorten("<EOS>", 8), "<EOS>");
        assert_eq!(shorten("a\u{301}bcd", 3), "a\u{301}b…");
        assert_eq!(clusters("\u{301}b"), ["\u{301}", "b"]);
        assert!(clusters("").is_empty());
    }

    #[test]
    fn ticks_stay_apart() {
        assert_eq!(tick_step(20.0, 15.0), 1);
        assert_eq!(tick_step(9.0, 26.0), 5);
        assert_eq!(tick_step(1.0, 26.0), 50);
    }
}
