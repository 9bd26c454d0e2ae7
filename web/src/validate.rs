//! The case table on this device.

use std::ops::ControlFlow;

use regard::Device;
use regard::validate::{Row, Sample, run_async, run_on_cpu};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::{Progress, thrown};

#[wasm_bindgen]
impl Engine {
    /// Every kernel variant against the f64 oracle: a row for each, as JSON. `sample` is `kernels`, `quick` or `all`; `progress`
    /// is called with the number of cases done and of all, and ends it with `false`. On the CPU it runs through without a pause.
    pub async fn validate(&self, sample: &str, progress: js_sys::Function) -> Result<String, JsError> {
        let sample = match sample {
            "kernels" => Sample::Kernels,
            "quick" => Sample::Quick,
            "all" => Sample::All,
            other => return Err(JsError::new(&format!("`sample` is `{other}`; kernels, quick and all are known"))),
        };
        let rows = match &self.device {
            Device::Gpu(gpu) => {
                let mut progress = Progress::new(progress);
                let tell = async |done, all| match progress.goes_on(done, all).await {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                };
                run_async(gpu, sample, tell).await.map_err(thrown)?
            }
            Device::Cpu(cpu) => run_on_cpu(cpu, sample, |done, all| {
                let _ = progress.call2(&JsValue::UNDEFINED, &done.into(), &all.into());
            }),
        };
        Ok(Value::Array(rows.iter().map(row).collect()).to_string())
    }
}

fn row(row: &Row) -> Value {
    json!({
        "kernel": row.kernel,
        "variant": row.variant,
        "cases": row.cases,
        "worst": row.worst,
        "worst_case": row.worst_case,
        "failures": row.failures,
        "unsound": row.unsound,
    })
}
