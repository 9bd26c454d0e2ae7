//! What `regard` does without arguments: real words through the built-in models.

use regard::seq2seq::{Decoding, SourceText, transliterate};

use crate::device::DeviceArgs;
use crate::failure::Outcome;
use crate::output::print;
use crate::picture;
use crate::transliterate::{network, open};

/// Names in Arabic script, as they are written.
const NAMES: [&str; 5] = ["محمد", "فاطمة", "عبد الرحمن", "القحطاني", "يوسف"];
/// Khmer words, as they are typed in Latin letters: love, rice, to go.
const WORDS: [&str; 3] = ["srolanh", "bay", "tov"];

const GO_ON: &str = "\
Go on:
  regard transliterate 'عائشة' --show         a name of your own, and what the model looked at
  regard transliterate < names.txt            one line in, one line out
  regard transliterate --model khmer srolanh
  regard attend --help                        attention over tensors of your own
  regard encode --help                        LSTM, GRU and RNN encoders
  regard info                                 what this machine offers
";

/// Runs both built-in models on a few words and shows one alignment.
pub(crate) fn run(device: &DeviceArgs) -> Outcome {
    let device = device.open()?;
    print(&format!(
        "regard writes words in another script with a recurrent encoder and soft attention, on {device}.\n"
    ))?;
    let mut shown = None;
    for (name, words, heading) in [
        ("arabic-names", &NAMES[..], "Arabic names in Latin letters (model arabic-names)"),
        ("khmer", &WORDS[..], "Khmer words typed in Latin letters, in Khmer script (model khmer)"),
    ] {
        let model = open(name)?;
        let sources: Vec<SourceText> = words.iter().map(|&word| word.into()).collect();
        let decoding = Decoding { weights: true, ..Decoding::default() };
        let answers = transliterate(&model, network(&model, &device)?.as_mut(), &sources, &decoding)?;
        let mut out = format!("\n{heading}\n");
        for answer in &answers {
            // Latin letters first, so that the line runs from left to right everywhere.
            let (first, second) =
                if name == "khmer" { (&answer.input, &answer.output) } else { (&answer.output, &answer.input) };
            out.push_str(&format!("  {first:<16} {second}\n"));
        }
        print(&out)?;
        if shown.is_none() {
            shown = answers.get(3).and_then(picture::alignment);
        }
    }
    if let Some(panel) = shown {
        print(&format!("\nWhat the decoder looked at while it wrote each letter\n{}", picture::terminal(panel)))?;
    }
    print(&format!("\n{GO_ON}"))
}
