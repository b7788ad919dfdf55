// The fixture format (docs/fixture-format.md) for Node.js, without dependencies.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "<i8": BigInt64Array, "|u1": Uint8Array };

/** The manifest, of a format and version that this program knows. */
export function readManifest(folder) {
  const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  if (manifest.format !== "musiq_ref fixture" || manifest.version !== 1) {
    throw new Error(`${folder}: is no musiq_ref fixture of version 1`);
  }
  return manifest;
}

/** {shape, data} of a .npy file; data is a typed array, last axis fastest, integers as numbers. */
export function readNpy(path) {
  const bytes = readFileSync(path);
  if (bytes.toString("latin1", 0, 6) !== "\x93NUMPY" || bytes[6] !== 1) throw new Error(`${path}: is no .npy file of version 1`);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  const type = /'descr': '([^']*)'/.exec(header)?.[1];
  const axes = /'shape': \(([^)]*)\)/.exec(header)?.[1];
  if (!(type in TYPES) || axes === undefined || !header.includes("'fortran_order': False")) {
    throw new Error(`${path}: has a header that this program does not know: ${header.trim()}`);
  }
  const shape = axes.split(",").filter((n) => n.trim()).map(Number);
  const values = typed(TYPES[type], bytes.subarray(start), path);
  if (values.length !== shape.reduce((a, b) => a * b, 1)) throw new Error(`${path}: is cut short`);
  return { shape, data: type === "<i8" ? Array.from(values, Number) : values };
}

/** A stage by its name. A large one of a suite, of which the file holds a sample, is refused: it is there to be compared
    with, not to compute from. */
export function readStage(folder, name) {
  const stage = readManifest(folder).stages.find((s) => s.name === name);
  if (!stage) throw new Error(`${folder}: has no stage ${name}`);
  if (stage.sample !== null) {
    throw new Error(`${join(folder, stage.file)}: holds a sample of the stage only; start from image.npy and the weights`);
  }
  return readNpy(join(folder, stage.file));
}

/** All parameters: {name: {shape, data}}. */
export function readWeights(folder) {
  const path = join(folder, "weights.safetensors");
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const weights = {};
  for (const [name, about] of Object.entries(JSON.parse(bytes.toString("utf8", 8, start)))) {
    if (name === "__metadata__") continue;
    if (about.dtype !== "F32") throw new Error(`${path}: ${name} is ${about.dtype}, not F32`);
    const [from, to] = about.data_offsets;
    weights[name] = { shape: about.shape, data: typed(Float32Array, bytes.subarray(start + from, start + to), path) };
  }
  return weights;
}

/** Writes float32 values as OUT/NAME.npy, which `musiq-ref compare` reads. */
export function writeStage(out, name, shape, data) {
  const path = join(out, `${name}.npy`);
  mkdirSync(dirname(path), { recursive: true });
  const axes = shape.map((n) => `${n},`).join(" ");
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${axes}), }`;
  const header = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`;
  const start = Buffer.from(`\x93NUMPY\x01\x00..${header}`, "latin1");
  start.writeUInt16LE(header.length, 8);
  writeFileSync(path, Buffer.concat([start, Buffer.from(Float32Array.from(data).buffer)]));
}

function typed(Type, bytes, path) {
  if (bytes.length % Type.BYTES_PER_ELEMENT) throw new Error(`${path}: is cut short`);
  return new Type(Uint8Array.from(bytes).buffer); // a copy, because typed arrays must be aligned
}
