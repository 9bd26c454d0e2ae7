//! A user's kernel: a WGSL module of its own, checked before any device compiles it.

use std::sync::Arc;

use naga::proc::Layouter;
use naga::valid::Capabilities;
use naga::{AddressSpace, ArraySize, GlobalVariable, Module, ScalarKind, ShaderStage, StorageAccess, TypeInner};

use super::Access;
use super::check::{Fault, parsed, refused, refused_at, validated};
use crate::error::{Error, Result};

/// Bytes of source.
const LONGEST: usize = 64 << 10;

/// Binding of the number of a chunk's first workgroup, behind every kernel's buffers, as in `common/layout.wgsl`.
pub const FIRST_WORKGROUP: u32 = 16;

/// A kernel of one's own, to be recorded between this crate's ([`CustomKernel::record`]).
///
/// It is a whole WGSL module with one entry point, `@compute fn main`, and these bindings of group 0:
///
/// | binding | declaration | what |
/// |---|---|---|
/// | 0, if any | `var<uniform> params: …` | the parameters, as many bytes as their type has |
/// | 1 to R | `var<storage, read> …` | the tensors that are read |
/// | R + 1 to R + W | `var<storage, read_write> …` | the tensors that are written, and may be read |
/// | 16, if any | `var<uniform> first_workgroup: u32` | says that the kernel may be run in chunks of its workgroups |
///
/// Element 0 of a buffer is the tensor's first, in row-major order. It may use `enable f16;` and subgroup operations, on
/// devices that have them; `override` constants, textures and samplers it may not.
///
/// **In chunks.** A dispatch that would keep the device busy for too long can be run in several, each of neighbouring
/// workgroups ([`plan::chunks`](crate::plan::chunks())), if the kernel declares binding 16. It is then to go by the number
/// `first_workgroup + workgroup_id.x + workgroup_id.y * num_workgroups.x`, which is from 0 to one less than the workgroups
/// of the grid, each once, in however many chunks; `workgroup_id` and `num_workgroups` alone count within a chunk. A kernel
/// without that binding is one dispatch.
#[derive(Clone)]
pub struct CustomKernel(Arc<Checked>);

struct Checked {
    name: String,
    source: String,
    /// Bytes of `params`, if there are any.
    params: Option<usize>,
    accesses: Vec<Access>,
    buffers: Vec<CustomBuffer>,
    divisible: bool,
    needs: Needs,
}

/// A storage buffer of a user's kernel.
pub(crate) struct CustomBuffer {
    /// Its name in the shader.
    pub(crate) name: String,
    /// Bytes of a number of its elements, where these are numbers or vectors of them.
    pub(crate) number: Option<u64>,
    /// Bytes that must be there.
    pub(crate) bytes: u64,
}

/// What a user's kernel needs of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) f16: bool,
    pub(crate) subgroups: bool,
    /// In a workgroup.
    pub(crate) invocations: u32,
    /// Bytes of workgroup memory.
    pub(crate) memory: u32,
}

impl std::fmt::Debug for CustomKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for CustomKernel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.name == other.0.name && self.0.source == other.0.source)
    }
}

impl Eq for CustomKernel {}

impl CustomKernel {
    /// Checks a module; `name` is what errors, labels and timings call it.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's words and the line, the column and the text there, or the reason of a refusal.
    pub fn new(name: &str, wgsl: &str) -> Result<Self> {
        checked(name, wgsl)
            .map(|checked| Self(Arc::new(checked)))
            .map_err(|fault| Error::Kernel { kernel: name.to_owned(), reason: fault.told(wgsl) })
    }

    /// What errors, labels and timings call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What it does with the buffers at the bindings from 1 on: reads the first ones, writes the others.
    pub fn accesses(&self) -> &[Access] {
        &self.0.accesses
    }

    /// Whether its dispatches may be run in chunks of workgroups.
    pub fn is_divisible(&self) -> bool {
        self.0.divisible
    }

    /// Bytes of its parameters.
    pub(crate) fn params(&self) -> Option<usize> {
        self.0.params
    }

    /// In the order of their bindings.
    pub(crate) fn buffers(&self) -> &[CustomBuffer] {
        &self.0.buffers
    }

    pub(crate) fn needs(&self) -> Needs {
        self.0.needs
    }
}

fn checked(name: &str, source: &str) -> Result<Checked, Fault> {
    let (module, _) = parsed(source, LONGEST)?;
    let capabilities = capabilities(source, &module)?;
    let entry = match &module.entry_points[..] {
        [entry] if entry.name == "main" && entry.stage == ShaderStage::Compute => entry,
        [] => return refused("has no entry point: expected `@compute @workgroup_size(…) fn main`"),
        [other] => return refused(format!("has the entry point `{}`: expected a compute shader `main`", other.name)),
        all => return refused(format!("has {} entry points: expected one, `main`", all.len())),
    };
    if let Some((handle, _)) = module.overrides.iter().next() {
        return refused_at(module.overrides.get_span(handle).to_range(), "has an `override`: use `const`");
    }
    let mut layouter = Layouter::default();
    if layouter.update(module.to_ctx()).is_err() {
        return refused("has a type without a layout");
    }
    let mut checked = Checked {
        name: name.to_owned(),
        source: source.to_owned(),
        params: None,
        accesses: Vec::new(),
        buffers: Vec::new(),
        divisible: false,
        needs: Needs {
            f16: capabilities.contains(Capabilities::SHADER_FLOAT16),
            subgroups: capabilities.contains(Capabilities::SUBGROUP),
            invocations: entry.workgroup_size.iter().fold(1, |n, &size| n.saturating_mul(size)),
            memory: 0,
        },
    };
    let mut bound: Vec<(u32, &GlobalVariable)> = Vec::new();
    for (handle, variable) in module.global_variables.iter() {
        let span = module.global_variables.get_span(handle).to_range();
        let label = variable.name.as_deref().unwrap_or_default();
        let size = layouter[variable.ty].size;
        match (variable.space, &variable.binding) {
            (AddressSpace::Private, _) => {}
            (AddressSpace::WorkGroup, _) => checked.needs.memory = checked.needs.memory.saturating_add(size),
            (_, Some(at)) if at.group != 0 => return refused_at(span, format!("`{label}`: expected group 0")),
            (AddressSpace::Uniform, Some(at)) if at.binding == 0 => checked.params = Some(size as usize),
            (AddressSpace::Uniform, Some(at)) if at.binding == FIRST_WORKGROUP => {
                if module.types[variable.ty].inner != TypeInner::Scalar(naga::Scalar::U32) {
                    return refused_at(span, format!("`{label}`: binding {FIRST_WORKGROUP} is a `u32`"));
                }
                checked.divisible = true;
            }
            (AddressSpace::Storage { .. }, Some(at)) => bound.push((at.binding, variable)),
            _ => {
                let expected = "a uniform at binding 0 or 16, or a storage buffer at the ones from 1 on";
                return refused_at(span, format!("`{label}`: expected {expected}"));
            }
        }
    }
    bound.sort_by_key(|(binding, _)| *binding);
    for ((binding, variable), expected) in bound.into_iter().zip(1..) {
        let label = variable.name.as_deref().unwrap_or_default();
        if binding != expected {
            return refused(format!("`{label}` has binding {binding} where {expected} comes next"));
        }
        let writes =
            matches!(variable.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
        if !writes && checked.accesses.contains(&Access::Write) {
            return refused(format!("`{label}` is read at a binding behind those that are written: put it in front"));
        }
        checked.accesses.push(if writes { Access::Write } else { Access::Read });
        checked.buffers.push(CustomBuffer {
            name: label.to_owned(),
            number: number(&module, variable),
            bytes: layouter[variable.ty].size.into(),
        });
    }
    Ok(checked)
}

/// What a module needs of the optional features that it may use; what is wrong with it, if none of them helps.
fn capabilities(source: &str, module: &Module) -> Result<Capabilities, Fault> {
    let all = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
    let mut needed = all;
    validated(source, module, all)?;
    for one in [Capabilities::SHADER_FLOAT16, Capabilities::SUBGROUP] {
        if validated(source, module, needed - one).is_ok() {
            needed -= one;
        }
    }
    Ok(needed)
}

/// Bytes of a number in an array of numbers, or of vectors of them.
fn number(module: &Module, variable: &GlobalVariable) -> Option<u64> {
    let TypeInner::Array { base, size: ArraySize::Dynamic, .. } = module.types[variable.ty].inner else { return None };
    let (TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } | TypeInner::Atomic(scalar)) =
        module.types[base].inner
    else {
        return None;
    };
    matches!(scalar.kind, ScalarKind::Float | ScalarKind::Uint | ScalarKind::Sint).then_some(scalar.width.into())
}
