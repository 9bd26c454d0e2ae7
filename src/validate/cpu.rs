//! The case table on the native CPU backend, with each set of instructions that the processor has.

use std::collections::BTreeMap;

use super::case::{Case, linear_verdicts};
use super::{Row, Sample};
use crate::attention::AttentionInputs;
use crate::backend::cpu::{CpuRnn, form};
use crate::backend::{Backend, Cpu, CpuTensor, Epilogue, Reference};
use crate::baseline::{self, Verdicts};
use crate::cases::{AttentionCase, LinearCase, PrimitiveCase, RnnCase};
use crate::compare::judge;
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, Storage};
use crate::rnn::{Cell, RnnInputs};
use crate::tensor::{Array, DType};

/// What ran, and what is said of it.
type Judged = (&'static str, String, Result<Verdicts>);

/// Runs every case of the table that is a computation of a backend's: attention, recurrences, linear layers, primitives. In a
/// smaller sample with the best instructions alone. `progress` gets the numbers of cases done and of all cases.
pub fn run_on_cpu(cpu: &Cpu, sample: Sample, mut progress: impl FnMut(usize, usize)) -> Vec<Row> {
    let cases = Case::for_cpu();
    let mut levels = cpu.levels();
    if sample != Sample::All {
        levels.truncate(1);
    }
    let all = levels.len() * cases.len();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (n, mut cpu) in levels.into_iter().enumerate() {
        for (k, case) in cases.iter().enumerate() {
            progress(n * cases.len() + k, all);
            for storage in case.storages(true) {
                let (kernel, form, verdicts) = run(&mut cpu, case, storage);
                let label = format!("{kernel} {}, {form}", cpu.instructions());
                let row = rows.entry(label).or_insert_with_key(|label| Row::new(kernel, label));
                let name = format!("{} {storage}", case.name());
                row.cases += 1;
                match verdicts {
                    Err(error) => row.failures.push(format!("{name}: {error}")),
                    Ok(verdicts) => verdicts.iter().for_each(|(output, verdict)| row.add(&name, output, verdict)),
                }
            }
        }
    }
    progress(all, all);
    rows.into_values().collect()
}

fn run(cpu: &mut Cpu, case: &Case, storage: Storage) -> Judged {
    match case {
        Case::Attention(case) => {
            let form = attention_form(cpu, case).unwrap_or_default();
            ("attention", format!("{form}, {storage}"), attention(cpu, case, storage))
        }
        Case::Recurrent(case) => {
            let kernel = match case.options.cell {
                Cell::Lstm => "lstm",
                Cell::Gru { .. } => "gru",
                Cell::Rnn => "rnn",
            };
            (kernel, form::of_rnn(&case.options).to_owned(), recurrent(cpu, case, storage.element))
        }
        Case::Linear(case) => ("linear", storage.to_string(), linear(cpu, case, storage.element)),
        Case::Primitive(case) => ("primitives", "f32".to_owned(), primitive(cpu, case)),
        _ => ("none", String::new(), Err(Error::missing("a case", "a computation of a backend's"))),
    }
}

fn attention_form(cpu: &Cpu, case: &AttentionCase) -> Result<&'static str> {
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape))?;
    Ok(form::of_attention(cpu, &case.options, &problem))
}

fn attention(cpu: &mut Cpu, case: &AttentionCase, storage: Storage) -> Result<Verdicts> {
    let inputs = AttentionInputs::<CpuTensor>::stored(&case.inputs, storage)?;
    let outputs = cpu.attention(&case.options, &inputs)?.to_arrays();
    baseline::judge_attention(&case.options, &case.inputs, &outputs, storage)
}

fn recurrent(cpu: &mut Cpu, case: &RnnCase, dtype: DType) -> Result<Verdicts> {
    let network = CpuRnn::stored(cpu, &case.options, &case.stack, dtype)?;
    let outputs = cpu.rnn(&network, &RnnInputs::<CpuTensor>::stored(&case.inputs, dtype)?)?.to_arrays();
    baseline::judge_rnn(&case.options, &case.stack, &case.inputs, &outputs, dtype)
}

fn linear(cpu: &mut Cpu, case: &LinearCase, dtype: DType) -> Result<Verdicts> {
    let table = CpuTensor::stored("table", &case.table, dtype)?;
    let weight = CpuTensor::stored("weight", &case.weight, dtype)?;
    let bias = case.bias.clone().map(CpuTensor::from);
    let x = cpu.embed(&table, &Array::new(&[case.ids.len()], case.ids.clone())?)?;
    let epilogue = Epilogue { bias: bias.as_ref(), activation: case.activation, ..Epilogue::default() };
    let y = cpu.linear(&[(&x, &weight)], epilogue)?.to_array();
    linear_verdicts(case, dtype, &y)
}

fn primitive(cpu: &mut Cpu, case: &PrimitiveCase) -> Result<Verdicts> {
    let got = case.run(cpu)?;
    let oracle = case.run(&mut Reference::<f64>::default())?;
    let baseline = case.run(&mut Reference::<f32>::default())?;
    for (found, wanted) in got.integers.iter().zip(&oracle.integers) {
        if found != wanted {
            let numbers = |array: &Array<u32>| format!("{:?}", array.data());
            return Err(Error::shape("integers", "elements", numbers(wanted), numbers(found)));
        }
    }
    let judged = got.numbers.iter().zip(&oracle.numbers).zip(&baseline.numbers);
    judged
        .map(|((got, oracle), baseline)| {
            Ok(("result", judge("result", &got.to_array(), oracle, baseline, DType::F32)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under AddressSanitizer as well (`tests/sanitizer`).
    #[test]
    fn the_table_passes_on_the_cpu() {
        let rows = run_on_cpu(&Cpu::new(), Sample::All, |_, _| {});
        let failures: Vec<_> = rows.iter().flat_map(|row| &row.failures).collect();
        assert!(failures.is_empty() && rows.len() > 20, "{failures:#?}");
    }
}
