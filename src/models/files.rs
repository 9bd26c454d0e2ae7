//! The files of a model, wherever they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::store::{LONGEST_TEXT, Store, read_text};

/// The files of a model: in a folder, or in memory by their paths within it, such as `1_Pooling/config.json`.
#[derive(Debug, Clone, Copy)]
pub enum Files<'f> {
    /// A folder.
    Folder(&'f Path),
    /// In memory.
    Memory(&'f BTreeMap<String, Vec<u8>>),
}

impl<'f> Files<'f> {
    /// What stands in errors.
    pub(super) fn path(self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Memory(_) => PathBuf::from(name),
        }
    }

    pub(super) fn has(self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).exists(),
            Self::Memory(files) => files.contains_key(name),
        }
    }

    fn in_memory(self, name: &str) -> Result<&'f [u8]> {
        let found = match self {
            Self::Folder(_) => None,
            Self::Memory(files) => files.get(name),
        };
        found.map(Vec::as_slice).ok_or_else(|| Error::file(Path::new(name), "is not among the files"))
    }

    pub(super) fn text(self, name: &str) -> Result<Cow<'f, str>> {
        match self {
            Self::Folder(folder) => Ok(read_text(&folder.join(name), LONGEST_TEXT)?.into()),
            Self::Memory(_) => {
                let text = std::str::from_utf8(self.in_memory(name)?);
                Ok(text.map_err(|error| Error::file(Path::new(name), error.to_string()))?.into())
            }
        }
    }

    pub(super) fn json<T: DeserializeOwned>(self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        let mut from = serde_json::Deserializer::from_str(&text);
        serde_path_to_error::deserialize(&mut from).map_err(|error| Error::file(&self.path(name), error.to_string()))
    }

    pub(super) fn store(self, name: &str) -> Result<Store> {
        match self {
            Self::Folder(folder) => Store::open(&folder.join(name)),
            Self::Memory(_) => Store::from_bytes(name, self.in_memory(name)?),
        }
    }
}
