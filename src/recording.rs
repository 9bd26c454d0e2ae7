//! A sequence of dispatches as plain data: written by the kernels' host side, run by [`crate::gpu`].
//!
//! A recording knows slots, not buffers. What is in a slot (a tensor, scratch memory) is decided when it runs, so the
//! same code can be counted, explained and tested without a device.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::tensor::{DType, Layout, TensorLike};
use crate::wgsl::Variant;

/// A slot for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub(crate) u32);

impl Slot {
    /// Its number: index into [`Recording::slots`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a slot will hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A tensor that the caller binds.
    Bound,
    /// Memory that lives for this recording only; contents undefined at the start.
    Scratch,
}

/// Size and kind of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Shown in labels and errors.
    pub name: Cow<'static, str>,
    /// Bytes.
    pub bytes: u64,
    /// Bound or scratch.
    pub kind: SlotKind,
}

/// A strided tensor inside a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where the elements are.
    pub slot: Slot,
    /// Shape, strides and offset.
    pub layout: Layout,
    /// Their type.
    pub dtype: DType,
}

impl TensorLike for View {
    type Integers = Self;
}

impl View {
    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// The same elements under another layout.
    pub fn with(&self, layout: Layout) -> Self {
        Self { layout, ..self.clone() }
    }
}

/// A buffer that a dispatch binds, in the order of the shader's bindings from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Read only.
    Read(Slot),
    /// Read and written.
    Write(Slot),
    /// Declared by the shader but not used by this variant: a few zero bytes, read only.
    Unused,
}

impl Binding {
    /// What it binds.
    pub fn slot(&self) -> Option<Slot> {
        match *self {
            Self::Read(slot) | Self::Write(slot) => Some(slot),
            Self::Unused => None,
        }
    }
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// Which program.
    pub variant: Variant,
    /// Contents of the uniform `params`.
    pub params: Vec<u8>,
    /// Storage buffers.
    pub bindings: Vec<Binding>,
    /// Workgroups in x and y; shaders fold them into one index.
    pub grid: [u32; 2],
    /// Loop iterations of the longest invocation, all loops together.
    pub iterations: u64,
    /// Bytes that register tiles read and write in workgroup memory.
    pub workgroup_bytes: u64,
    /// Multiplications and additions.
    pub flops: u64,
    /// Bytes that must be read and written at least once.
    pub bytes: u64,
}

/// One step of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run a shader.
    Dispatch(Dispatch),
    /// Fill a slot with zeros.
    Clear(Slot),
}

impl Command {
    /// The slots that it names.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let (bindings, cleared) = match self {
            Self::Dispatch(dispatch) => (dispatch.bindings.as_slice(), None),
            Self::Clear(slot) => (&[][..], Some(*slot)),
        };
        bindings.iter().filter_map(Binding::slot).chain(cleared)
    }
}

/// A sequence of commands over slots.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recording {
    slots: Vec<SlotInfo>,
    commands: Vec<Command>,
    /// For each slot the number of commands up to the last one that writes it.
    written: Vec<usize>,
    packed: Vec<Packed>,
}

/// Short lists that were copied into one slot.
#[derive(Debug, Clone, PartialEq)]
struct Packed {
    lists: Vec<Option<View>>,
    copies: Vec<Option<View>>,
    /// Commands up to the last copy.
    commands: usize,
}

impl Recording {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn slot(&mut self, name: impl Into<Cow<'static, str>>, bytes: u64, kind: SlotKind) -> Slot {
        self.slots.push(SlotInfo { name: name.into(), bytes, kind });
        self.written.push(0);
        Slot(self.slots.len() as u32 - 1)
    }

    /// A slot for a tensor that the caller binds.
    pub fn bound(&mut self, name: impl Into<Cow<'static, str>>, layout: Layout, dtype: DType, bytes: u64) -> View {
        let slot = self.slot(name, bytes, SlotKind::Bound);
        View { slot, layout, dtype }
    }

    /// Lets a slot hold at least so many bytes.
    pub(crate) fn grow(&mut self, slot: Slot, bytes: u64) {
        if let Some(info) = self.slots.get_mut(slot.0 as usize) {
            info.bytes = info.bytes.max(bytes);
        }
    }

    /// A dense tensor that lives for this recording only.
    pub fn scratch(&mut self, name: impl Into<Cow<'static, str>>, shape: &[usize], dtype: DType) -> View {
        let layout = Layout::contiguous(shape);
        let bytes = (dtype.bytes_of(layout.elements()).max(4) as u64).div_ceil(4).saturating_mul(4);
        let slot = self.slot(name, bytes, SlotKind::Scratch);
        View { slot, layout, dtype }
    }

    /// Appends a dispatch.
    pub fn push(&mut self, dispatch: Dispatch) {
        let number = self.commands.len() + 1;
        for binding in &dispatch.bindings {
            if let Binding::Write(slot) = binding {
                self.note_written(*slot, number);
            }
        }
        self.commands.push(Command::Dispatch(dispatch));
    }

    fn note_written(&mut self, slot: Slot, number: usize) {
        if let Some(written) = self.written.get_mut(slot.index()) {
            *written = number;
        }
    }

    /// Records that these lists have just been copied, for [`Recording::packed`] to find.
    pub(crate) fn note_packed(&mut self, lists: &[Option<&View>], copies: Vec<Option<View>>) {
        let lists = lists.iter().map(|list| list.cloned()).collect();
        self.packed.push(Packed { lists, copies, commands: self.commands.len() });
    }

    /// Copies of these lists, if there are any that no later command has made stale.
    pub(crate) fn packed(&self, lists: &[Option<&View>]) -> Option<Vec<Option<View>>> {
        let same = |packed: &&Packed| {
            let lists_are = packed.lists.iter().map(Option::as_ref).eq(lists.iter().copied());
            let hold = |view: &View| self.written.get(view.slot.index()).is_some_and(|&n| n <= packed.commands);
            lists_are && packed.lists.iter().chain(&packed.copies).flatten().all(hold)
        };
        self.packed.iter().rev().find(same).map(|packed| packed.copies.clone())
    }

    /// Appends a fill with zeros.
    pub fn clear(&mut self, slot: Slot) {
        self.note_written(slot, self.commands.len() + 1);
        self.commands.push(Command::Clear(slot));
    }

    /// All slots, by number.
    pub fn slots(&self) -> &[SlotInfo] {
        &self.slots
    }

    /// One slot; none for a slot of another recording that has more of them.
    pub fn info(&self, slot: Slot) -> Option<&SlotInfo> {
        self.slots.get(slot.0 as usize)
    }

    /// All commands, in order.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// All dispatches, in order.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Clear(_) => None,
        })
    }

    /// Bytes of scratch memory.
    pub fn scratch_bytes(&self) -> u64 {
        self.slots.iter().filter(|s| s.kind == SlotKind::Scratch).map(|s| s.bytes).sum()
    }

    /// Checks every slot against the device's largest binding and buffer.
    ///
    /// # Errors
    /// [`Error::Limit`] with the name of the tensor.
    pub fn check(&self, caps: &crate::device::Caps) -> Result<()> {
        let allowed = caps.max_tensor_bytes();
        match self.slots.iter().find(|slot| slot.bytes > allowed) {
            Some(slot) => Err(Error::Limit { what: format!("bytes of `{}`", slot.name), needed: slot.bytes, allowed }),
            None => Ok(()),
        }
    }
}
