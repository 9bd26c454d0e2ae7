//! Tensor files: what they hold, what they must not, and how they are written.

use std::error::Error as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use regard::Error;
use regard::store::{FloatType, Kind, Store, save, write_whole};
use regard::tensor::Array;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A file from its header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn valid() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I32","shape":[1],"data_offsets":[8,12]}}"#;
    file(header, &[0, 0, 128, 63, 0, 0, 0, 64, 7, 0, 0, 0])
}

fn refused(bytes: &[u8]) -> String {
    match Store::from_bytes("x.safetensors", bytes) {
        Err(Error::File { path, reason }) => {
            assert_eq!(path, Path::new("x.safetensors"));
            reason.to_string()
        }
        other => panic!("expected a file error, found {other:?}"),
    }
}

/// The error behind an error is there to be asked; two errors are the same where their words are.
#[test]
fn errors_keep_their_source() {
    let path = Path::new("no such folder/x.safetensors");
    let error = Store::open(path).unwrap_err();
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(error, Error::file(path, source.to_string()));

    let text = "no JSON at all";
    let garbage = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let error = Store::from_bytes("x.safetensors", garbage).unwrap_err();
    assert!(error.source().is_some_and(|source| error.to_string().ends_with(&source.to_string())), "{error}");
    assert!(Error::missing("query", "[B, Hq, Nq, D]").source().is_none());
}

#[test]
fn a_valid_file_gives_its_tensors() {
    let store = Store::from_bytes("x.safetensors", valid()).unwrap();
    assert_eq!(store.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(store.get("a").unwrap(), Array::new(&[2], vec![1.0, 2.0]).unwrap());
    assert_eq!(store.get("b").unwrap(), Array::new(&[1], vec![7.0]).unwrap());
    assert_eq!(store.get_u32("b").unwrap(), Array::new(&[1], vec![7]).unwrap());
    assert_eq!((store.shape("a"), store.shape("c")), (Some(&[2][..]), None));
    assert_eq!((store.kind("a"), store.kind("b"), store.kind("c")), (Some(Kind::Float), Some(Kind::Integer), None));
    assert!(matches!(store.get("c"), Err(Error::Missing { tensor, .. }) if tensor == "c"));
    assert!(matches!(store.get_u32("a"), Err(Error::Shape { tensor, axis, .. }) if tensor == "a" && axis == "dtype"));
}

#[test]
fn what_a_type_cannot_hold_can_be_told() {
    let header = r#"{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"b":{"dtype":"I32","shape":[1],"data_offsets":[16,20]}}"#;
    let data = [&1e300f64.to_le_bytes()[..], &0.1f64.to_le_bytes(), &[7, 0, 0, 0]].concat();
    // Bytes, or a stream of them.
    let store = Store::read(Path::new("x.safetensors"), &file(header, &data)[..]).unwrap();
    assert_eq!(store.get_f64("a").unwrap(), Array::new(&[2], vec![1e300, 0.1]).unwrap());
    assert_eq!(store.get("a").unwrap().data(), [f32::INFINITY, 0.1]);
    assert!(matches!(store.get_f64("b"), Err(Error::Shape { tensor, axis, .. }) if tensor == "b" && axis == "dtype"));
    let rounded = |x| [FloatType::F32, FloatType::F64, FloatType::F16, FloatType::BF16].map(|dtype| dtype.rounded(x));
    assert_eq!(rounded(1e5), [1e5, 1e5, f32::INFINITY, 99_840.0]);
    assert_eq!(rounded(f32::MAX), [f32::MAX, f32::MAX, f32::INFINITY, f32::INFINITY]);
    // A known kind of file is an error of its own, with advice.
    let error = Store::from_bytes("x", &b"GGUF\x03\0\0\0"[..]).unwrap_err();
    assert!(matches!(&error, Error::Format { path, .. } if path == Path::new("x")) && error.is_request());
    assert!(error.to_string().starts_with("x: no safetensors file but a GGUF model") && error.hint().is_some());
}

#[test]
fn every_element_type_keeps_its_values() {
    let cases: [(Dtype, Vec<u8>, [f32; 2]); 12] = [
        (Dtype::F64, [1.5f64, -2.0].map(f64::to_le_bytes).concat(), [1.5, -2.0]),
        (Dtype::F16, vec![0, 0x3e, 0, 0xc0], [1.5, -2.0]),
        (Dtype::BF16, vec![0xc0, 0x3f, 0, 0xc0], [1.5, -2.0]),
        (Dtype::BOOL, vec![0, 1], [0.0, 1.0]),
        (Dtype::U8, vec![0, 255], [0.0, 255.0]),
        (Dtype::I8, vec![1, 255], [1.0, -1.0]),
        (Dtype::U16, [0u16, 65_535].map(u16::to_le_bytes).concat(), [0.0, 65_535.0]),
        (Dtype::I16, [1i16, -2].map(i16::to_le_bytes).concat(), [1.0, -2.0]),
        (Dtype::U32, [0u32, u32::MAX].map(u32::to_le_bytes).concat(), [0.0, 4_294_967_296.0]),
        (Dtype::I32, [3i32, -4].map(i32::to_le_bytes).concat(), [3.0, -4.0]),
        (Dtype::U64, [5u64, 6].map(u64::to_le_bytes).concat(), [5.0, 6.0]),
        (Dtype::I64, [7i64, -8].map(i64::to_le_bytes).concat(), [7.0, -8.0]),
    ];
    for (dtype, data, wanted) in cases {
        let view = TensorView::new(dtype, vec![1, 2], &data).unwrap();
        let bytes = safetensors::serialize([("x", view)], None).unwrap();
        let store = Store::from_bytes("x.safetensors", bytes).unwrap();
        assert_eq!(store.get("x").unwrap().data(), wanted, "{dtype}");
        assert_eq!(store.kind("x") == Some(Kind::Bool), dtype == Dtype::BOOL);
        match store.get_u32("x") {
            Ok(found) => assert!(found.data().iter().zip(wanted).all(|(&a, b)| a as f32 == b), "{dtype}"),
            Err(Error::Shape { axis, .. }) if axis == "dtype" => assert_eq!(store.kind("x"), Some(Kind::Float)),
            Err(error) => assert!(error.to_string().contains("found -") && wanted[1] < 0.0, "{dtype}: {error}"),
        }
    }
}

#[test]
fn types_that_cannot_be_read_are_named_when_asked_for() {
    let bytes = file(r#"{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#, &[0, 0]);
    let store = Store::from_bytes("x.safetensors", bytes).unwrap();
    assert_eq!((store.contains("x"), store.kind("x")), (true, None));
    assert!(matches!(store.get("x"), Err(Error::Shape { axis, .. }) if axis == "dtype"));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = valid();
    for length in 0..bytes.len() {
        refused(&bytes[..length]);
    }
    assert!(refused(&[]).contains("0 bytes"));
    assert!(refused(&[bytes, vec![0]].concat()).contains("not fully covered"));
}

#[test]
fn hostile_headers_are_refused() {
    let one = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let two = |first: &str, a: [u64; 2], second: &str, b: [u64; 2]| {
        format!(
            r#"{{"{first}":{{"dtype":"F32","shape":[1],"data_offsets":{a:?}}},"{second}":{{"dtype":"F32","shape":[1],"data_offsets":{b:?}}}}}"#
        )
    };
    let data = [0; 8];
    let cases: [(&str, Vec<u8>); 16] = [
        ("header of 2^64 − 1 bytes", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("header of 1 GB", [&(1u64 << 30).to_le_bytes()[..], b"{}"].concat()),
        ("header of 90 MB in a file of 10 bytes", [&90_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("header of 0 bytes", vec![0; 64]),
        ("header that is not UTF-8", [&4u64.to_le_bytes()[..], &[b'{', 0xff, 0xfe, b'}']].concat()),
        ("header that is not JSON", file("{\"x\":", &[])),
        ("header that is a list", file("[1,2]", &[])),
        ("overlapping offsets", file(&two("x", [0, 4], "y", [2, 6]), &data[..6])),
        ("a gap between offsets", file(&two("x", [0, 2], "y", [4, 8]), &data)),
        ("the same bytes twice", file(&two("x", [0, 4], "y", [0, 4]), &data[..4])),
        ("one name twice", file(&two("x", [0, 4], "x", [0, 4]), &data[..4])),
        ("more bytes than the shape", file(&one("[1]", 0, 8), &data)),
        ("fewer bytes than the shape", file(&one("[4]", 0, 8), &data)),
        ("offsets the wrong way round", file(&one("[1]", 4, 0), &data)),
        ("a shape that overflows", file(&one("[4294967296,4294967296,4294967296]", 0, 8), &data)),
        ("a tensor of 2^60 bytes", file(&one("[288230376151711744]", 0, 1 << 60), &data)),
    ];
    for (what, bytes) in cases {
        let reason = refused(&bytes);
        println!("{what}: {reason}");
        assert!(!reason.is_empty());
    }
    assert!(refused(&file(&two("x", [0, 4], "x", [0, 4]), &data[..4])).contains("`x`"));
    refused(&file(r#"{"x":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, &data));
    refused(&file(r#"{"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, &data));
    refused(&file(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), &data));
}

proptest! {
    #[test]
    fn changed_files_never_panic(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6), cut in 0usize..200) {
        let mut bytes = valid();
        for (at, value) in changes {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        bytes.truncate(cut.max(1));
        if let Ok(store) = Store::from_bytes("x.safetensors", bytes) {
            for name in store.names() {
                let _ = (store.get(name), store.get_u32(name));
            }
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent.safetensors"), folder.path().to_owned()] {
        assert!(matches!(Store::open(&path), Err(Error::File { path: p, .. }) if p == path));
    }
    let empty = folder.path().join("empty.safetensors");
    fs::write(&empty, []).unwrap();
    assert!(matches!(Store::open(&empty), Err(Error::File { .. })));
    // An endless device is not read to its end.
    #[cfg(unix)]
    assert!(matches!(Store::open(Path::new("/dev/zero")), Err(Error::File { .. })));
}

#[test]
fn what_is_written_is_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let a = Array::new(&[2, 2], vec![1.5, -2.0, 0.1, f32::INFINITY]).unwrap();
    let b = Array::new(&[0, 3], vec![]).unwrap();
    for (dtype, stored, tenth) in [
        (FloatType::F32, Dtype::F32, 0.1),
        (FloatType::F64, Dtype::F64, 0.1),
        (FloatType::F16, Dtype::F16, half::f16::from_f32(0.1).to_f32()),
        (FloatType::BF16, Dtype::BF16, half::bf16::from_f32(0.1).to_f32()),
    ] {
        save(&path, [("a", &a), ("b", &b)], dtype).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.get("a").unwrap().data(), [1.5, -2.0, tenth, f32::INFINITY]);
        assert_eq!(store.get("b").unwrap(), b);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("a").unwrap().dtype(), stored);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files stay behind");
}

#[test]
fn a_file_that_cannot_be_written_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    for path in [folder.path().join("absent/out.safetensors"), taken.clone()] {
        assert!(matches!(write_whole(&path, b"new"), Err(Error::File { path: p, .. }) if p == path));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let old = folder.path().join("old");
    fs::write(&old, b"old").unwrap();
    write_whole(&old, b"new").unwrap();
    assert_eq!(fs::read(&old).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn devices_and_links_are_written_through() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    write_whole(Path::new("/dev/null"), b"new").unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, b"old").unwrap();
    symlink(&file, &link).unwrap();
    write_whole(&link, b"new").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // others may read what the umask lets them
    let fresh = folder.path().join("fresh");
    fs::write(&fresh, b"").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode(), fs::metadata(&fresh).unwrap().permissions().mode());
}
