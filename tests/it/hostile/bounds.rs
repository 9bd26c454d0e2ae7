//! Whether the views that the dispatches of a recording bind lie inside their slots, by what the shaders themselves
//! declare.

use std::cell::RefCell;
use std::collections::HashMap;

use regard::device::Caps;
use regard::kernels::View4;
use regard::recording::{Binding, Dispatch, Recording, Slot};
use regard::tensor::DType;
use regard::wgpu::naga::{self, AddressSpace, Module, ResourceBinding, TypeInner};
use regard::wgsl::ParamsSpace;

/// A `View` in a kernel's `params`: its byte offset, the binding that it is of, and the bytes of one element there.
#[derive(Clone)]
struct Place {
    name: String,
    at: usize,
    binding: usize,
    bytes: u64,
}

thread_local! {
    static PLACES: RefCell<HashMap<String, Vec<Place>>> = RefCell::default();
}

/// Which variable a view describes, where it is not called the same.
fn variable(path: &str) -> &str {
    match path {
        "mask.view" | "view" => "mask",
        "blocks.view" => "block_mask",
        "target_view" => "destination",
        "cos" => "cosines",
        "sin" => "sines",
        same => same,
    }
}

fn members(module: &Module, ty: naga::Handle<naga::Type>, path: &str, start: u32, out: &mut Vec<(String, u32)>) {
    let ty = &module.types[ty];
    let TypeInner::Struct { members: fields, .. } = &ty.inner else { return };
    if ty.name.as_deref() == Some("View") {
        out.push((path.to_owned(), start));
        return;
    }
    for field in fields {
        let name = field.name.as_deref().unwrap_or_default();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        members(module, field.ty, &path, start + field.offset, out);
    }
}

fn places(dispatch: &Dispatch) -> Vec<Place> {
    let variant = &dispatch.variant;
    let layouts: Vec<_> = variant.overrides.iter().filter(|(name, _)| name.ends_with("_LAYOUT")).collect();
    let key = format!("{:?} {:?} {} {layouts:?}", variant.kernel, variant.aliases, variant.subgroups);
    PLACES.with_borrow_mut(|known| known.entry(key).or_insert_with(|| read_places(dispatch)).clone())
}

fn read_places(dispatch: &Dispatch) -> Vec<Place> {
    let module = naga::front::wgsl::parse_str(&dispatch.variant.source(ParamsSpace::Uniform)).unwrap();
    let variable_of = |name: &str| {
        let mut all = module.global_variables.iter().map(|(_, variable)| variable);
        all.find(|found| found.name.as_deref() == Some(variable(name)))
    };
    let params =
        module.global_variables.iter().find(|(_, variable)| variable.name.as_deref() == Some("params")).unwrap();
    let mut views = Vec::new();
    members(&module, params.1.ty, "", 0, &mut views);
    // Views of products count numbers, however many are read together.
    let product = dispatch.variant.kernel.name().starts_with("matmul");
    // The weights say how many columns partial sums have.
    views.retain(|(name, _)| name != "w" || dispatch.variant.kernel.name() != "matmul_sum");
    let place = |(name, at): (String, u32)| {
        let found =
            variable_of(&name).unwrap_or_else(|| panic!("{}: no binding for `{name}`", dispatch.variant.label()));
        assert!(matches!(found.space, AddressSpace::Storage { .. }));
        let Some(ResourceBinding { binding, .. }) = found.binding else { panic!("{name}") };
        let TypeInner::Array { base, stride, .. } = module.types[found.ty].inner else { panic!("{name}") };
        let together = if product && matches!(module.types[base].inner, TypeInner::Vector { .. }) { 4 } else { 1 };
        Place { name, at: at as usize, binding: binding as usize - 1, bytes: u64::from(stride / together) }
    };
    views.into_iter().map(place).collect()
}

/// Asserts that what a recording does stays inside what it has: slots that exist, grids that the device takes, and no
/// view that reaches past its slot.
pub(crate) fn check(recording: &Recording, caps: &Caps) {
    let bytes_of = |slot: Slot| recording.info(slot).unwrap().bytes;
    for dispatch in recording.dispatches() {
        let name = dispatch.variant.kernel.name();
        assert!(
            dispatch.grid.iter().all(|&n| n >= 1 && n <= caps.max_workgroups.max(1)),
            "{name}: {:?}",
            dispatch.grid
        );
        let blocks = dispatch.variant.aliases.iter().any(|(_, dtype)| *dtype == DType::Q8);
        for place in places(dispatch) {
            let slot = match dispatch.bindings[place.binding] {
                Binding::Read(slot) | Binding::Write(slot) => slot,
                Binding::Unused => continue,
            };
            let words: [u32; 9] = bytemuck::pod_read_unaligned(&dispatch.params[place.at..place.at + 36]);
            let four = |first: usize| std::array::from_fn(|axis| words[first + axis]);
            let view = View4 { shape: four(0), strides: four(4), offset: words[8] };
            if view.shape.contains(&0) {
                continue;
            }
            let steps = view.shape.iter().zip(view.strides).map(|(&n, stride)| u64::from(n - 1) * u64::from(stride));
            let span = u64::from(view.offset) + steps.sum::<u64>() + 1;
            // Views of q8 count elements or quads, whatever the words are; 36 bytes hold 32 elements.
            let needed = match (blocks, place.bytes) {
                (true, 4) if is_q8(dispatch, &place.name) => span / if is_fused(name) { 8 } else { 32 } * 36,
                (_, bytes) => span * bytes,
            };
            let held = bytes_of(slot);
            assert!(
                needed <= held.next_multiple_of(4),
                "{name}: `{}` {view:?} needs {needed} of {held} bytes",
                place.name
            );
        }
    }
}

fn is_fused(kernel: &str) -> bool {
    kernel.starts_with("flash")
}

/// Whether the variable that a view describes holds blocks.
fn is_q8(dispatch: &Dispatch, name: &str) -> bool {
    let alias = match name {
        "key" => "k_elem",
        "value" => "v_elem",
        "source" => "elem",
        _ => "out_elem",
    };
    dispatch.variant.aliases.contains(&(alias, DType::Q8))
}
