//! What graphics cards' compilers make of the kernels: `tests/cards/run` calls this on each card's driver, without a card.
//!
//! `build` builds every program that the plans for the device choose, for the problems below and for the quick sample of the
//! case table, or only those with a text in their name, and fails if one cannot be built. `table` reads what the layer `shaderstats.c` has written meanwhile, and
//! compares it with the committed table of the card, or renews that; `show` prints it. `summary` renews the table of docs/cards.md.

mod problems;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["build", only, checks @ ("checked" | "trusted")] => problems::build(only, checks == "trusted"),
        ["table", statistics, version, file] => table::compare(statistics, version, file),
        ["show", statistics] => table::show(statistics),
        ["write", statistics, version, file] => table::write(statistics, version, file),
        ["summary", page, ref files @ ..] => table::summary(page, files),
        _ => Err("arguments: build with ONLY and checked or trusted, show with STATISTICS.jsonl, table or write with STATISTICS.jsonl, VERSION and TABLE.tsv, or summary with PAGE.md and TABLE.tsv …".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
