//! What is kept from run to run in the user's cache folder, one pair of files for each adapter and driver: the choices
//! that `regard tune` has measured, and compiled pipelines. Files of no use are passed over.

use std::path::{Path, PathBuf};

use regard::device::Rates;
use regard::gpu::{Adapter, Kept};
use regard::plan::{self, Bucket, Tuning};
use regard::{Error, Gpu, store};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::output::note;

/// Bytes of a file that is still read: a driver's pipelines are some megabytes.
const LONGEST: u64 = 1 << 30;

/// Changes with the meaning of what is in the file.
const VERSION: u32 = 1;

/// The file of measured choices.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    adapter: String,
    driver: String,
    /// Of the whole device.
    #[serde(default)]
    rates: Option<Rates>,
    choices: Vec<Choice>,
}

#[derive(Serialize, Deserialize)]
struct Choice {
    bucket: Bucket,
    plan: plan::Choice,
}

/// Of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The folder, by the custom of the system; none where there is no home.
fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let caches = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("regard"))
}

fn tuning_file(adapter: &Adapter) -> Option<PathBuf> {
    folder().map(|folder| folder.join(format!("{}.tuning.json", adapter.key())))
}

fn pipelines_file(adapter: &Adapter) -> Option<PathBuf> {
    folder().map(|folder| folder.join(format!("{}.pipelines", adapter.key())))
}

/// What there is for an adapter; the choices only if they are `wanted`.
pub(crate) fn load(adapter: &Adapter, wanted: bool) -> Kept {
    let (tuning, rates) = if wanted { load_tuning(adapter) } else { Default::default() };
    Kept { tuning, rates, pipelines: pipelines_file(adapter).and_then(|path| store::read_whole(&path, LONGEST).ok()) }
}

/// The choices and rates for an adapter; a file that is not understood is reported and counts as none.
fn load_tuning(adapter: &Adapter) -> (Tuning, Option<Rates>) {
    let Some(path) = tuning_file(adapter) else { return Default::default() };
    let Ok(bytes) = store::read_whole(&path, LONGEST) else { return Default::default() };
    parse(&bytes).unwrap_or_else(|reason| {
        note(&format!("{} is not used: {reason}; `regard tune` makes it anew", path.display()));
        Default::default()
    })
}

/// The choices and rates in a file.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Tuning, Option<Rates>), String> {
    let damaged = |error: serde_json::Error| format!("it cannot be read ({error})");
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, not {VERSION}"));
    }
    let file: File = serde_json::from_slice(bytes).map_err(damaged)?;
    if file.rates.is_some_and(|rates| !rates.are_usable()) {
        return Err("its rates are no positive numbers".to_owned());
    }
    Ok((file.choices.into_iter().map(|choice| (choice.bucket, choice.plan)).collect(), file.rates))
}

/// Writes the choices and rates for an adapter; gives the file.
pub(crate) fn save_tuning(adapter: &Adapter, tuning: &Tuning, rates: Rates) -> Outcome<PathBuf> {
    let Some(path) = tuning_file(adapter) else {
        return Err(Failure::other("there is no cache folder: neither $XDG_CACHE_HOME nor $HOME is set"));
    };
    let file = File {
        version: VERSION,
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        rates: Some(rates),
        choices: tuning.iter().map(|(&bucket, &plan)| Choice { bucket, plan }).collect(),
    };
    let text = serde_json::to_string_pretty(&file).map_err(Failure::other)?;
    write(&path, format!("{text}\n").as_bytes()).map_err(Failure::other)?;
    Ok(path)
}

/// Writes the pipelines of a device, if they are others than it started with. They only save time: a folder that cannot be
/// written is no failure.
pub(crate) fn save_pipelines(gpu: &Gpu, before: Option<&[u8]>) {
    let data = gpu.pipeline_cache_data().filter(|data| gpu.counts().pipelines > 0 && Some(&data[..]) != before);
    if let Some((data, path)) = data.zip(pipelines_file(gpu.adapter())) {
        let _ = write(&path, &data);
    }
}

fn write(path: &Path, bytes: &[u8]) -> regard::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::file_from(folder, error))?;
    }
    store::write_whole(path, bytes)
}
