//! Which device computes.

use std::cell::OnceCell;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use regard::device::DeviceKind;
use regard::device::Features;
use regard::gpu::{Adapter, Open};
use regard::{Cpu, Device, Error, Gpu};

use crate::failure::{Failure, Outcome};
use crate::kept;
use crate::output::note;

/// Options that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArgs {
    /// What computes: `auto` is a hardware GPU if there is one, else the CPU; `gpu` is any adapter, hardware first,
    /// a software driver if need be
    #[arg(long, global = true, env = "REGARD_DEVICE", value_enum, default_value_t, value_name = "DEVICE")]
    pub(crate) device: Choice,
    /// Only adapters with this in their name, driver or backend (`regard info` lists them)
    #[arg(long, global = true, env = "REGARD_ADAPTER", value_name = "SUBSTRING")]
    pub(crate) adapter: Option<String>,
    /// Use cooperative matrices where the adapter lists some that fit (`regard info` shows them); experimental in wgpu
    #[arg(long, global = true)]
    pub(crate) cooperative: bool,
    /// Shaders without run-time checks of indices and loops, where they are proved not to need any; the results are the same
    #[arg(long, global = true)]
    pub(crate) trusted: bool,
    /// Leave features alone though the adapter has them: the results are the same, by other kernels
    #[arg(long, global = true, value_enum, value_delimiter = ',', value_name = "FEATURES")]
    pub(crate) without: Vec<Rung>,
    /// Run a dispatch in parts if a slow device of its kind would take longer for it, in milliseconds, so that no driver
    /// takes the device for hung and a desktop stays fluid; the results are the same to the bit
    #[arg(long, global = true, env = "REGARD_LONGEST_DISPATCH", default_value_t = 500, value_name = "MS")]
    pub(crate) longest_dispatch: u32,
    /// Plan by the built-in table, whatever `regard tune` has measured
    #[arg(long, global = true, env = "REGARD_NO_TUNE", value_parser = FalseyValueParser::new())]
    pub(crate) no_tune: bool,
    /// What was opened, and the pipelines that it started with.
    #[arg(skip)]
    opened: OnceCell<(Gpu, Option<Vec<u8>>)>,
}

/// A feature that kernels come with and without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Rung {
    /// f16 in storage buffers.
    F16,
    /// Subgroup operations.
    Subgroups,
    /// Cooperative matrices.
    Cooperative,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Choice {
    /// A hardware GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// Any adapter.
    Gpu,
    /// The CPU.
    Cpu,
}

impl Choice {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        }
    }
}

/// Refuses a path that was asked for where the CPU computes: paths are ways through the GPU's kernels.
pub(crate) fn refuse_path(device: &Device, is_asked_for: bool) -> Outcome {
    match device {
        Device::Cpu(_) if is_asked_for => {
            let reason = "chooses among GPU kernels, which the CPU does not run: use `--device gpu`";
            let hint = "`--device gpu` takes a software driver too; without `--path` the CPU computes";
            Err(Failure::from(Error::option("path", reason)).with_hint(hint))
        }
        _ => Ok(()),
    }
}

/// The device for `--json`.
pub(crate) fn device_json(device: &Device) -> serde_json::Value {
    match device {
        Device::Gpu(gpu) => adapter_json(gpu.adapter()),
        Device::Cpu(cpu) => {
            serde_json::json!({ "kind": "cpu", "instructions": cpu.instructions(), "threads": cpu.thread_count() })
        }
    }
}

/// An adapter for `--json`.
pub(crate) fn adapter_json(adapter: &Adapter) -> serde_json::Value {
    serde_json::json!({
        "kind": "gpu",
        "adapter": adapter.name,
        "driver": adapter.driver,
        "backend": adapter.backend,
        "type": adapter.kind.to_string(),
    })
}

impl DeviceArgs {
    /// The `--adapter` that was asked for.
    pub(crate) fn adapter(&self) -> Option<&str> {
        self.adapter.as_deref().filter(|name| !name.is_empty())
    }

    /// Opens the device, and says which it is where that was left open and it is no hardware GPU.
    pub(crate) fn open(&self) -> Outcome<Device> {
        let device = self.open_quietly()?;
        if self.device == Choice::Auto {
            match &device {
                Device::Gpu(gpu) if gpu.adapter().kind != DeviceKind::Software => {}
                Device::Gpu(_) => note(&format!("computing on {device}")),
                Device::Cpu(_) => {
                    note(&format!("no hardware GPU, computing on {device} (`--device gpu` takes a software driver)"));
                }
            }
        }
        Ok(device)
    }

    /// Opens an adapter, hardware first, software too: for commands that are about adapters.
    pub(crate) fn open_adapter(&self) -> Outcome<Gpu> {
        self.open_gpu(&self.wanted()).map_err(|error| self.fail(error))
    }

    /// Opens an adapter with the cached choices, rates and pipelines of earlier runs.
    fn open_gpu(&self, open: &Open) -> regard::Result<Gpu> {
        let mut pipelines = None;
        let gpu = Gpu::open_with(open, |adapter| {
            let kept = kept::load(adapter, !self.no_tune);
            pipelines.clone_from(&kept.pipelines);
            kept
        })?;
        let gpu = gpu.with_longest_dispatch(Duration::from_millis(self.longest_dispatch.into()));
        // A command opens one adapter.
        let _ = self.opened.set((gpu.clone(), pipelines));
        Ok(gpu)
    }

    /// Keeps what this run leaves for later ones.
    pub(crate) fn keep(&self) {
        if let Some((gpu, pipelines)) = self.opened.get() {
            kept::save_pipelines(gpu, pipelines.as_deref());
        }
    }

    /// The adapter and features that were asked for.
    fn wanted(&self) -> Open {
        Open {
            adapter: self.adapter().map(str::to_owned),
            cooperative: self.cooperative,
            without: self.without(),
            trusted: self.trusted,
            ..Open::default()
        }
    }

    /// The features to leave alone.
    pub(crate) fn without(&self) -> Features {
        Features {
            f16: self.without.contains(&Rung::F16),
            subgroups: self.without.contains(&Rung::Subgroups),
            cooperative: self.without.contains(&Rung::Cooperative),
        }
    }

    fn open_quietly(&self) -> Outcome<Device> {
        match self.device {
            Choice::Cpu => Ok(Device::Cpu(Cpu::new())),
            Choice::Gpu => Ok(Device::Gpu(self.open_adapter()?)),
            Choice::Auto => {
                // An adapter that is asked for by name is taken though it be software.
                let named = self.adapter().is_some();
                match self.open_gpu(&Open { hardware_only: !named, ..self.wanted() }) {
                    Ok(gpu) => Ok(Device::Gpu(gpu)),
                    Err(error) => {
                        if named || !matches!(error, Error::NoAdapter(_)) {
                            note(&error.to_string());
                        }
                        Ok(Device::Cpu(Cpu::new()))
                    }
                }
            }
        }
    }

    /// A name that fits none of the adapters there are needs another name, not another driver.
    fn fail(&self, error: Error) -> Failure {
        match (&error, self.adapter()) {
            (Error::NoAdapter(_), Some(wanted)) => {
                unknown_name(wanted, &Gpu::adapters()).unwrap_or_else(|| error.into())
            }
            _ => error.into(),
        }
    }
}

/// The failure of a name that fits no adapter, unless there are none at all.
pub(crate) fn unknown_name(wanted: &str, adapters: &[Adapter]) -> Option<Failure> {
    let names: Vec<String> = adapters.iter().map(ToString::to_string).collect();
    let reason = format!("none is called `{wanted}`; there are: {}", names.join("; "));
    let hint = "give a part of a name, driver or backend; `regard info` without `--adapter` shows them all";
    (!names.is_empty()).then(|| Failure::from(Error::option("adapter", reason)).with_hint(hint))
}

/// Keeps Mesa's device-select layer from complaining on standard error, once for every look at the adapters, that a
/// machine without a desktop has no `XDG_RUNTIME_DIR`.
#[allow(unsafe_code)]
pub(crate) fn quiet_loader() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this runs first thing in `main`, when there is no other thread that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
