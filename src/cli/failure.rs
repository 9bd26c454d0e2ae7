//! How a command fails: the message, the hint, the exit status.

use std::io::Write;
use std::process::ExitCode;

use regard::Error;

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Exit status when the request was wrong.
const REQUEST: u8 = 2;
/// Exit status for everything else.
const OTHER: u8 = 1;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong.
    Message {
        /// What, in one line.
        error: String,
        /// Lines of the user's own that it is about.
        excerpt: Option<String>,
        /// What to do about it.
        hint: Option<String>,
        /// Exit status.
        status: u8,
    },
    /// Whoever read standard output has gone away: no failure of this program.
    ClosedPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Message {
            error: error.to_string(),
            excerpt: None,
            hint: error.hint().map(str::to_owned),
            status: if error.is_request() { REQUEST } else { OTHER },
        }
    }
}

impl Failure {
    /// With another hint.
    pub(crate) fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Message { error, excerpt, status, .. } => {
                Self::Message { error, excerpt, hint: Some(text.into()), status }
            }
            Self::ClosedPipe => self,
        }
    }

    /// With lines of the user's own that it is about.
    pub(crate) fn with_excerpt(self, lines: Option<String>) -> Self {
        match self {
            Self::Message { error, hint, status, .. } => Self::Message { error, excerpt: lines, hint, status },
            Self::ClosedPipe => self,
        }
    }

    /// With words before the message.
    pub(crate) fn among(self, words: &str) -> Self {
        match self {
            Self::Message { error, hint, status, excerpt } => {
                Self::Message { error: format!("{words}: {error}"), hint, status, excerpt }
            }
            Self::ClosedPipe => self,
        }
    }

    /// A failure that is not the request's.
    pub(crate) fn other(error: impl ToString) -> Self {
        Self::Message { error: error.to_string(), excerpt: None, hint: None, status: OTHER }
    }

    /// Prints the message and returns the exit status.
    pub(crate) fn report(self) -> ExitCode {
        let Self::Message { error, excerpt, hint, status } = self else {
            return ExitCode::SUCCESS;
        };
        let mut stderr = std::io::stderr().lock();
        // Where standard error is closed there is nowhere to write to.
        let _ = writeln!(stderr, "error: {}", one_line(&error));
        for line in excerpt.iter().flat_map(|lines| lines.lines()) {
            let _ = writeln!(stderr, "  {}", line.replace(char::is_control, " "));
        }
        if let Some(hint) = hint {
            let _ = writeln!(stderr, "hint: {}", one_line(&hint));
        }
        ExitCode::from(status)
    }
}

/// A text without line breaks and control characters, whatever file or driver it came from.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace(char::is_control, " ")
}

/// A wrong command line: the parser's first paragraph as the error, its tip as the hint.
pub(crate) fn from_clap(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default().trim_start_matches("error:");
    // The other tip there is explains how to pass an unknown option as a value.
    let tip = paragraphs.find_map(|p| p.trim().strip_prefix("tip:").filter(|tip| tip.contains("similar")));
    let hint = tip.map_or("`--help` lists what there is", str::trim).to_owned();
    Failure::Message { error: one_line(first), excerpt: None, hint: Some(hint), status: REQUEST }
}
