//! The command line: its options, and how it is read. Nothing is opened here.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::device::DeviceArgs;

/// Soft attention and recurrent encoders as portable GPU compute shaders, checked against a plain CPU reference.
///
/// Without a command it transliterates a few names with a built-in model and shows what the model looked at.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = AFTER_HELP)]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const AFTER_HELP: &str = "\
Examples:
  regard                                            a short built-in example
  printf 'محمد\\nعبد الرحمن\\n' | regard transliterate
  regard info                                       what the machine offers
  regard attend in.safetensors -o out.safetensors --causal
  regard encode in.safetensors -o out.safetensors --cell gru --check

Results go to files or standard output, everything else to standard error. `-` in place of a file is
standard input or standard output (a file of that name is `./-`). Where a file goes to standard
output, tables and reports go to standard error, and a summary (--json) is refused.
Exit status: 0 done, 2 the request was wrong, 1 anything else.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Attend(Box<crate::attend::Args>),
    Encode(Box<crate::encode::Args>),
    Embed(crate::embed::Args),
    Merge(crate::merge::Args),
    Info(crate::info::Args),
    Transliterate(crate::transliterate::Args),
    Validate(crate::validate::Args),
    Bench(crate::bench::Args),
    Tune(crate::tune::Args),
}

/// Reads the arguments, the program's name first.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Line, clap::Error> {
    Line::try_parse_from(causal_values(args))
}

/// Joins `--causal VALUE` to `--causal=VALUE`: the value may be left out, so the parser takes it only when joined.
fn causal_values(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for arg in args {
        match joined.last_mut() {
            Some(last) if last == "--causal" && (arg == "top-left" || arg == "bottom-right") => {
                last.push("=");
                last.push(arg);
            }
            _ => joined.push(arg),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::failure::from_clap;

    /// Whatever a command line is: options, or an error for standard error, or help.
    #[test]
    fn any_command_line_is_read_or_refused() {
        let word = prop::sample::select(vec![
            "attend",
            "encode",
            "embed",
            "merge",
            "info",
            "transliterate",
            "validate",
            "bench",
            "tune",
            "help",
            "--help",
            "-o",
            "x",
            "--causal",
            "--causal=",
            "top-left",
            "bottom-right",
            "--window",
            "--window=-1,0",
            "--block-size",
            "64,",
            "--scale",
            "--softcap=nan",
            "--rotary-width",
            "18446744073709551616",
            "-1",
            "1e308",
            "--shape",
            "1,2,3,4,5,6",
            "--cell",
            "lstm",
            "--activations",
            ",,",
            "--set",
            "=",
            "--filter",
            "(",
            "--device",
            "cpu",
            "--without",
            "f16,,",
            "--",
            "",
            "\u{0}",
            "é",
        ]);
        proptest!(|(words in prop::collection::vec(word, 0..8))| {
            let args = std::iter::once("regard").chain(words).map(OsString::from);
            if let Err(error) = parse(args)
                && error.use_stderr()
            {
                drop(from_clap(&error));
            }
        });
    }
}
