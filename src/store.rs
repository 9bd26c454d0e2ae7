//! Tensor files: named arrays in the safetensors format.
//!
//! A file is a little-endian u64 (bytes of the header), a JSON header (name → element type, shape, byte range) and
//! the data. Files come from anywhere, so nothing in them is believed before it is checked: the ranges must cover the
//! data exactly, without gap or overlap, and agree with type and shape; only then is anything read from them.

mod foreign;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Cause, Error, Result};
use crate::tensor::Array;

/// Longest header read. The format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes of a text that someone wrote or a program printed: labels, sources, figures.
pub const LONGEST_TEXT: u64 = 64 << 20;

/// What the elements of a stored tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// F16, BF16, F32 or F64.
    Float,
    /// Signed or unsigned, 8 to 64 bits.
    Integer,
    /// One byte each, 0 = false.
    Bool,
}

/// The tensors of one file, kept as they were stored and converted when asked for.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte range in the file.
    range: std::ops::Range<usize>,
}

impl Store {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read or is no valid safetensors file, [`Error::Format`] when it is of another
    /// kind that is known.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, std::fs::File::open(path).map_err(|e| Error::file_from(path, e))?)
    }

    /// Reads a stream to its end; `path` stands in errors.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn read(path: &Path, mut from: impl Read) -> Result<Self> {
        let fail = |e: std::io::Error| Error::file_from(path, e);
        let mut bytes = Vec::new();
        // The first bytes tell: a file (or device) that is nothing of the kind is not read to its end.
        from.by_ref().take(foreign::START).read_to_end(&mut bytes).map_err(fail)?;
        known(path, &bytes)?;
        header_length(&bytes).map_err(|reason| Error::file(path, reason))?;
        from.read_to_end(&mut bytes).map_err(fail)?;
        Self::from_bytes(path, bytes)
    }

    /// From the content of a file; `path` stands in errors.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let (path, bytes) = (path.into(), bytes.into());
        known(&path, &bytes)?;
        match entries(&bytes) {
            Ok(entries) => Ok(Self { path, bytes, entries }),
            Err(reason) => Err(Error::file(&path, reason)),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// True when there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor's shape, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// What a tensor's elements are, if there is one of that name and its type is among those that can be read.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        kind(self.entries.get(name)?.dtype)
    }

    /// The name of a tensor's element type as the format has it, such as `BF16`, if there is one of that name.
    pub fn dtype(&self, name: &str) -> Option<String> {
        self.entries.get(name).map(|e| e.dtype.to_string())
    }

    /// A tensor as f32. F16 and BF16 are exact; F64 and integers are rounded to the nearest; bools are 0 and 1.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none of that name, [`Error::Shape`] when its type cannot be read.
    pub fn get(&self, name: &str) -> Result<Array> {
        let (entry, data) = self.find(name)?;
        let data = match entry.dtype {
            Dtype::F32 => convert(data, f32::from_le_bytes),
            Dtype::F16 => convert(data, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => convert(data, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => convert(data, |b| f64::from_le_bytes(b) as f32),
            dtype => integers(dtype, data)
                .ok_or_else(|| unreadable(name, dtype))?
                .into_iter()
                .map(|n| n as f32)
                .collect::<Vec<_>>(),
        };
        Array::new(&entry.shape, data)
    }

    /// An F64 tensor as it is stored.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none of that name, [`Error::Shape`] when it is of another type.
    pub fn get_f64(&self, name: &str) -> Result<Array<f64>> {
        let (entry, data) = self.find(name)?;
        match entry.dtype {
            Dtype::F64 => Array::new(&entry.shape, convert(data, f64::from_le_bytes)),
            dtype => Err(Error::shape(name, "dtype", "F64", dtype)),
        }
    }

    /// An integer or bool tensor, exact whatever its type; true is 1.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none of that name, [`Error::Shape`] when it is not of integers.
    pub fn get_integers(&self, name: &str) -> Result<Array<i128>> {
        let (entry, data) = self.find(name)?;
        let integers =
            integers(entry.dtype, data).ok_or_else(|| Error::shape(name, "dtype", "an integer type", entry.dtype))?;
        Array::new(&entry.shape, integers)
    }

    /// An integer or bool tensor as u32: ids, lengths, masks.
    ///
    /// # Errors
    /// As [`Store::get_integers`], and [`Error::Shape`] when an element is below 0 or above 2³² − 1.
    pub fn get_u32(&self, name: &str) -> Result<Array<u32>> {
        let integers = self.get_integers(name)?;
        let narrow =
            |&n: &i128| u32::try_from(n).map_err(|_| Error::shape(name, "values", format!("0 to {}", u32::MAX), n));
        Array::new(integers.shape(), integers.data().iter().map(narrow).collect::<Result<_>>()?)
    }

    fn find(&self, name: &str) -> Result<(&Entry, &[u8])> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Error::missing(name, format!("a tensor of this name in {}", self.path.display())))?;
        Ok((entry, &self.bytes[entry.range.clone()]))
    }
}

/// Refuses what begins like a file of another kind.
fn known(path: &Path, bytes: &[u8]) -> Result<()> {
    match foreign::foreign(&bytes[..bytes.len().min(foreign::START as usize)]) {
        Some(foreign::Foreign { found, advice }) => Err(Error::Format { path: path.to_owned(), found, advice }),
        None => Ok(()),
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => Some(Kind::Float),
        Dtype::BOOL => Some(Kind::Bool),
        dtype => integers(dtype, &[]).map(|_| Kind::Integer),
    }
}

/// The elements of an integer or bool tensor; none when it is of another type.
fn integers(dtype: Dtype, data: &[u8]) -> Option<Vec<i128>> {
    Some(match dtype {
        Dtype::BOOL => convert(data, |[b]: [u8; 1]| i128::from(b != 0)),
        Dtype::U8 => convert(data, |b| u8::from_le_bytes(b).into()),
        Dtype::I8 => convert(data, |b| i8::from_le_bytes(b).into()),
        Dtype::U16 => convert(data, |b| u16::from_le_bytes(b).into()),
        Dtype::I16 => convert(data, |b| i16::from_le_bytes(b).into()),
        Dtype::U32 => convert(data, |b| u32::from_le_bytes(b).into()),
        Dtype::I32 => convert(data, |b| i32::from_le_bytes(b).into()),
        Dtype::U64 => convert(data, |b| u64::from_le_bytes(b).into()),
        Dtype::I64 => convert(data, |b| i64::from_le_bytes(b).into()),
        _ => return None,
    })
}

fn convert<const N: usize, T>(data: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect()
}

fn unreadable(name: &str, dtype: Dtype) -> Error {
    Error::shape(name, "dtype", "F32, F16, BF16, F64, BOOL or an integer type", dtype)
}

fn header_length(bytes: &[u8]) -> std::result::Result<usize, String> {
    let Some(length) = bytes.first_chunk::<8>().copied().map(u64::from_le_bytes) else {
        return Err(format!("no safetensors file: {} bytes, the header's length alone takes 8", bytes.len()));
    };
    if !(2..=LONGEST_HEADER).contains(&length) {
        return Err(format!("no safetensors file: header of {length} bytes, allowed are 2 to {LONGEST_HEADER}"));
    }
    Ok(length as usize)
}

/// The checked header of a file.
fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, Cause> {
    let length = header_length(bytes)?;
    let header = bytes
        .get(8..8 + length)
        .ok_or_else(|| format!("truncated: header of {length} bytes in a file of {}", bytes.len()))?;
    fn invalid(e: impl std::error::Error + Send + Sync + 'static) -> Cause {
        Cause::new(format!("no valid safetensors file: {e}"), e)
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    // The parser above keeps the last of two entries of one name.
    serde_json::Deserializer::from_slice(header).deserialize_map(UniqueNames).map_err(invalid)?;
    let entry = |info: &safetensors::tensor::TensorInfo| {
        let (from, to) = info.data_offsets;
        Entry { dtype: info.dtype, shape: info.shape.clone(), range: 8 + length + from..8 + length + to }
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// Accepts a JSON object in which no name stands twice.
struct UniqueNames;

impl<'de> Visitor<'de> for UniqueNames {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<(), M::Error> {
        let mut seen = BTreeSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
            if !seen.insert(name.clone()) {
                return Err(M::Error::custom(format!("two tensors are named `{name}`")));
            }
        }
        Ok(())
    }
}

/// Element type of float tensors in a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FloatType {
    /// IEEE single precision: exact.
    #[default]
    F32,
    /// IEEE half precision, rounded to nearest even; above 65,504 infinite.
    F16,
    /// bfloat16, rounded to nearest even.
    BF16,
    /// IEEE double precision: exact.
    F64,
}

impl FloatType {
    /// What is left of a number that is written as this type.
    pub fn rounded(self, x: f32) -> f32 {
        match self {
            Self::F32 | Self::F64 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::BF16 => bf16::from_f32(x).to_f32(),
        }
    }
}

struct Output<'a> {
    array: &'a Array,
    dtype: FloatType,
}

impl View for Output<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            FloatType::F32 => Dtype::F32,
            FloatType::F16 => Dtype::F16,
            FloatType::BF16 => Dtype::BF16,
            FloatType::F64 => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.array.data().iter().copied();
        match self.dtype {
            FloatType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            FloatType::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            FloatType::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            FloatType::F64 => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.array.data().len() * self.dtype().bitsize() / 8
    }
}

/// Named arrays as the content of a safetensors file; `path` stands in errors.
///
/// # Errors
/// [`Error::File`] when the format cannot hold them.
pub fn serialize<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Array)>,
    dtype: FloatType,
) -> Result<Vec<u8>> {
    let tensors: Vec<_> = tensors.into_iter().map(|(name, array)| (name, Output { array, dtype })).collect();
    safetensors::serialize(tensors, None).map_err(|e| Error::file_from(path, e))
}

/// Writes named arrays to a safetensors file, whole or not at all.
///
/// # Errors
/// [`Error::File`] when the file cannot be written.
pub fn save<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Array)>, dtype: FloatType) -> Result<()> {
    write_whole(path, &serialize(path, tensors, dtype)?)
}

/// A file's content, if it is of at most so many bytes: what has no end, such as a device, is not read to it.
///
/// # Errors
/// [`Error::File`] when it cannot be read, or is longer.
pub fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_stream(path, std::fs::File::open(path).map_err(|e| Error::file_from(path, e))?, most)
}

/// As [`read_whole`], from a stream; `path` stands in errors.
///
/// # Errors
/// As [`read_whole`].
pub fn read_stream(path: &Path, from: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::file_from(path, e))?;
    if bytes.len() as u64 > most {
        return Err(Error::file(path, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

/// As [`read_whole`], of a text.
///
/// # Errors
/// As [`read_whole`], and for what is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_whole(path, most)?).map_err(|e| Error::file_from(path, e.utf8_error()))
}

/// Writes a file whole or not at all: into a temporary file in the same folder, then renamed. What is there and no
/// regular file (a terminal, a pipe, `/dev/null`) is written to directly.
///
/// # Errors
/// [`Error::File`] when the file cannot be written; an older file of that name is then as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::file_from(path, e);
    let existing = std::fs::metadata(path).ok();
    if existing.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(fail)?;
        return file.write_all(bytes).map_err(fail);
    }
    // Renaming would replace a symbolic link, not what it points to.
    let target = if existing.is_some() { path.canonicalize().map_err(fail)? } else { path.to_owned() };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    // The error names the temporary file too, of which the caller knows nothing.
    let bare = |e: std::io::Error| {
        let words = e.to_string().split(" at path ").next().unwrap_or_default().to_owned();
        Error::file(path, Cause::new(words, e))
    };
    let mut file = builder.prefix(".regard-").tempfile_in(folder).map_err(bare)?;
    file.write_all(bytes).map_err(fail)?;
    file.persist(&target).map_err(|e| fail(e.error))?;
    Ok(())
}
