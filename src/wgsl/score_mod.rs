//! What a user's score function may be: checked alone, before it stands among the kernel's own lines.
//!
//! Kernels take the function in as text, so what is let through must be whole declarations that neither the kernel's
//! names nor its control flow can be touched by: functions, constants, structs and aliases with names of their own.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::OnceLock;

use wgpu::naga;

use naga::common::wgsl::TypeContext;
use naga::front::wgsl::parse_str;
use naga::keywords::wgsl::BUILTIN_IDENTIFIERS;
use naga::proc::TypeResolution;
use naga::valid::{
    CallError, Capabilities, ExpressionError, FunctionError, ValidationError, ValidationFlags, Validator,
};
use naga::{Block, Expression, Function, Handle, Module, Scalar, Span, Statement, TypeInner, WithSpan};

use super::Kernel;
use crate::error::Error;

/// Bytes of source. Compilers recurse into expressions, so their length bounds the stack that they take.
const LONGEST: usize = 16 << 10;

/// Operators and brackets in one statement, for the same reason: a sum of so many terms is nested as deeply.
const MOST_OPERATORS: usize = 1000;

/// Bytes of one value, and of all variables of one function (WGSL, "Limits": the function address space).
const MOST_BYTES: u32 = 8192;

/// Expressions, with every call written out: drivers do so, and functions that call others twice grow by powers of two.
const MOST_EXPRESSIONS: u64 = 10_000;

const SIGNATURE: &str = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32";

/// What is wrong with a source.
struct Fault {
    reason: String,
    /// The bytes that it is about, if it is about some.
    place: Option<Range<usize>>,
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason: reason.into(), place: None })
}

fn refused_at<T>(place: Option<Range<usize>>, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason: reason.into(), place })
}

/// Checks a user's source.
///
/// # Errors
/// [`Error::Option`] of `score_mod` with the compiler's words and the user's line, or the reason of a refusal.
pub(crate) fn check(source: &str) -> crate::Result<()> {
    fault(source).map_err(|fault| {
        let reason = at(source, fault.place.map(|place| place.start), &fault.reason);
        Error::option("score_mod", reason)
    })
}

/// The line that [`check`] refuses, whole, between its number and marks below what is wrong; none where nothing is, or no
/// line is to blame.
pub(crate) fn excerpt(source: &str) -> Option<String> {
    let place = fault(source).err()?.place?;
    let begin = source.get(..place.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = source[begin..].split('\n').next()?.trim_end();
    let marked = source.get(place.start..place.end.min(begin + line.len())).unwrap_or_default();
    let number = (source[..begin].matches('\n').count() + 1).to_string();
    let blank = " ".repeat(number.len());
    let indent = " ".repeat(source[begin..place.start].chars().count());
    let marks = "^".repeat(marked.chars().count().max(1));
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(format!("{number} | {line}\n{blank} | {indent}{marks}"))
}

fn fault(source: &str) -> Result<(), Fault> {
    if source.len() > LONGEST {
        return refused(format!("is {} bytes long; at most {LONGEST} are taken", source.len()));
    }
    let declarations = declarations(source);
    if let Some(long) = declarations.iter().find(|declaration| declaration.operators > MOST_OPERATORS) {
        let reason = format!("`{}` has a statement of {} operators", long.name, long.operators);
        return refused_at(Some(long.place()), format!("{reason}; at most {MOST_OPERATORS} are taken"));
    }
    let module = parse_str(source).or_else(|error| {
        let place = error.labels().next().and_then(|(span, _)| span.to_range());
        let words: Vec<&str> = std::iter::once(error.message()).chain(error.notes()).collect();
        refused_at(place, words.join(": "))
    })?;
    for declaration in &declarations {
        if let Some(reason) = declaration.reason() {
            return refused_at(Some(declaration.place()), reason);
        }
    }
    Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .or_else(|error| refused_at(innermost(&module, &error), words(source, &module, error.as_inner())))?;
    let functions = || module.functions.iter().map(|(_, function)| function);
    let Some(function) = functions().find(|function| function.name.as_deref() == Some("score_mod")) else {
        return refused(format!("has no `{SIGNATURE}`"));
    };
    if !module.entry_points.is_empty() {
        return refused(format!("has an entry point `{}`: the kernel has its own", module.entry_points[0].name));
    }
    if !module.diagnostic_filters.is_empty() {
        return refused("sets `diagnostic`, which belongs to the kernel");
    }
    if !has_signature(&module, function) {
        return refused(format!("`score_mod` has other parameters or another result: expected `{SIGNATURE}`"));
    }
    check_size(&module)?;
    functions().try_for_each(|function| {
        let name = function.name.as_deref().unwrap_or_default();
        match foreign(function) {
            Some(what) => refused(format!("`{name}` uses {what}: a score is computed by each invocation alone")),
            None => Ok(()),
        }
    })
}

/// Where an error is: the least of its spans, as the function that it is in has one too. What a statement gets wrong of an
/// argument has none but the argument's in the signature, which says nothing; the statement's own is taken then.
fn innermost(module: &Module, error: &WithSpan<ValidationError>) -> Option<Range<usize>> {
    if let ValidationError::Function { handle, source: reason, .. } = error.as_inner() {
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
        each_statement(&module.functions[*handle].body, &mut |statement, span| {
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
    let place = || function.expressions.get_span(expression).to_range();
    name.or_else(|| source.get(place()?)).unwrap_or("…")
}

/// What the validator says. It numbers expressions and types; where types do not fit, which is what people get wrong, the
/// source's own words stand in their place.
fn words(source: &str, module: &Module, error: &ValidationError) -> String {
    let in_own_words = match error {
        ValidationError::Function { handle, source: reason, .. } => {
            let function = &module.functions[*handle];
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
        _ => None,
    };
    in_own_words.unwrap_or_else(|| {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        causes.last().map_or_else(|| error.to_string(), ToString::to_string)
    })
}

/// A message with the line and column that it is about, if it is about one, both counted from 1, and the text there.
fn at(source: &str, start: Option<usize>, message: &str) -> String {
    let Some(before) = start.and_then(|start| source.get(..start)) else { return shown(message) };
    let line = before.matches('\n').count();
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    let text = source.split('\n').nth(line).unwrap_or_default().trim();
    format!("{}, line {}, column {column}: {}", shown(message), line + 1, shown(text))
}

/// In one line, and not without end.
fn shown(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn has_signature(module: &Module, function: &Function) -> bool {
    let is = |ty: naga::Handle<naga::Type>, scalar: Scalar| module.types[ty].inner == TypeInner::Scalar(scalar);
    let wanted = [Scalar::F32, Scalar::U32, Scalar::U32, Scalar::U32, Scalar::U32];
    function.arguments.len() == wanted.len()
        && function.arguments.iter().zip(wanted).all(|(argument, scalar)| is(argument.ty, scalar))
        && function.result.as_ref().is_some_and(|result| is(result.ty, Scalar::F32))
}

/// Memory and work that drivers would have to make room for.
fn check_size(module: &Module) -> Result<(), Fault> {
    let bytes = |ty: &naga::Type| ty.inner.try_size(module.to_ctx()).unwrap_or(u32::MAX);
    if let Some(large) = module.types.iter().map(|(_, ty)| bytes(ty)).find(|&bytes| bytes > MOST_BYTES) {
        return refused(format!("has a value of {large} bytes; at most {MOST_BYTES} are taken"));
    }
    // Functions stand behind those that they call.
    let mut written_out: Vec<u64> = Vec::new();
    for (_, function) in module.functions.iter() {
        let name = function.name.as_deref().unwrap_or_default();
        let sizes = function.local_variables.iter().map(|(_, variable)| bytes(&module.types[variable.ty]));
        let variables = sizes.fold(0u32, u32::saturating_add);
        if variables > MOST_BYTES {
            return refused(format!("`{name}` has {variables} bytes of variables; at most {MOST_BYTES} are taken"));
        }
        let mut all = function.expressions.len() as u64;
        each_statement(&function.body, &mut |statement, _| {
            if let Statement::Call { function, .. } = statement {
                all = all.saturating_add(written_out.get(function.index()).copied().unwrap_or(0));
            }
        });
        if all > MOST_EXPRESSIONS {
            let reason = "expressions, those of the functions that it calls included";
            return refused(format!("`{name}` has {all} {reason}; at most {MOST_EXPRESSIONS} are taken"));
        }
        written_out.push(all);
    }
    Ok(())
}

/// Each statement of a block and of the blocks inside.
fn each_statement(block: &Block, f: &mut impl FnMut(&Statement, &Span)) {
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

/// What a function does beside computing a value: talk to other invocations, end one, or reach resources. Not all
/// lanes of a workgroup come to the call, so a barrier in it would hold those that do forever.
fn foreign(function: &Function) -> Option<&'static str> {
    if function.expressions.iter().any(|(_, expression)| matches!(expression, Expression::Derivative { .. })) {
        return Some("a derivative");
    }
    let mut found = None;
    each_statement(&function.body, &mut |statement, _| {
        let what = match statement {
            Statement::Emit(_)
            | Statement::Block(_)
            | Statement::If { .. }
            | Statement::Switch { .. }
            | Statement::Loop { .. }
            | Statement::Break
            | Statement::Continue
            | Statement::Return { .. }
            | Statement::Store { .. }
            | Statement::Call { .. } => return,
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => "a barrier",
            Statement::Kill => "`discard`",
            _ => "what reaches past this invocation",
        };
        found = Some(what);
    });
    found
}

/// A declaration at module scope, as far as its tokens tell.
struct Declaration<'a> {
    /// Where it begins, in bytes.
    start: usize,
    /// `fn`, `const` …
    keyword: &'a str,
    /// What it declares; empty where it names nothing.
    name: &'a str,
    /// Tokens between two statements that are neither names, numbers nor commas: an upper bound on how deeply
    /// expressions are nested.
    operators: usize,
}

impl Declaration<'_> {
    /// Its first word.
    fn place(&self) -> Range<usize> {
        self.start..self.start + self.keyword.len()
    }

    /// Why it may not stand beside a kernel.
    fn reason(&self) -> Option<String> {
        match self.keyword {
            "fn" | "const" | "struct" | "alias" if self.name == "score_mod" => None,
            "fn" | "const" | "struct" | "alias" if BUILTIN_IDENTIFIERS.contains(&self.name) => {
                Some(format!("`{}` is a name of WGSL's own: choose another", self.name))
            }
            "fn" | "const" | "struct" | "alias"
                if COOPERATIVE.contains(&self.name) || kernel_names().contains(self.name) =>
            {
                Some(format!("`{}` is a name of the kernel's own: choose another", self.name))
            }
            "fn" | "const" | "struct" | "alias" | "const_assert" => None,
            "var" => {
                Some("a variable at module scope is a binding or memory of the kernel's: give functions only".into())
            }
            "override" => Some("an `override` is a constant of the pipeline: use `const`".into()),
            directive => Some(format!("`{directive}` belongs to the kernel")),
        }
    }
}

/// What the cooperative kernel uses of names that naga's list of predeclared ones lacks.
const COOPERATIVE: [&str; 10] = [
    "coop_mat8x8",
    "coop_mat16x16",
    "coopLoad",
    "coopLoadT",
    "coopMultiplyAdd",
    "coopStore",
    "coopStoreT",
    "A",
    "B",
    "C",
];

/// Names at module scope of the kernels that take a score function in.
fn kernel_names() -> &'static HashSet<&'static str> {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let files = Kernel::SCORING.iter().flat_map(|kernel| kernel.every_text());
        files.flat_map(declarations).map(|declaration| declaration.name).filter(|name| *name != "score_mod").collect()
    })
}

/// The declarations of a source, whether or not it compiles.
fn declarations(source: &str) -> Vec<Declaration<'_>> {
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
                // An address space stands in between.
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

/// Words (names, keywords, numbers) and single other characters with their places, without blanks and comments.
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
