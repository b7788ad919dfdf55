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
    let bytes = fs::read(path).map_err(|error| wrong(path, &error.to_string()))?;
    if bytes.len() < 10 || !bytes.starts_with(b"\x93NUMPY\x01") {
        return Err(wrong(path, "is no .npy file of version 1"));
    }
    let start = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8_lossy(bytes.get(10..start).ok_or_else(|| wrong(path, "is cut short"))?);
    let unknown = || wrong(path, &format!("has a header that this program does not know: {}", header.trim()));
    let kind = between(&header, "'descr': '", "'").ok_or_else(unknown)?;
    if !header.contains("'fortran_order': False") || !["<f4", "<f8", "<i8", "|u1"].contains(&kind) {
        return Err(unknown());
    }
    let shape = between(&header, "'shape': (", ")").and_then(numbers).ok_or_else(unknown)?;
    array(shape, &bytes[start..], kind, path)
}

/// A stage by its name. A large one, of which the file holds a sample, is refused: it is there to be compared with, not
/// to compute from.
pub fn read_stage(folder: &Path, name: &str) -> Result<Array> {
    let path = folder.join("manifest.json");
    let manifest = fs::read_to_string(&path).map_err(|error| wrong(&path, &error.to_string()))?;
    if !manifest.contains("\"format\": \"musiq_ref fixture\"") || !manifest.contains("\"version\": 1,") {
        return Err(wrong(&path, "is of no fixture of version 1"));
    }
    let file = folder.join(format!("stages/{name}.npy"));
    let stage = manifest.split_once(&format!("\"name\": \"{name}\"")).map(|(_, rest)| rest);
    match stage.and_then(|rest| between(rest, "\"sample\": ", ",")) {
        Some("null") => read_npy(&file),
        Some(_) => Err(wrong(&file, "holds a sample of the stage only; start from an earlier one, or from image.npy")),
        None => Err(wrong(&file, "is no stage of the manifest")),
    }
}

pub fn read_weight(folder: &Path, name: &str) -> Result<Array> {
    let path = folder.join("weights.safetensors");
    let bytes = fs::read(&path).map_err(|error| wrong(&path, &error.to_string()))?;
    let cut = || wrong(&path, "is cut short, or damaged");
    let (length, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let header = String::from_utf8_lossy(rest.get(..length).ok_or_else(cut)?);
    let about = between(&header, &format!("\"{name}\":{{"), "}").filter(|about| about.contains("\"dtype\":\"F32\""));
    let about = about.ok_or_else(|| {
        let why = "those it has are named in manifest.json, as dparams/…";
        wrong(&path, &format!("has no float32 parameter {name}; {why}"))
    })?;
    let shape = between(about, "\"shape\":[", "]").and_then(numbers).ok_or_else(cut)?;
    let places = between(about, "\"data_offsets\":[", "]").and_then(numbers).ok_or_else(cut)?;
    let [from, to] = places[..] else { return Err(cut()) };
    array(shape, rest[length..].get(from..to).ok_or_else(cut)?, "<f4", &path)
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

fn array(shape: Vec<usize>, bytes: &[u8], kind: &str, path: &Path) -> Result<Array> {
    let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
    match decode(bytes, kind) {
        Some(values) if Some(values.len()) == count => Ok(Array { shape, values }),
        _ => Err(wrong(path, "is cut short, or longer than its shape says")),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect()
}

fn wrong(path: &Path, why: &str) -> Error {
    Error::other(format!("{}: {why}", path.display()))
}
