//! A port of one stage, to start from: the first LayerNorm of the encoder.
//!
//! rustc --edition 2021 -O port.rs
//! ./port FIXTURE OUT          writes OUT/encoder/block_00/norm1.npy
//! ./port 1e-4 FIXTURE OUT     with another ε, to see a comparison fail
mod fixture;

use fixture::{read_npy, read_stage, read_weight, write_stage, Array};
use std::{env, error::Error, path::Path, process::ExitCode};

fn layer_norm(x: &Array, scale: &Array, bias: &Array, eps: f64) -> Result<Array, Box<dyn Error>> {
    let width = scale.values.len();
    if width == 0 || x.shape.last() != Some(&width) || bias.values.len() != width {
        return Err("the input of the norm is not as wide as its scale and bias".into());
    }
    let values = x.values.chunks(width).flat_map(|row| {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let rho = 1.0 / (variance + eps).sqrt();
        row.iter().enumerate().map(move |(i, v)| scale.values[i] * (v - mean) * rho + bias.values[i])
    });
    Ok(Array { shape: x.shape.clone(), values: values.collect() })
}

fn main() -> ExitCode {
    match port() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn port() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (eps, folder, out) = match &arguments[..] {
        [folder, out] => (1e-6, Path::new(folder), Path::new(out)),
        [eps, folder, out] => (eps.parse().map_err(|_| format!("{eps}: is no ε"))?, Path::new(folder), Path::new(out)),
        _ => return Err("name the folder of a fixture, and one to write into".into()),
    };
    let path = folder.join("image.npy");
    let image = read_npy(&path)?;
    let [height, width, _] = image.shape[..] else { return Err(format!("{}: is no image", path.display()).into()) };
    let mask = read_stage(folder, "mask")?.values;
    let valid = mask.iter().filter(|&&m| m != 0.0).count();
    println!("image {height} x {width}, {valid} of {} tokens are valid", mask.len());

    let name = "encoder/block_00/norm1";
    let x = read_stage(folder, "encoder/input")?;
    let scale = read_weight(folder, &format!("{name}/scale"))?;
    let bias = read_weight(folder, &format!("{name}/bias"))?;
    write_stage(out, name, &layer_norm(&x, &scale, &bias, eps)?)?;
    Ok(())
}
