//! Files that people have their tensors in and that are not read, told by their first bytes.

/// A kind of file: what it is called, and how its tensors get into a safetensors file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) found: &'static str,
    pub(super) advice: &'static str,
}

/// Bytes that are enough to tell.
pub(super) const START: u64 = 512;

const fn kind(found: &'static str, advice: &'static str) -> Option<Foreign> {
    Some(Foreign { found, advice })
}

/// The kind of file that begins with `start`; none where it may be a safetensors file or nothing tells.
pub(super) fn foreign(start: &[u8]) -> Option<Foreign> {
    // The header of a safetensors file stands behind its length and is a JSON object.
    if start.get(8) == Some(&b'{') && super::header_length(start).is_ok() {
        return None;
    }
    let contains = |word: &[u8]| start.windows(word.len()).any(|found| found == word);
    match start {
        // A local header: its length of the first file's name at 26, the name at 30.
        [b'P', b'K', 3, 4, ..] if contains(b"data.pkl") || contains(b".data/serialization_id") => TORCH,
        [b'P', b'K', 3, 4, ..] if contains(b".npy") => kind(
            "NumPy arrays (.npz)",
            "convert it: `safetensors.numpy.save_file(dict(numpy.load(\"in.npz\")), \"in.safetensors\")`",
        ),
        [b'P', b'K', 3, 4, ..] => kind(
            "a zip archive",
            "load what is in it (`.pt`, `.npz`, `.keras` …) in Python, and write its tensors with \
             `safetensors.numpy.save_file({\"query\": query, …}, \"in.safetensors\")`",
        ),
        [0x80, 2..=5, ..] => kind(
            "a pickle (an old PyTorch file, or any Python object)",
            "convert it: `safetensors.torch.save_file(torch.load(\"in.pt\", weights_only=True), \"in.safetensors\")`",
        ),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => kind(
            "a NumPy array (.npy)",
            "convert it, with the others: `safetensors.numpy.save_file({\"query\": numpy.load(\"query.npy\"), …}, \
             \"in.safetensors\")`",
        ),
        [b'G', b'G', b'U', b'F', ..] => kind(
            "a GGUF model (llama.cpp)",
            "read it with `gguf.GGUFReader` and `gguf.quants.dequantize` in Python, and write its tensors with \
             `safetensors.numpy.save_file`",
        ),
        [0x89, b'H', b'D', b'F', b'\r', b'\n', 0x1a, b'\n', ..] => kind(
            "an HDF5 file (Keras .h5)",
            "convert it: `safetensors.numpy.save_file({\"query\": h5py.File(\"in.h5\")[\"query\"][()], …}, \
             \"in.safetensors\")`",
        ),
        // ModelProto: field 1, the version, then the producer's name, the graph or the operators' version.
        [0x08, 1..=0x40, 0x12 | 0x3a | 0x42, ..] => kind(
            "an ONNX model",
            "convert its weights: `safetensors.numpy.save_file({t.name: onnx.numpy_helper.to_array(t) for t in \
             onnx.load(\"in.onnx\").graph.initializer}, \"in.safetensors\")`",
        ),
        [0x1f, 0x8b, ..] => kind("a gzip archive", "unpack it: `gunzip`"),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] if contains(b"git-lfs") => {
            kind("a pointer of Git LFS", "`git lfs pull` fetches the file itself")
        }
        [b'<', b'!' | b'h' | b'H' | b'?', ..] => {
            kind("a page of HTML or XML", "the download gave a page in place of the file: fetch the file itself")
        }
        [b'{', ..] => kind(
            "JSON text",
            "an index such as `model.safetensors.index.json` names the files that hold the tensors: give one of those",
        ),
        _ => None,
    }
}

const TORCH: Option<Foreign> = kind(
    "a PyTorch file (torch.save)",
    "convert it: `safetensors.torch.save_file(torch.load(\"in.pt\", weights_only=True), \"in.safetensors\")`",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_any_length_is_none() {
        // Lengths whose bytes are those of a pickle, JSON text and ONNX.
        for length in [0x0595_0480_u64, 0x0000_0480, 0x0012_0708, 123] {
            let mut start = length.to_le_bytes().to_vec();
            start.extend(b"{\"query\":{");
            assert_eq!(foreign(&start), None, "{length:#x}");
        }
        assert_eq!(foreign(&[0; 512]), None);
        assert_eq!(foreign(b""), None);
    }
}
