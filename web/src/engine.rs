//! A device: WebGPU, or the CPU.

use regard::gpu::{Gpu, Open};
use regard::{Cpu, Device};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{parsed, thrown};

/// How a device is opened.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// `auto`, `gpu` or `cpu`.
    device: Option<String>,
    /// WebGPU's default limits and no optional feature.
    minimal: bool,
    /// Plan as for a graphics card.
    as_card: bool,
    /// Subgroup operations, which the device was asked for.
    subgroups: bool,
}

/// A device that computes.
#[wasm_bindgen]
pub struct Engine {
    pub(crate) device: Device,
    /// Why it is not a GPU, where one was looked for.
    fallback: Option<String>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens a device: options `{device: "auto" | "gpu" | "cpu", minimal, as_card}`.
    pub async fn open(options: String) -> Result<Engine, JsError> {
        let options: Options = parsed(&options)?;
        let open = Open {
            minimal: options.minimal,
            as_card: options.as_card,
            browser_subgroups: options.subgroups,
            ..Open::default()
        };
        match options.device.as_deref().unwrap_or("auto") {
            "cpu" => Ok(Self { device: Device::Cpu(Cpu::new()), fallback: None }),
            "gpu" => {
                let gpu = Gpu::open_async(&open, |_| Default::default()).await.map_err(thrown)?;
                Ok(Self { device: Device::Gpu(gpu), fallback: None })
            }
            "auto" => Ok(match Gpu::open_async(&open, |_| Default::default()).await {
                Ok(gpu) => Self { device: Device::Gpu(gpu), fallback: None },
                Err(error) => Self { device: Device::Cpu(Cpu::new()), fallback: Some(error.to_string()) },
            }),
            other => Err(JsError::new(&format!("`device` is `{other}`; auto, gpu and cpu are known"))),
        }
    }

    /// What it is, as JSON.
    pub fn describe(&self) -> String {
        match &self.device {
            Device::Gpu(gpu) => {
                let adapter = gpu.adapter();
                let caps = gpu.caps();
                json!({
                    "device": "gpu",
                    "name": adapter.name,
                    "driver": adapter.driver,
                    "backend": adapter.backend,
                    "type": adapter.kind.to_string(),
                    "f16": caps.f16,
                    "subgroups": caps.subgroups,
                    "timestamps": caps.timestamps,
                    "max_binding_bytes": caps.max_binding_bytes,
                    "max_storage_buffers": caps.max_storage_buffers,
                    "max_invocations": caps.max_invocations,
                    "max_workgroup_bytes": caps.max_workgroup_bytes,
                })
            }
            Device::Cpu(cpu) => json!({
                "device": "cpu",
                "name": cpu.to_string(),
                "instructions": cpu.instructions(),
                "fallback": self.fallback,
            }),
        }
        .to_string()
    }
}
