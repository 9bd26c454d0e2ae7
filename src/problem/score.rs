//! The parameters of each score function and their shapes, in one table.

use super::{nonzero, same, vector};
use crate::attention::{Score, ScoreWeights};
use crate::error::{Error, Result};

/// What an axis of a parameter is as long as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// Dq, of the query.
    Query,
    /// Dk, of the key.
    Key,
    /// Dq + Dk.
    QueryAndKey,
    /// A, the length over which query and key are compared: the parameter that has it first says it.
    Attention,
    /// C of a location's filter, which says it.
    Channels,
    /// W of a location's filter: any.
    Width,
    /// One number.
    One,
}

impl Axis {
    fn symbol(self) -> &'static str {
        match self {
            Self::Query => "Dq",
            Self::Key => "Dk",
            Self::QueryAndKey => "Dq + Dk",
            Self::Attention => "A",
            Self::Channels => "C",
            Self::Width => "W",
            Self::One => "1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Query => "query dim",
            Self::Key => "key dim",
            Self::QueryAndKey => "query dim + key dim",
            Self::Attention => "attention dim",
            Self::Channels => "channels",
            Self::Width => "width",
            Self::One => "one number",
        }
    }
}

/// When a parameter has to be there.
#[derive(Clone, Copy)]
enum Needed {
    Always,
    /// If one of these is.
    Beside(&'static [&'static str]),
    Optional,
}

struct Parameter {
    name: &'static str,
    axes: &'static [Axis],
    needed: Needed,
}

impl Parameter {
    const fn new(name: &'static str, axes: &'static [Axis], needed: Needed) -> Self {
        Self { name, axes, needed }
    }

    /// The axes as the documentation has them, such as `[A, Dq]`.
    fn shape(&self) -> String {
        format!("[{}]", self.axes.iter().map(|axis| axis.symbol()).collect::<Vec<_>>().join(", "))
    }
}

const GENERAL: [Parameter; 1] = [Parameter::new("score.weight", &[Axis::Query, Axis::Key], Needed::Always)];

const WEIGHT: Parameter = Parameter::new("score.weight", &[Axis::Attention, Axis::QueryAndKey], Needed::Always);
const QUERY_WEIGHT: Parameter = Parameter::new(
    "score.query_weight",
    &[Axis::Attention, Axis::Query],
    Needed::Beside(&["score.key_weight", "score.bias"]),
);
const KEY_WEIGHT: Parameter =
    Parameter::new("score.key_weight", &[Axis::Attention, Axis::Key], Needed::Beside(&["score.query_weight"]));
const FILTER: Parameter = Parameter::new("score.location_filter", &[Axis::Channels, Axis::Width], Needed::Always);
const LOCATION_WEIGHT: Parameter =
    Parameter::new("score.location_weight", &[Axis::Attention, Axis::Channels], Needed::Always);
const BIAS: Parameter = Parameter::new("score.bias", &[Axis::Attention], Needed::Optional);
const G: Parameter = Parameter::new("score.g", &[Axis::One], Needed::Optional);

const fn v(needed: Needed) -> Parameter {
    Parameter::new("score.v", &[Axis::Attention], needed)
}

/// What the score is called in errors, and its parameters in the order in which they are checked.
fn parameters(score: Score) -> (&'static str, &'static [Parameter]) {
    const ADDITIVE: [Parameter; 5] = [QUERY_WEIGHT, KEY_WEIGHT, v(Needed::Beside(&["score.g"])), BIAS, G];
    const CONCAT: [Parameter; 4] = [WEIGHT, v(Needed::Always), BIAS, G];
    const LOCATION: [Parameter; 7] = [QUERY_WEIGHT, KEY_WEIGHT, FILTER, LOCATION_WEIGHT, v(Needed::Always), BIAS, G];
    match score {
        Score::ScaledDot => ("scaled dot", &[]),
        Score::Dot => ("dot", &[]),
        Score::Cosine => ("cosine", &[]),
        Score::General => ("general", &GENERAL),
        Score::Additive => ("additive", &ADDITIVE),
        Score::Concat => ("concat", &CONCAT),
        Score::Location => ("location-sensitive", &LOCATION),
    }
}

/// Checks the parameters of a score; the length over which query and key are compared.
///
/// # Errors
/// [`Error::Option`] for a parameter that the score has not, [`Error::Missing`] for one that it needs, [`Error::Shape`].
pub(super) fn check_score(
    score: Score,
    weights: &ScoreWeights<&[usize]>,
    query_dim: usize,
    key_dim: usize,
) -> Result<usize> {
    let (title, parameters) = parameters(score);
    let given = |name: &str| weights.named().find(|(given, _)| *given == name).map(|(_, shape)| *shape);
    if let Some((name, _)) = weights.named().find(|(name, _)| parameters.iter().all(|p| p.name != *name)) {
        return Err(Error::option("score", format!("{score:?} has no parameter `{name}`: leave it out")));
    }
    let projects = ["score.weight", "score.query_weight", "score.key_weight"];
    let as_they_are = !matches!(score, Score::General | Score::Concat) && projects.iter().all(|p| given(p).is_none());
    if as_they_are {
        same("key", "axis 3 (head dim)", query_dim, key_dim)?;
    }
    let (mut attention, mut channels) = (as_they_are.then_some(query_dim), None);
    for parameter in parameters {
        let name = parameter.name;
        let Some(shape) = given(name) else {
            let expected = match parameter.needed {
                Needed::Always => format!("{} for the {title} score", parameter.shape()),
                Needed::Beside(others) => match others.iter().find(|other| given(other).is_some()) {
                    Some(&"score.g") => format!("{}, which `score.g` gives its length", parameter.shape()),
                    Some(other) => format!("{} beside {other}", parameter.shape()),
                    None => continue,
                },
                Needed::Optional => continue,
            };
            return Err(Error::missing(name, expected));
        };
        if shape.len() != parameter.axes.len() && parameter.axes.len() > 1 {
            let expected = format!("{} {}", parameter.axes.len(), parameter.shape());
            return Err(Error::shape(name, "rank", expected, format!("{} {shape:?}", shape.len())));
        }
        let mut length = |axis: Axis, found: usize| match axis {
            Axis::Query => query_dim,
            Axis::Key => key_dim,
            Axis::QueryAndKey => query_dim + key_dim,
            Axis::Attention => *attention.get_or_insert(found),
            Axis::Channels => *channels.get_or_insert(found),
            Axis::Width => found,
            Axis::One => 1,
        };
        if let [axis] = parameter.axes {
            let found = shape.first().copied().unwrap_or(0);
            vector(name, Some(shape), length(*axis, found), axis.name())?;
            continue;
        }
        nonzero(name, shape)?;
        for (n, (axis, &found)) in parameter.axes.iter().zip(shape).enumerate() {
            same(name, &format!("axis {n} ({})", axis.name()), length(*axis, found), found)?;
        }
    }
    Ok(attention.unwrap_or(key_dim))
}
