//! Devices with other limits than the usual: what does not fit is folded, or refused at the door with the number.

use regard::attention::Attention;
use regard::gpu::{Gpu, Run};
use regard::tensor::{Array, DType};
use regard::wgpu::Limits;
use regard::{Error, Tensor};

use crate::gpu::{device_with, gpu};

fn limited(limits: impl Fn(&mut Limits)) -> Gpu {
    let (device, queue) = device_with(limits);
    Gpu::from_wgpu(device, queue).unwrap()
}

/// 65,535 workgroups are WebGPU's most in one dimension.
#[test]
fn more_workgroups_than_a_dimension_holds_are_folded() {
    let gpu = gpu();
    let shape = [2100, 2100];
    let whole = Array::from_fn(&shape, |k| k as f32);
    let turned = Tensor::upload(gpu, "x", &whole, DType::F32).unwrap().permute(&[1, 0]).unwrap();
    let mut run = Run::new(gpu);
    let dense = regard::ops::linear::contiguous(&mut run, &turned).unwrap();
    let [x, y] = run.recording().dispatches().next().unwrap().grid;
    assert!(y > 1 && u64::from(x) * u64::from(y) > 65_535, "{x} × {y}");
    run.submit().unwrap();
    // Every element up to the far end, past the last full row of workgroups.
    let got = dense.download(gpu).unwrap();
    assert!(got == whole.permute(&[1, 0]).unwrap());
    assert_eq!(got.data().last(), Some(&(2100.0 * 2100.0 - 1.0)));
}

#[test]
fn what_is_too_large_or_too_many_is_named() {
    let gpu = limited(|limits| (limits.max_storage_buffer_binding_size, limits.max_buffer_size) = (64 << 10, 48 << 10));
    let error = Tensor::uninitialized(&gpu, "x", &[1 << 14], DType::F32).unwrap_err();
    assert_eq!(error, Error::Limit { what: "bytes of `x`".into(), needed: 64 << 10, allowed: 48 << 10 });
    Tensor::upload(&gpu, "x", &Array::filled(&[12 << 10], 1.0), DType::F32).unwrap().download(&gpu).unwrap();

    let gpu = limited(|limits| limits.max_storage_buffers_per_shader_stage = 4);
    let x = Tensor::upload(&gpu, "x", &Array::from_fn(&[1, 2, 5, 8], |k| k as f32), DType::F32).unwrap();
    let inputs = regard::attention::AttentionInputs::new(x.clone(), x.clone(), x);
    let error = Attention::default().run(&gpu, &inputs).unwrap_err();
    let named = |what: &str| what.starts_with("storage buffers of `");
    assert!(matches!(&error, Error::Limit { what, needed: 5.., allowed: 4 } if named(what)), "{error}");
    inputs.query.permute(&[0, 2, 1, 3]).unwrap().download(&gpu).unwrap();
}
