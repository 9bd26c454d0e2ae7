//! What users' shader texts have in common: they are bounded, parsed and validated before any device compiles them, and
//! errors name the line and column in the user's own text.

use std::ops::Range;

use naga::common::wgsl::TypeContext;
use naga::front::wgsl::parse_str;
use naga::proc::TypeResolution;
use naga::valid::{
    CallError, Capabilities, EntryPointError, ExpressionError, FunctionError, ValidationError, ValidationFlags,
    Validator,
};
use naga::{Block, Expression, Function, Handle, Module, Span, Statement, TypeInner, WithSpan};

/// Operators and brackets in one statement. Compilers recurse into expressions: a sum of so many terms is nested as deeply.
const MOST_OPERATORS: usize = 1000;

/// What is wrong with a source.
pub(super) struct Fault {
    pub(super) reason: String,
    /// The bytes that it is about, if it is about some.
    pub(super) span: Option<Range<usize>>,
}

pub(super) fn refused<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason: reason.into(), span: None })
}

pub(super) fn refused_at<T>(span: Option<Range<usize>>, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason: reason.into(), span })
}

/// The module of a text of at most `longest` bytes, which bounds the stack that compilers take too, and its declarations.
pub(super) fn parsed(source: &str, longest: usize) -> Result<(Module, Vec<Declaration<'_>>), Fault> {
    if source.len() > longest {
        return refused(format!("is {} bytes long; at most {longest} are taken", source.len()));
    }
    let declarations = declarations(source);
    if let Some(long) = declarations.iter().find(|declaration| declaration.operators > MOST_OPERATORS) {
        let reason = format!("`{}` has a statement of {} operators", long.name, long.operators);
        return refused_at(Some(long.span()), format!("{reason}; at most {MOST_OPERATORS} are taken"));
    }
    let module = parse_str(source).or_else(|error| {
        let span = error.labels().next().and_then(|(span, _)| span.to_range());
        let words: Vec<&str> = std::iter::once(error.message()).chain(error.notes()).collect();
        refused_at(span, words.join(": "))
    })?;
    Ok((module, declarations))
}

/// Validates a module that may use so much of a device.
pub(super) fn validated(source: &str, module: &Module, capabilities: Capabilities) -> Result<(), Fault> {
    Validator::new(ValidationFlags::all(), capabilities)
        .validate(module)
        .map(|_| ())
        .or_else(|error| refused_at(innermost(module, &error), words(source, module, error.as_inner())))
}

impl Fault {
    /// The reason with the line and column that it is about, if it is about one, both counted from 1, and the text there.
    pub(super) fn told(&self, source: &str) -> String {
        at(source, self.span.as_ref().map(|span| span.start), &self.reason)
    }
}

/// The function that is wrong, if it is one, and how.
fn wrong_function<'a>(module: &'a Module, error: &'a ValidationError) -> Option<(&'a Function, &'a FunctionError)> {
    match error {
        ValidationError::Function { handle, source, .. } => Some((&module.functions[*handle], source)),
        ValidationError::EntryPoint { name, source: EntryPointError::Function(source), .. } => {
            let entry = module.entry_points.iter().find(|entry| entry.name == *name)?;
            Some((&entry.function, source))
        }
        _ => None,
    }
}

/// Where an error is: the least of its spans, as the function that it is in has one too. What a statement gets wrong of an
/// argument has none but the argument's in the signature, which says nothing; the statement's own is taken then.
fn innermost(module: &Module, error: &WithSpan<ValidationError>) -> Option<Range<usize>> {
    if let Some((function, reason)) = wrong_function(module, error.as_inner()) {
        let is_wrong = |statement: &Statement| match (reason, statement) {
            (FunctionError::InvalidReturnType { expression, .. }, Statement::Return { value }) => expression == value,
            (FunctionError::InvalidIfType(wrong), Statement::If { condition, .. }) => wrong == condition,
            (
                FunctionError::InvalidCall { error: CallError::ArgumentType { seen_expression, .. }, function: called },
                Statement::Call { function, arguments, .. },
            ) => called == function && arguments.contains(seen_expression),
            _ => false,
        };
        let mut found = None;
        each_statement(&function.body, &mut |statement, span| {
            found = found.take().or_else(|| span.to_range().filter(|_| is_wrong(statement)));
        });
        if found.is_some() {
            return found;
        }
    }
    error.spans().filter_map(|(span, _)| span.to_range()).min_by_key(ExactSizeIterator::len)
}

/// Both ends of a long expression.
fn elided(text: &str) -> String {
    let (count, end) = (text.chars().count(), 20);
    if count <= 2 * end {
        return text.to_owned();
    }
    let ends = [text.chars().take(end).collect::<String>(), text.chars().skip(count - end).collect()];
    ends.join(" … ")
}

/// An expression as the source has it.
fn text<'a>(source: &'a str, function: &'a Function, expression: Handle<Expression>) -> &'a str {
    let name = match function.expressions[expression] {
        Expression::Load { pointer } => return text(source, function, pointer),
        Expression::LocalVariable(variable) => function.local_variables[variable].name.as_deref(),
        Expression::FunctionArgument(n) => function.arguments.get(n as usize).and_then(|a| a.name.as_deref()),
        _ => None,
    };
    let span = || function.expressions.get_span(expression).to_range();
    name.or_else(|| source.get(span()?)).unwrap_or("…")
}

/// What the validator says. It numbers expressions and types; where types do not fit, which is what people get wrong, the
/// source's own words replace the numbers.
fn words(source: &str, module: &Module, error: &ValidationError) -> String {
    let in_own_words = match wrong_function(module, error) {
        Some((function, reason)) => {
            let text = |expression: Handle<Expression>| elided(text(source, function, expression));
            let of =
                |inner: &TypeInner| module.to_ctx().type_resolution_to_string(&TypeResolution::Value(inner.clone()));
            let ty = |ty: Handle<naga::Type>| module.to_ctx().type_to_string(ty);
            match reason {
                FunctionError::Expression {
                    source: ExpressionError::InvalidBinaryOperandTypes { lhs_expr, lhs_type, rhs_expr, rhs_type, .. },
                    ..
                } => {
                    let ([left, right], [first, second]) =
                        ([lhs_type, rhs_type].map(of), [*lhs_expr, *rhs_expr].map(text));
                    Some(format!(
                        "`{first}` is {left} and `{second}` is {right}, which do not go together: convert one"
                    ))
                }
                FunctionError::InvalidReturnType { expression, expected_ty } => {
                    let declared = expected_ty.map_or("nothing".to_owned(), ty);
                    let returned = expression.map_or("nothing".to_owned(), |value| format!("`{}`", text(value)));
                    Some(format!("returns {returned} where the function's result is {declared}"))
                }
                FunctionError::Expression {
                    source: ExpressionError::InvalidUnaryOperandType(operator, operand),
                    ..
                } => Some(format!("{operator:?} is not for what `{}` is", text(*operand))),
                FunctionError::Expression { source: ExpressionError::SelectConditionNotABool { actual }, .. } => {
                    Some(format!("the condition of `select` is {}, not bool", of(actual)))
                }
                FunctionError::InvalidIfType(condition) => {
                    Some(format!("the condition `{}` is no bool", text(*condition)))
                }
                FunctionError::InvalidStoreTypes { value, .. } => {
                    Some(format!("`{}` is of another type than what it is assigned to", text(*value)))
                }
                FunctionError::InvalidCall {
                    error: CallError::ArgumentType { index, required, seen_expression },
                    ..
                } => {
                    let value = text(*seen_expression);
                    Some(format!("argument {} `{value}` of the call is not {}", index + 1, ty(*required)))
                }
                _ => None,
            }
        }
        None => None,
    };
    in_own_words.unwrap_or_else(|| {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        causes.last().map_or_else(|| error.to_string(), ToString::to_string)
    })
}

/// A message with the line and column that it is about, if it is about one, both counted from 1, and the text there.
fn at(source: &str, start: Option<usize>, message: &str) -> String {
    let Some(before) = start.and_then(|start| source.get(..start)) else { return excerpt(message) };
    let line = before.matches('\n').count();
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    let text = source.split('\n').nth(line).unwrap_or_default().trim();
    format!("{}, line {}, column {column}: {}", excerpt(message), line + 1, excerpt(text))
}

/// In one line, and not without end.
fn excerpt(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Each statement of a block and of the blocks inside.
pub(super) fn each_statement(block: &Block, f: &mut impl FnMut(&Statement, &Span)) {
    let mut blocks = vec![block];
    while let Some(block) = blocks.pop() {
        for (statement, span) in block.span_iter() {
            f(statement, span);
            match statement {
                Statement::Block(inner) => blocks.push(inner),
                Statement::If { accept, reject, .. } => blocks.extend([accept, reject]),
                Statement::Switch { cases, .. } => blocks.extend(cases.iter().map(|case| &case.body)),
                Statement::Loop { body, continuing, .. } => blocks.extend([body, continuing]),
                _ => {}
            }
        }
    }
}

/// A declaration at module scope, as far as its tokens tell.
pub(super) struct Declaration<'a> {
    /// Where it begins, in bytes.
    start: usize,
    /// `fn`, `const` …
    pub(super) keyword: &'a str,
    /// What it declares; empty where it names nothing.
    pub(super) name: &'a str,
    /// Tokens between two statements that are neither names, numbers nor commas: an upper bound on how deeply
    /// expressions are nested.
    operators: usize,
}

impl Declaration<'_> {
    /// Its first word.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.start + self.keyword.len()
    }
}

/// The declarations of a source, whether or not it compiles.
pub(super) fn declarations(source: &str) -> Vec<Declaration<'_>> {
    let mut found: Vec<Declaration<'_>> = Vec::new();
    let (mut depth, mut begins, mut in_attribute) = (0usize, true, false);
    let (mut operators, mut word_before) = (0usize, "");
    for (start, token) in tokens(source) {
        let is_word = token.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if depth == 0 && token == "@" {
            in_attribute = true;
        } else if depth == 0 && in_attribute && is_word {
            in_attribute = false;
        } else if depth == 0 && begins && is_word {
            found.push(Declaration { start, keyword: token, name: "", operators: 0 });
            begins = false;
        } else if let (false, Some(last)) = (begins, found.last_mut()) {
            match last.keyword {
                "fn" | "const" | "struct" | "alias" | "override" if is_word && last.name.is_empty() => {
                    last.name = token
                }
                // An address space may come in between.
                "var" if token == ":" && last.name.is_empty() => last.name = word_before,
                _ => {}
            }
            operators =
                if ["{", "}", ";"].contains(&token) { 0 } else { operators + usize::from(!is_word && token != ",") };
            last.operators = last.operators.max(operators);
        }
        if is_word {
            word_before = token;
        }
        match token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                begins |= depth == 0 && token == "}";
            }
            ";" => begins |= depth == 0,
            _ => {}
        }
    }
    found
}

/// Words (names, keywords, numbers) and single other characters with their positions, without blanks and comments.
fn tokens(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = source.get(at..).filter(|rest| !rest.is_empty())?;
            let blank = rest.len() - rest.trim_start().len();
            let skipped = match rest {
                _ if blank > 0 => blank,
                _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                _ if rest.starts_with("/*") => comment(rest),
                _ => 0,
            };
            if skipped > 0 {
                at += skipped;
                continue;
            }
            let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
            let is_word = |c: char| c.is_alphanumeric() || c == '_' || (c == '.' && is_number);
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let length = if word > 0 { word } else { rest.chars().next().map_or(1, char::len_utf8) };
            let start = at;
            at += length;
            return Some((start, &rest[..length]));
        }
    })
}

/// Bytes of the block comment that a text begins with; they nest.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let (step, after) = match rest {
            _ if rest.starts_with("/*") => (2, depth + 1),
            _ if rest.starts_with("*/") => (2, depth - 1),
            _ => (rest.chars().next().map_or(1, char::len_utf8), depth),
        };
        (at, depth) = (at + step, after);
        if depth == 0 {
            break;
        }
    }
    at
}
