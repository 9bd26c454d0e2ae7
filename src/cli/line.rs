//! The command line: what can stand in it, and how it is read. Nothing is opened here.

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

Results go to files or standard output, everything else to standard error.
Exit status: 0 done, 2 the request was wrong, 1 anything else.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Attend(Box<crate::attend::Args>),
    Encode(Box<crate::encode::Args>),
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
