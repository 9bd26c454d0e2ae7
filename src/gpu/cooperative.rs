//! Cooperative matrices: which ones an adapter lists, which of them the kernels can use, and the consent wgpu wants.

use super::DeviceKind;

/// A product of cooperative matrices that an adapter lists: [rows, depth] · [depth, columns] + [rows, columns], by one
/// subgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CooperativeShape {
    /// Rows, columns, depth.
    pub size: [u32; 3],
    /// Type of the factors.
    pub factors: String,
    /// Type of the summand and the result.
    pub sum: String,
}

impl std::fmt::Display for CooperativeShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [rows, columns, depth] = self.size;
        write!(f, "{rows}×{columns}×{depth} {}→{}", self.factors, self.sum)
    }
}

impl CooperativeShape {
    /// Everything an adapter lists, as far as wgpu tells: sizes of 8 and 16.
    pub(super) fn listed(adapter: &wgpu::Adapter) -> Vec<Self> {
        let name = |scalar: wgpu::CooperativeScalarType| format!("{scalar:?}").to_lowercase();
        let mut shapes: Vec<Self> = adapter
            .cooperative_matrix_properties()
            .into_iter()
            .map(|p| Self { size: [p.m_size, p.n_size, p.k_size], factors: name(p.ab_type), sum: name(p.cr_type) })
            .collect();
        // Saturating forms, which concern integers, stand beside the plain ones.
        shapes.dedup();
        shapes
    }

    /// The side of the square f16 matrices with sums in f32, for which there are kernels. WGSL has square types only.
    pub fn side(&self) -> Option<u32> {
        let [rows, columns, depth] = self.size;
        (rows == columns && rows == depth && self.factors == "f16" && self.sum == "f32").then_some(rows)
    }
}

/// The side of the matrices to use on a device with these features, if any. Kernels keep their tiles in f16, and ask
/// which subgroup they are in.
pub(super) fn side(
    shapes: &[CooperativeShape],
    features: wgpu::Features,
    kind: DeviceKind,
    [min_subgroup, max_subgroup]: [u32; 2],
) -> Option<u32> {
    let needed =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    // wgpu goes by the list alone. Mesa's software driver gives the list whatever the width of its vectors, but has the
    // feature from 256 bits on (with 128, `request_device` panics in wgpu 30) and crashes on compiling with 512: only
    // its subgroups of 8 lanes work (Mesa 26.1).
    let works = kind != DeviceKind::Software || (min_subgroup, max_subgroup) == (8, 8);
    // The larger matrix does more with what it loads.
    shapes.iter().filter_map(CooperativeShape::side).max().filter(|_| features.contains(needed) && works)
}

/// wgpu's token of consent to experimental features.
#[expect(unsafe_code, reason = "the consent that wgpu asks for before it turns an experimental feature on")]
pub(super) fn consent() -> wgpu::ExperimentalFeatures {
    // SAFETY: the token asks its holder to know that wgpu's own code behind experimental features may have unsound
    // bugs. It is given for cooperative matrices alone, when the caller has opted in (`Open::cooperative`), and the
    // kernels that use them load and store whole matrices inside workgroup memory or buffers of whole matrices, which
    // is the one thing wgpu does not check. No memory of this program depends on it.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
