//! Lines of standard input, read ahead by a thread of their own and handed over in batches.

use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use regard::Error;

use crate::failure::{Failure, Outcome};

/// Bytes of a line at most: memory stays bounded whatever comes in.
const LONGEST: u64 = 1 << 20;
/// Characters given of a line that is longer.
const SHOWN: usize = 40;
/// How long a batch waits for more lines after its first: someone who types is answered line by line, a file fills
/// its batches.
const PATIENCE: Duration = Duration::from_millis(20);

/// One line, without its end.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Whether some of its bytes were no UTF-8 and have been replaced.
    pub(crate) replaced: bool,
    /// Why it is not read, if it is not; `text` is how it begins.
    pub(crate) refused: Option<String>,
    /// Bytes of the input, the line's end among them.
    pub(crate) bytes: u64,
}

/// Bytes of standard input where it is a file.
pub(crate) fn stdin_bytes() -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let file = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
        file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
    }
    #[cfg(not(unix))]
    None
}

/// What the reading thread sends.
type Sent = std::result::Result<Line, String>;

/// Standard input, line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    receiver: Receiver<Sent>,
    /// What stopped the reading, reported after the lines before it are answered.
    failure: Option<String>,
}

impl Lines {
    /// Starts reading, at most `ahead` lines ahead.
    pub(crate) fn of_stdin(ahead: usize) -> Self {
        let (sender, receiver) = sync_channel(ahead);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let line = match next(&mut input) {
                    Ok(Some(line)) => Ok(line),
                    Ok(None) => return,
                    Err(reason) => Err(reason),
                };
                let last = line.is_err();
                if sender.send(line).is_err() || last {
                    return;
                }
            }
        });
        Self { receiver, failure: None }
    }

    /// The next lines, at most `most`; none at the end.
    pub(crate) fn batch(&mut self, most: usize) -> Outcome<Vec<Line>> {
        let mut batch = Vec::new();
        let mut deadline = None;
        while batch.len() < most && self.failure.is_none() {
            let received = match deadline {
                None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.receiver.recv_timeout(Instant::saturating_duration_since(&at, Instant::now())),
            };
            match received {
                Ok(Ok(line)) => batch.push(line),
                Ok(Err(reason)) => self.failure = Some(reason),
                Err(_) => break,
            }
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        match self.failure.take() {
            Some(reason) if batch.is_empty() => {
                Err(Failure::from(Error::Text { text: "standard input".to_owned(), reason }))
            }
            failure => {
                self.failure = failure;
                Ok(batch)
            }
        }
    }
}

fn next(input: &mut impl BufRead) -> std::result::Result<Option<Line>, String> {
    let mut bytes = Vec::new();
    let failed = |error: std::io::Error| error.to_string();
    let mut read = input.by_ref().take(LONGEST + 1).read_until(b'\n', &mut bytes).map_err(failed)? as u64;
    if read == 0 {
        return Ok(None);
    }
    if read > LONGEST {
        if !bytes.ends_with(b"\n") {
            read += input.skip_until(b'\n').map_err(failed)? as u64;
        }
        let start: String = String::from_utf8_lossy(&bytes[..4 * SHOWN]).chars().take(SHOWN).collect();
        let refused = Some(format!("the line is longer than {LONGEST} bytes"));
        return Ok(Some(Line { text: start + "…", replaced: false, refused, bytes: read }));
    }
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let replaced = matches!(text, std::borrow::Cow::Owned(_));
    Ok(Some(Line { text: text.into_owned(), replaced, refused: None, bytes: read }))
}
