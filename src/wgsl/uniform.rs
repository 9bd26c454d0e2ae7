//! Uniform structs, laid out as WGSL lays its own out (WGSL, "Memory Layout"): each member at a multiple of its alignment,
//! and what lies inside another rounded up to 16 bytes, as the uniform address space wants it. WGSL's twin of a struct that
//! lies inside others has `@align(16)` at its first member, unless it has a vector of four: naga 30 takes no notice of the
//! attribute where it lays out what holds the struct, so structs come before numbers.

/// How a value lies in a uniform buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniformType {
    /// It begins at a multiple of this.
    pub align: usize,
    /// How long it is.
    pub size: usize,
    /// Of a struct, or of each struct of an array.
    pub members: &'static [Member],
}

/// A member of a uniform struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// As in both languages.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Its size and alignment.
    pub ty: &'static UniformType,
}

/// A value that a uniform buffer can hold.
pub trait Uniform {
    /// Its size and alignment.
    const TYPE: UniformType;

    /// Writes it to the first bytes of `to`.
    fn write(&self, to: &mut [u8]);
}

/// A uniform struct, which may be repeated in an array.
pub trait UniformStruct: Uniform {}

/// Where the next member begins and ends, behind one that ends at `end`.
pub(crate) const fn next_member<T: Uniform>(end: usize) -> [usize; 2] {
    let start = end.next_multiple_of(T::TYPE.align);
    [start, start + T::TYPE.size]
}

/// Numbers and vectors of them.
macro_rules! numbers {
    ($number:ty, $length:literal) => {
        impl Uniform for [$number; $length] {
            const TYPE: UniformType = UniformType { align: 4 * $length, size: 4 * $length, members: &[] };

            fn write(&self, to: &mut [u8]) {
                self.iter().zip(to.chunks_exact_mut(4)).for_each(|(number, to)| number.write(to));
            }
        }
    };
    ($($number:ty),*) => { $(
        impl Uniform for $number {
            const TYPE: UniformType = UniformType { align: 4, size: 4, members: &[] };

            fn write(&self, to: &mut [u8]) {
                to[..4].copy_from_slice(&self.to_le_bytes());
            }
        }
        numbers!($number, 2);
        numbers!($number, 4);
    )* };
}
numbers!(u32, i32, f32);

impl<T: UniformStruct, const N: usize> Uniform for [T; N] {
    const TYPE: UniformType = UniformType { size: N * T::TYPE.size, ..T::TYPE };

    fn write(&self, to: &mut [u8]) {
        self.iter().zip(to.chunks_exact_mut(T::TYPE.size)).for_each(|(item, to)| item.write(to));
    }
}

/// Declares the Rust twin of a WGSL struct of parameters.
macro_rules! params {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty,)* }

        impl $crate::wgsl::Uniform for $name {
            const TYPE: $crate::wgsl::UniformType = $crate::wgsl::UniformType {
                align: 16,
                size: {
                    let mut end = 0;
                    $(end = $crate::wgsl::next_member::<$ty>(end)[1];)*
                    usize::next_multiple_of(end, 16)
                },
                members: &{
                    let mut end = 0;
                    [$({
                        let [start, next] = $crate::wgsl::next_member::<$ty>(end);
                        end = next;
                        _ = end;
                        let ty = &<$ty as $crate::wgsl::Uniform>::TYPE;
                        $crate::wgsl::Member { name: stringify!($field), offset: start, ty }
                    }),*]
                },
            };

            fn write(&self, to: &mut [u8]) {
                let mut end = 0;
                $(
                    let [start, next] = $crate::wgsl::next_member::<$ty>(end);
                    $crate::wgsl::Uniform::write(&self.$field, &mut to[start..next]);
                    end = next;
                )*
                _ = end;
            }
        }

        impl $crate::wgsl::UniformStruct for $name {}

        impl $name {
            /// As a uniform buffer holds it.
            pub fn bytes(&self) -> Vec<u8> {
                let mut bytes = vec![0; <Self as $crate::wgsl::Uniform>::TYPE.size];
                $crate::wgsl::Uniform::write(self, &mut bytes);
                bytes
            }
        }
    };
}
pub(crate) use params;
