//! Kernels of one's own in a run.

use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::recording::{Binding, Dispatch};
use crate::tensor::DType;
use crate::wgsl::{Access, CustomKernel, Variant};

/// One dispatch of a [`CustomKernel`].
#[derive(Debug, Clone, Copy)]
pub struct CustomCall<'a> {
    /// What is read, for the bindings from 1 on. Contiguous; slices begin at a multiple of 256 bytes. A buffer that is
    /// written too is not read.
    pub reads: &'a [&'a Tensor],
    /// What is written, for the bindings behind: tensors of the caller's, or made by [`Run::output`].
    pub writes: &'a [&'a Tensor],
    /// The bytes of `params`, laid out as WGSL has them (of a `bytemuck::Pod` struct, `bytemuck::bytes_of`); none for a
    /// kernel without. They may be padded to a multiple of 16.
    pub params: &'a [u8],
    /// Workgroups in x and y.
    pub grid: [u32; 2],
    /// Loop iterations of the longest invocation, all its loops together; 0 where nobody knows.
    pub iterations: u64,
    /// Multiplications and additions of the whole grid, by which the time that it takes is told; 0 where nobody knows.
    pub flops: u64,
    /// Bytes that must be read and written at least once; the tensors', where it is 0.
    pub bytes: u64,
}

impl<'a> CustomCall<'a> {
    /// Without parameters, and nothing told about the work.
    pub fn new(reads: &'a [&'a Tensor], writes: &'a [&'a Tensor], grid: [u32; 2]) -> Self {
        Self { reads, writes, params: &[], grid, iterations: 0, flops: 0, bytes: 0 }
    }
}

impl CustomKernel {
    /// Records one dispatch, behind what is recorded so far.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the tensors or parameters are not those that the kernel declares, [`Error::Shape`] for a
    /// tensor that it cannot be given as it lies, [`Error::Limit`] for a grid, a workgroup or loops that the device does not
    /// allow, [`Error::Unsupported`] for a feature that it lacks. When the run is encoded, [`Error::Kernel`] again where the
    /// device's driver refuses the kernel.
    pub fn record(&self, run: &mut Run<'_>, call: CustomCall<'_>) -> Result<()> {
        self.check_counts(&call)?;
        self.check_device(run, &call)?;
        let (mut bindings, mut moved) = (Vec::with_capacity(self.buffers().len()), 0);
        let tensors = call.reads.iter().chain(call.writes);
        for ((buffer, access), tensor) in self.buffers().iter().zip(self.accesses()).zip(tensors) {
            let name = &buffer.name;
            if !tensor.layout().is_contiguous() {
                let found = format!("{:?}", tensor.layout().strides);
                return Err(Error::shape(name, "strides", "contiguous", found));
            }
            let size = if tensor.dtype() == DType::F16 { 2 } else { 4 };
            if let Some(number) = buffer.number.filter(|&number| number != size) {
                let expected = format!("elements of {number} bytes, as `{}` has them", self.name());
                return Err(Error::shape(name, "dtype", expected, tensor.dtype()));
            }
            let bytes = tensor.dtype().bytes_of(tensor.layout().elements()) as u64;
            if bytes < buffer.bytes {
                return Err(Error::shape(name, "bytes", format!("at least {}", buffer.bytes), bytes));
            }
            let view = run.bind(name.to_owned(), tensor);
            if view.layout.offset != 0 {
                let found = format!("{} elements behind one", view.layout.offset);
                return Err(Error::shape(name, "offset", "a start that can be bound", found));
            }
            moved += bytes;
            bindings.push(match access {
                Access::Read => Binding::Read(view.slot),
                Access::Write => Binding::Write(view.slot),
            });
        }
        let mut params = call.params.to_vec();
        params.resize(params.len().next_multiple_of(16).max(16), 0);
        run.recording_mut().push(Dispatch {
            variant: Variant::custom(self),
            params,
            bindings,
            grid: call.grid,
            iterations: call.iterations,
            workgroup_bytes: 0,
            flops: call.flops,
            bytes: if call.bytes > 0 { call.bytes } else { moved },
        });
        Ok(())
    }

    fn check_counts(&self, call: &CustomCall<'_>) -> Result<()> {
        let refused = |reason: String| Err(Error::Kernel { kernel: self.name().to_owned(), reason });
        let writes = self.accesses().iter().filter(|access| **access == Access::Write).count();
        let declared = [("reads", self.buffers().len() - writes), ("writes", writes)];
        for ((verb, expected), found) in declared.into_iter().zip([call.reads.len(), call.writes.len()]) {
            if expected != found {
                return refused(format!("{verb} {expected} buffers, and is given {found}"));
            }
        }
        let (expected, found) = (self.params().unwrap_or(0), call.params.len());
        if found < expected || found > expected.next_multiple_of(16) {
            return refused(format!("has {expected} bytes of parameters, and is given {found}"));
        }
        Ok(())
    }

    fn check_device(&self, run: &Run<'_>, call: &CustomCall<'_>) -> Result<()> {
        let (caps, needs, name) = (run.gpu().caps(), self.needs(), self.name());
        for (needed, there, feature) in
            [(needs.f16, caps.f16, "f16 in shaders"), (needs.subgroups, caps.subgroups, "subgroup operations")]
        {
            if needed && !there {
                return Err(Error::Unsupported { feature: feature.to_owned(), what: format!("kernel `{name}`") });
            }
        }
        if call.grid.contains(&0) {
            return Err(Error::option("grid", format!("kernel `{name}`: at least 1 workgroup in x and y")));
        }
        let storage = (self.buffers().len() as u64, u64::from(caps.max_storage_buffers));
        for (what, (needed, allowed)) in [
            ("workgroups in x", (call.grid[0].into(), caps.max_workgroups.into())),
            ("workgroups in y", (call.grid[1].into(), caps.max_workgroups.into())),
            ("invocations of a workgroup", (needs.invocations.into(), caps.max_invocations.into())),
            ("bytes of workgroup memory", (needs.memory.into(), caps.max_workgroup_bytes.into())),
            ("storage buffers", storage),
            ("loop iterations", (call.iterations, caps.max_iterations)),
        ] {
            if needed > allowed {
                return Err(Error::Limit { what: format!("{what} of kernel `{name}`"), needed, allowed });
            }
        }
        Ok(())
    }
}
