//! `regard`: attention, recurrent encoders and small sequence-to-sequence models from the command line.

mod attend;
mod bench;
mod chart;
mod check;
mod date;
mod device;
mod drawing;
mod embed;
mod encode;
mod example;
mod explain;
mod failure;
mod heatmap;
mod info;
mod kept;
mod line;
mod lines;
mod merge;
mod output;
mod picture;
mod progress;
mod stream;
mod tensors;
mod time;
mod transliterate;
mod tune;
mod validate;

use std::process::ExitCode;

use failure::Outcome;
use line::{Command, Line};

fn main() -> ExitCode {
    device::quiet_loader();
    let line = match line::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return failure::from_clap(&error).report(),
        Err(help) => {
            // A reader that has gone away wants no more help.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome = run(&line);
    line.device.keep();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(line: &Line) -> Outcome {
    match &line.command {
        Some(Command::Attend(args)) => attend::run(args, &line.device),
        Some(Command::Encode(args)) => encode::run(args, &line.device),
        Some(Command::Embed(args)) => embed::run(args, &line.device),
        Some(Command::Merge(args)) => merge::run(args, &line.device),
        Some(Command::Info(args)) => info::run(args, &line.device),
        Some(Command::Transliterate(args)) => transliterate::run(args, &line.device),
        Some(Command::Validate(args)) => validate::run(args, &line.device),
        Some(Command::Bench(args)) => bench::run(args, &line.device),
        Some(Command::Tune(args)) => tune::run(args, &line.device),
        None => example::run(&line.device),
    }
}
