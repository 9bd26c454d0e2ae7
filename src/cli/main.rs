//! `regard`: attention, recurrent encoders and small sequence-to-sequence models from the command line.

mod attend;
mod bench;
mod chart;
mod check;
mod date;
mod device;
mod drawing;
mod encode;
mod example;
mod explain;
mod failure;
mod heatmap;
mod info;
mod kept;
mod merge;
mod output;
mod picture;
mod progress;
mod tensors;
mod transliterate;
mod tune;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use device::DeviceArgs;
use failure::Outcome;

/// Soft attention and recurrent encoders as portable GPU compute shaders, checked against a plain CPU reference.
///
/// Without a command it transliterates a few names with a built-in model and shows what the model looked at.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(subcommand)]
    command: Option<Command>,
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
enum Command {
    Attend(Box<attend::Args>),
    Encode(Box<encode::Args>),
    Merge(merge::Args),
    Info(info::Args),
    Transliterate(transliterate::Args),
    Validate(validate::Args),
    Bench(bench::Args),
    Tune(tune::Args),
}

fn main() -> ExitCode {
    device::quiet_loader();
    let cli = match Cli::try_parse_from(causal_values(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return failure::from_clap(&error).report(),
        Err(help) => {
            // A reader that has gone away wants no more help.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome = run(&cli);
    cli.device.keep();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Some(Command::Attend(args)) => attend::run(args, &cli.device),
        Some(Command::Encode(args)) => encode::run(args, &cli.device),
        Some(Command::Merge(args)) => merge::run(args, &cli.device),
        Some(Command::Info(args)) => info::run(args, &cli.device),
        Some(Command::Transliterate(args)) => transliterate::run(args, &cli.device),
        Some(Command::Validate(args)) => validate::run(args, &cli.device),
        Some(Command::Bench(args)) => bench::run(args, &cli.device),
        Some(Command::Tune(args)) => tune::run(args, &cli.device),
        None => example::run(&cli.device),
    }
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
