//! The fixture format (docs/fixture-format.md) for Rust, without crates.
//! JSON is not parsed: keys are looked for, which is enough for what our files hold.
use std::{fs, io::Error, path::Path};

/// Values with the last axis fastest; integers and bytes become floats, which hold all of ours exactly.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

type Result<T> = std::result::Result<T, Error>;

pub fn read_npy(path: &Path) -> Result<Array> {
    let bytes = fs::read(path)?;
    let unknown = || wrong(path, "is no .npy file of version 1 that this program knows");
    if bytes.len() < 10 || !bytes.starts_with(b"\x93NUMPY\x01") {
        return Err(unknown());
    }
    let start = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8_lossy(bytes.get(10..start).ok_or_else(unknown)?);
    if !header.contains("'fortran_order': False") {
        return Err(unknown());
    }
    let kind = between(&header, "'descr': '", "'").ok_or_else(unknown)?;
    let shape = numbers(between(&header, "'shape': (", ")").ok_or_else(unknown)?);
    let values = decode(&bytes[start..], kind).ok_or_else(unknown)?;
    checked(Array { shape, values }, path)
}

/// A stage by its name. A large one of a suite, of which the file holds a sample, is refused: it is there to be
/// compared with, not to compute from.
pub fn read_stage(folder: &Path, name: &str) -> Result<Array> {
    let path = folder.join("manifest.json");
    let manifest = fs::read_to_string(&path)?;
    if !manifest.contains("\"format\": \"musiq_ref fixture\"") || !manifest.contains("\"version\": 1,") {
        return Err(wrong(&path, "is of no fixture of version 1"));
    }
    let file = folder.join(format!("stages/{name}.npy"));
    let stage = manifest.split_once(&format!("\"name\": \"{name}\"")).map(|(_, rest)| rest);
    match stage.and_then(|rest| between(rest, "\"sample\": ", ",")) {
        Some("null") => read_npy(&file),
        Some(_) => Err(wrong(&file, "holds a sample of the stage only; start from image.npy and the weights")),
        None => Err(wrong(&file, "is no stage of the manifest")),
    }
}

pub fn read_weight(folder: &Path, name: &str) -> Result<Array> {
    let path = folder.join("weights.safetensors");
    let bytes = fs::read(&path)?;
    let broken = || wrong(&path, &format!("lacks {name} in float32, or is cut short"));
    let length: [u8; 8] = bytes.get(..8).and_then(|b| b.try_into().ok()).ok_or_else(broken)?;
    let start = 8 + u64::from_le_bytes(length) as usize;
    let header = String::from_utf8_lossy(bytes.get(8..start).ok_or_else(broken)?);
    let about = between(&header, &format!("\"{name}\":{{"), "}").ok_or_else(broken)?;
    if !about.contains("\"dtype\":\"F32\"") {
        return Err(broken());
    }
    let shape = numbers(between(about, "\"shape\":[", "]").ok_or_else(broken)?);
    let places = numbers(between(about, "\"data_offsets\":[", "]").ok_or_else(broken)?);
    let [from, to] = places[..] else { return Err(broken()) };
    let values = bytes.get(start + from..start + to).and_then(|b| decode(b, "<f4")).ok_or_else(broken)?;
    checked(Array { shape, values }, &path)
}

/// Writes the values as float32 into OUT/NAME.npy, which `musiq-ref compare` reads.
pub fn write_stage(out: &Path, name: &str, array: &Array) -> Result<()> {
    let path = out.join(format!("{name}.npy"));
    fs::create_dir_all(path.parent().unwrap_or(out))?;
    let axes: String = array.shape.iter().map(|n| format!("{n}, ")).collect();
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({axes}), }}");
    let header = format!("{text:<117}\n"); // 10 bytes and these are 128
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array.values.iter().flat_map(|&v| (v as f32).to_le_bytes()));
    fs::write(path, bytes)
}

fn decode(bytes: &[u8], kind: &str) -> Option<Vec<f64>> {
    Some(match kind {
        "<f4" => bytes.chunks(4).map(|b| Some(f32::from_le_bytes(b.try_into().ok()?) as f64)).collect::<Option<_>>()?,
        "<f8" => bytes.chunks(8).map(|b| Some(f64::from_le_bytes(b.try_into().ok()?))).collect::<Option<_>>()?,
        "<i8" => bytes.chunks(8).map(|b| Some(i64::from_le_bytes(b.try_into().ok()?) as f64)).collect::<Option<_>>()?,
        "|u1" => bytes.iter().map(|&b| b as f64).collect(),
        _ => return None,
    })
}

fn checked(array: Array, path: &Path) -> Result<Array> {
    let whole = array.values.len() == array.shape.iter().product::<usize>();
    if whole { Ok(array) } else { Err(wrong(path, "is cut short")) }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn numbers(text: &str) -> Vec<usize> {
    text.split(',').filter_map(|n| n.trim().parse().ok()).collect()
}

fn wrong(path: &Path, why: &str) -> Error {
    Error::other(format!("{}: {why}", path.display()))
}
