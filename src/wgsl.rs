//! Composition of shader sources: a short typed header, the shared files a kernel asks for, the kernel.
//!
//! Files are plain WGSL and are only concatenated. What differs between variants is said in one of four ways: `override`
//! constants for numbers and switches, aliases in the header for element types, constants in the header for the sizes of
//! inner arrays, which cannot be `override`s, and a choice of files.
//! Each kernel declares all of that, with its bindings and its parameters, as one [`Kernel`] in its Rust file.

mod check;
mod custom;
pub(crate) mod files;
mod score_mod;
mod uniform;

use std::fmt::{Debug, Formatter, Write};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use custom::{CustomKernel, FIRST_WORKGROUP};
#[doc(hidden)]
pub use uniform::{Member, Uniform, UniformStruct, UniformType};

pub(crate) use files::file;
pub(crate) use score_mod::{check as check_score_mod, excerpt as excerpt_of_score_mod};
pub(crate) use uniform::{next_member, params};

use crate::device::Caps;
use crate::tensor::DType;

/// A file of `shaders/`.
#[doc(hidden)]
#[derive(Debug)]
pub struct File {
    /// Below `shaders/`.
    pub path: &'static str,
    /// What is in it.
    pub text: &'static str,
    /// The `override` constants in it that a program may set.
    pub overrides: &'static [&'static str],
}

/// What a kernel's source is made of.
#[doc(hidden)]
#[derive(Debug)]
pub enum Source {
    /// A file that is always there.
    File(&'static File),
    /// Several together.
    All(&'static [Source]),
    /// Reductions and broadcasts between lanes: a file for workgroup memory, and one for subgroup operations.
    Lanes {
        /// Through workgroup memory.
        shared: &'static File,
        /// Through subgroup operations.
        subgroup: &'static File,
    },
    /// How elements of the type `alias` are read or written: a file for plain ones, and one for blocks of 8-bit numbers.
    Storage {
        /// Name of the element type.
        alias: &'static str,
        /// For f32 and f16.
        plain: &'static File,
        /// For q8, beside `common/q8.wgsl`.
        q8: &'static File,
    },
    /// One of several, by the number that a constant has.
    Choice {
        /// Name of the constant, which each of them declares.
        constant: &'static str,
        /// By its value.
        sources: &'static [Source],
    },
    /// Cooperative matrices of the side that the constant SIDE says, which their type must say too.
    Cooperative,
    /// The user's score function, or one that changes nothing.
    ScoreMod,
}

/// What a kernel does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it, and may read it.
    Write,
}

/// A storage buffer that a kernel binds: `var<storage, ACCESS> NAME: array<ELEMENT>`.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its name in the shader.
    pub name: &'static str,
    /// What an element is, in WGSL; where that is the alias of a q8 tensor, words.
    pub element: &'static str,
    /// Read, or written.
    pub access: Access,
}

impl Buffer {
    /// One that is read.
    pub const fn read(name: &'static str, element: &'static str) -> Self {
        Self { name, element, access: Access::Read }
    }

    /// One that is written.
    pub const fn write(name: &'static str, element: &'static str) -> Self {
        Self { name, element, access: Access::Write }
    }
}

/// A kernel, declared: a `static KERNEL` in each file of `kernels/`, beside the `record` that dispatches it.
pub struct Kernel {
    /// The stem of its two files.
    pub name: &'static str,
    /// The files that it is made of, its own last.
    #[doc(hidden)]
    pub sources: &'static [Source],
    /// Its storage buffers, at the bindings from 1 on.
    #[doc(hidden)]
    pub buffers: &'static [Buffer],
    /// Its uniform `params`, at binding 0.
    #[doc(hidden)]
    pub params: &'static UniformType,
}

impl Debug for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kernel {}

impl Source {
    /// Calls `f` with every file that a program may have of this, or with the one that `variant` has.
    fn each(&self, variant: Option<&Variant>, f: &mut impl FnMut(&'static File)) {
        let either = |chosen: Option<bool>, [no, yes]: [&'static File; 2], f: &mut dyn FnMut(&'static File)| {
            if chosen != Some(true) {
                f(no);
            }
            if chosen != Some(false) {
                f(yes);
            }
        };
        match self {
            Self::File(file) => f(file),
            Self::All(sources) => sources.iter().for_each(|source| source.each(variant, f)),
            Self::Lanes { shared, subgroup } => either(variant.map(|v| v.subgroups), [shared, subgroup], f),
            Self::Storage { alias, plain, q8 } => {
                either(variant.map(|v| v.aliases.contains(&(alias, DType::Q8))), [plain, q8], f);
            }
            Self::Choice { constant, sources } => match variant.map(|variant| variant.constant(constant)) {
                Some(chosen) => sources[chosen.min(sources.len() - 1)].each(variant, f),
                None => sources.iter().for_each(|source| source.each(variant, f)),
            },
            Self::Cooperative => {
                let side = |v: &Variant| v.overrides.contains(&("SIDE", 16.0));
                either(variant.map(side), [&files::COOP_8, &files::COOP_16], f);
            }
            Self::ScoreMod if variant.is_none_or(|v| v.score_mod.is_none()) => f(&files::SCORE_MOD_NONE),
            Self::ScoreMod => {}
        }
    }

    /// Whether `found` is true of this or of one inside.
    fn any(&self, found: fn(&Self) -> bool) -> bool {
        match self {
            Self::All(sources) | Self::Choice { sources, .. } => sources.iter().any(|source| source.any(found)),
            source => found(source),
        }
    }
}

impl Kernel {
    /// Whether it multiplies cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.sources.iter().any(|source| source.any(|source| matches!(source, Source::Cooperative)))
    }

    /// Whether it calls a `score_mod`.
    pub fn takes_score_mod(&self) -> bool {
        self.sources.iter().any(|source| source.any(|source| matches!(source, Source::ScoreMod)))
    }

    /// Every file that one of its programs may have.
    #[doc(hidden)]
    pub fn every_file(&self) -> Vec<&'static File> {
        let mut all = vec![&files::PARAMS_UNIFORM, &files::PARAMS_STORAGE, &files::Q8];
        self.sources.iter().for_each(|source| source.each(None, &mut |file| all.push(file)));
        all
    }
}

/// The address space of the parameters of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamsSpace {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer, which counts towards the device's limit of them.
    Storage,
}

impl ParamsSpace {
    /// Where they lie for a dispatch with so many other storage buffers; `shaders/common/params_*.wgsl` say why.
    pub fn of(caps: &Caps, buffers: usize) -> Self {
        let fits = buffers < caps.max_storage_buffers as usize;
        if caps.software && fits { Self::Storage } else { Self::Uniform }
    }
}

/// A value of an `override` constant; f64 as WebGPU has it.
pub type Override = (&'static str, f64);

/// Whose kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelRef {
    /// This crate's.
    BuiltIn(&'static Kernel),
    /// A user's.
    Custom(CustomKernel),
}

impl KernelRef {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(kernel) => kernel.name,
            Self::Custom(kernel) => kernel.name(),
        }
    }

    /// It, if it is this crate's.
    pub fn built_in(&self) -> Option<&'static Kernel> {
        match self {
            Self::BuiltIn(kernel) => Some(kernel),
            Self::Custom(_) => None,
        }
    }

    /// What it does with the buffers at the bindings from 1 on.
    pub fn accesses(&self) -> Vec<Access> {
        match self {
            Self::BuiltIn(kernel) => kernel.buffers.iter().map(|buffer| buffer.access).collect(),
            Self::Custom(kernel) => kernel.accesses().to_vec(),
        }
    }

    /// Whether a dispatch of it may be run in [chunks](crate::plan::chunks()) of its workgroups.
    pub fn is_divisible(&self) -> bool {
        match self {
            Self::BuiltIn(_) => true,
            Self::Custom(kernel) => kernel.is_divisible(),
        }
    }
}

impl PartialEq<Kernel> for KernelRef {
    fn eq(&self, other: &Kernel) -> bool {
        self.built_in() == Some(other)
    }
}

/// One program: a kernel with its types and constants.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Which kernel.
    pub kernel: KernelRef,
    /// Element types by alias.
    pub aliases: Vec<(&'static str, DType)>,
    /// Sizes of arrays within a type, which WGSL wants as constants of the source: the header declares them.
    pub sizes: Vec<(&'static str, u32)>,
    /// Values of `override` constants.
    pub overrides: Vec<Override>,
    /// A user's `score_mod`.
    pub score_mod: Option<Arc<str>>,
    /// Whether lanes exchange values by subgroup operations instead of workgroup memory, where the kernel has both.
    pub subgroups: bool,
}

impl PartialEq for Variant {
    fn eq(&self, other: &Self) -> bool {
        self.kernel == other.kernel
            && self.subgroups == other.subgroups
            && self.aliases == other.aliases
            && self.sizes == other.sizes
            && self.overrides.len() == other.overrides.len()
            && self.overrides.iter().zip(&other.overrides).all(|(a, b)| a.0 == b.0 && a.1.to_bits() == b.1.to_bits())
            && self.score_mod == other.score_mod
    }
}

impl Eq for Variant {}

/// Cheap, as every dispatch is looked up by it: names are left out, as variants of one kernel have the same ones, and of
/// users' texts all but the length.
impl Hash for Variant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut add = |word: u64| state.write_u64(word);
        match &self.kernel {
            KernelRef::BuiltIn(kernel) => add(std::ptr::from_ref(*kernel).addr() as u64),
            KernelRef::Custom(kernel) => add(kernel.source().len() as u64),
        }
        add(u64::from(self.subgroups));
        self.aliases.iter().for_each(|(_, dtype)| add(*dtype as u64));
        self.sizes.iter().for_each(|(_, size)| add(u64::from(*size)));
        self.overrides.iter().for_each(|(_, value)| add(value.to_bits()));
        add(self.score_mod.as_ref().map_or(0, |user| user.len() as u64));
    }
}

impl Variant {
    /// A program of one of this crate's kernels, in which lanes exchange values through workgroup memory.
    pub fn new(
        kernel: &'static Kernel,
        aliases: impl Into<Vec<(&'static str, DType)>>,
        overrides: impl Into<Vec<Override>>,
    ) -> Self {
        let (aliases, overrides) = (aliases.into(), overrides.into());
        Self {
            kernel: KernelRef::BuiltIn(kernel),
            aliases,
            sizes: Vec::new(),
            overrides,
            score_mod: None,
            subgroups: false,
        }
    }

    /// A user's.
    pub fn custom(kernel: &CustomKernel) -> Self {
        Self {
            kernel: KernelRef::Custom(kernel.clone()),
            aliases: Vec::new(),
            sizes: Vec::new(),
            overrides: Vec::new(),
            score_mod: None,
            subgroups: false,
        }
    }

    /// The value of an `override` constant that is a number or a choice; 0 where it is not set.
    fn constant(&self, name: &str) -> usize {
        self.overrides.iter().find(|(found, _)| *found == name).map_or(0, |(_, value)| *value as usize)
    }

    /// Whether it multiplies cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.kernel.built_in().is_some_and(Kernel::is_cooperative)
    }

    /// The address space of its parameters, where `space` is preferred: a user's are a uniform, as the source says.
    pub fn params_space(&self, space: ParamsSpace) -> ParamsSpace {
        match self.kernel {
            KernelRef::BuiltIn(_) => space,
            KernelRef::Custom(_) => ParamsSpace::Uniform,
        }
    }

    /// The whole WGSL source.
    pub fn source(&self, params: ParamsSpace) -> String {
        let kernel = match &self.kernel {
            KernelRef::BuiltIn(kernel) => kernel,
            KernelRef::Custom(kernel) => return kernel.source().to_owned(),
        };
        let mut source = String::new();
        if self.is_cooperative() || self.aliases.iter().any(|(_, dtype)| *dtype == DType::F16) {
            source.push_str("enable f16;\n");
        }
        if self.is_cooperative() {
            // Matrices want all lanes of a subgroup together. naga asks for all lanes of the workgroup, which a
            // condition on the subgroup's number does not keep together, and goes by this filter in it.
            source.push_str("enable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n");
        }
        // Blocks have no type of their own.
        for (alias, dtype) in self.aliases.iter().filter(|(_, dtype)| *dtype != DType::Q8) {
            let _ = writeln!(source, "alias {alias} = {dtype};");
        }
        for (name, size) in &self.sizes {
            let _ = writeln!(source, "const {name} = {size}u;");
        }
        if let Some(user) = self.score_mod.as_deref().filter(|_| kernel.takes_score_mod()) {
            source.push_str(user);
            source.push('\n');
        }
        for file in self.files(params) {
            source.push_str(file.text);
            source.push('\n');
        }
        source
    }

    /// The files that it is made of; none of a user's kernel.
    #[doc(hidden)]
    pub fn files(&self, params: ParamsSpace) -> Vec<&'static File> {
        let Some(kernel) = self.kernel.built_in() else { return Vec::new() };
        let mut files = vec![match params {
            ParamsSpace::Uniform => &files::PARAMS_UNIFORM,
            ParamsSpace::Storage => &files::PARAMS_STORAGE,
        }];
        if self.aliases.iter().any(|(_, dtype)| *dtype == DType::Q8) {
            files.push(&files::Q8);
        }
        kernel.sources.iter().for_each(|source| source.each(Some(self), &mut |file| files.push(file)));
        files
    }

    /// What it is, in a line for labels and tables: the kernel, element types and constants, without a user's source.
    pub fn label(&self) -> String {
        let mut label = self.kernel.name().to_owned();
        for (alias, dtype) in &self.aliases {
            let _ = write!(label, " {alias}={dtype}");
        }
        for (name, size) in &self.sizes {
            let _ = write!(label, " {name}={size}");
        }
        for (name, value) in &self.overrides {
            let _ = write!(label, " {name}={value}");
        }
        if self.subgroups {
            label.push_str(" subgroups");
        }
        label
    }
}
