//! Any arguments, a line each, as a command line: read, never run.
#![no_main]
#![allow(dead_code, unused_imports)]

include!("program.rs");

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let args = std::iter::once("regard").chain(text.split('\n')).map(std::ffi::OsString::from);
    if let Err(error) = line::parse(args) {
        // Help and version are no failures.
        if error.use_stderr() {
            drop(failure::from_clap(&error));
        }
    }
});
