//! A user's score function: checked alone, before it is concatenated with a kernel.
//!
//! Kernels include the function as text, so only whole declarations are accepted that can change neither the kernel's names
//! nor its control flow: functions, constants, structs and aliases with names of their own.

use std::collections::HashSet;
use std::sync::OnceLock;

use naga::keywords::wgsl::BUILTIN_IDENTIFIERS;
use naga::valid::Capabilities;
use naga::{Expression, Function, Module, Scalar, Statement, TypeInner};

use super::check::{Declaration, Fault, declarations, each_statement, parsed, refused, refused_at, validated};
use super::files;
use crate::error::Error;

/// Bytes of source. Compilers recurse into expressions, so their length bounds the stack that they take.
const LONGEST: usize = 16 << 10;

/// Bytes of one value, and of all variables of one function (WGSL, "Limits": the function address space).
const MOST_BYTES: u32 = 8192;

/// Expressions, with every call written out: drivers do so, and functions that call others twice grow by powers of two.
const MOST_EXPRESSIONS: u64 = 10_000;

const SIGNATURE: &str = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32";

/// Checks a user's source.
///
/// # Errors
/// [`Error::Option`] of `score_mod` with the compiler's words and the user's line, or the reason of a refusal.
pub(crate) fn check(source: &str) -> crate::Result<()> {
    fault(source).map_err(|fault| Error::option("score_mod", fault.told(source)))
}

/// The line that [`check`] refuses, whole, between its number and marks below what is wrong; none where nothing is, or no
/// line is to blame.
pub(crate) fn excerpt(source: &str) -> Option<String> {
    let span = fault(source).err()?.span?;
    let begin = source.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = source[begin..].split('\n').next()?.trim_end();
    let marked = source.get(span.start..span.end.min(begin + line.len())).unwrap_or_default();
    let number = (source[..begin].matches('\n').count() + 1).to_string();
    let blank = " ".repeat(number.len());
    let indent = " ".repeat(source[begin..span.start].chars().count());
    let marks = "^".repeat(marked.chars().count().max(1));
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(format!("{number} | {line}\n{blank} | {indent}{marks}"))
}

fn fault(source: &str) -> Result<(), Fault> {
    let (module, declarations) = parsed(source, LONGEST)?;
    for declaration in &declarations {
        if let Some(reason) = reason(declaration) {
            return refused_at(Some(declaration.span()), reason);
        }
    }
    validated(source, &module, Capabilities::empty())?;
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
    // Functions come after those that they call.
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

/// What a function does beside computing a value: exchange values with other invocations, end one, or access resources. The
/// call is not in uniform control flow, so a barrier in it would never be passed.
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

/// Why it may not be concatenated with a kernel.
fn reason(declaration: &Declaration<'_>) -> Option<String> {
    match declaration.keyword {
        "fn" | "const" | "struct" | "alias" if declaration.name == "score_mod" => None,
        "fn" | "const" | "struct" | "alias" if BUILTIN_IDENTIFIERS.contains(&declaration.name) => {
            Some(format!("`{}` is a name of WGSL's own: choose another", declaration.name))
        }
        "fn" | "const" | "struct" | "alias"
            if COOPERATIVE.contains(&declaration.name) || kernel_names().contains(declaration.name) =>
        {
            Some(format!("`{}` is a name of the kernel's own: choose another", declaration.name))
        }
        "fn" | "const" | "struct" | "alias" | "const_assert" => None,
        "var" => Some("a variable at module scope is a binding or memory of the kernel's: give functions only".into()),
        "override" => Some("an `override` is a constant of the pipeline: use `const`".into()),
        directive => Some(format!("`{directive}` belongs to the kernel")),
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
        // As `Variant::source` writes them, of any type.
        const HEADER: &str = "alias elem = f32; alias k_elem = f32; alias v_elem = f32; alias out_elem = f32; \
             const LANES_M = 1u; const LANES_N = 1u; const ROW_QUADS = 1u; const CHUNK = 1u; const VALUE_SLICES = 1u;";
        let texts = files::BESIDE_SCORE_MOD.iter().map(|file| file.text).chain([HEADER]);
        texts.flat_map(declarations).map(|declaration| declaration.name).filter(|name| *name != "score_mod").collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::files;
    use crate::kernels;

    #[test]
    fn every_file_beside_a_score_function_is_known() {
        let scoring = kernels::ALL.iter().filter(|kernel| kernel.takes_score_mod());
        let wanted: BTreeSet<_> = scoring.flat_map(|kernel| kernel.every_file()).map(|file| file.path).collect();
        let listed: BTreeSet<_> = files::BESIDE_SCORE_MOD.iter().map(|file| file.path).collect();
        assert_eq!(listed, wanted);
    }
}
