// The fixture format (docs/fixture-format.md) for Node.js, without dependencies.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "<i8": BigInt64Array, "|u1": Uint8Array };

/** The manifest, of a format and version that this program knows. */
export function readManifest(folder) {
  const path = join(folder, "manifest.json");
  const manifest = parsed(read(path).toString("utf8"), path);
  if (manifest?.format !== "musiq_ref fixture" || manifest.version !== 1) {
    throw new Error(`${path}: is of no fixture of version 1`);
  }
  return manifest;
}

/** {shape, data} of a .npy file; data is a typed array, last axis fastest, integers as numbers. */
export function readNpy(path) {
  const bytes = read(path);
  if (bytes.toString("latin1", 0, 7) !== "\x93NUMPY\x01") throw new Error(`${path}: is no .npy file of version 1`);
  const start = bytes.length < 10 ? Infinity : 10 + bytes.readUInt16LE(8);
  if (start > bytes.length) throw new Error(`${path}: is cut short`);
  const header = bytes.toString("latin1", 10, start);
  const type = /'descr': '([^']*)'/.exec(header)?.[1];
  const axes = /'shape': \(([\d, ]*)\)/.exec(header)?.[1];
  if (!Object.hasOwn(TYPES, type) || axes === undefined || !header.includes("'fortran_order': False")) {
    throw new Error(`${path}: has a header that this program does not know: ${header.trim()}`);
  }
  const shape = axes.split(",").filter((n) => n.trim()).map(Number);
  const values = typed(TYPES[type], bytes.subarray(start), shape, path);
  return { shape, data: type === "<i8" ? Float64Array.from(values, Number) : values };
}

/** A stage by its name. A large one, of which the file holds a sample, is refused: it is there to be compared with, not
    to compute from. */
export function readStage(folder, name) {
  const stage = readManifest(folder).stages?.find((s) => s.name === name);
  if (!stage) throw new Error(`${join(folder, "manifest.json")}: has no stage ${name}`);
  if (stage.sample !== null) {
    throw new Error(`${join(folder, stage.file)}: holds a sample of the stage only; start from an earlier one, or from image.npy`);
  }
  return readNpy(join(folder, stage.file));
}

/** A function that gives a parameter, {shape, data}, by its name. */
export function readWeights(folder) {
  const path = join(folder, "weights.safetensors");
  const bytes = read(path);
  const start = bytes.length < 8 ? Infinity : 8 + Number(bytes.readBigUInt64LE(0));
  if (start > bytes.length) throw new Error(`${path}: is cut short`);
  const header = parsed(bytes.toString("utf8", 8, start), path);
  return (name) => {
    const { dtype, shape, data_offsets: place } = header?.[name] ?? {};
    if (dtype !== "F32") {
      throw new Error(`${path}: has no float32 parameter ${name}; those it has are named in manifest.json, as dparams/…`);
    }
    return { shape, data: typed(Float32Array, bytes.subarray(start).subarray(...place), shape, path) };
  };
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

function read(path) {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Error(`${path}: cannot be read (${error.message.split(",")[0]})`);
  }
}

function parsed(text, path) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${path}: is cut short, or damaged`);
  }
}

function typed(Type, bytes, shape, path) {
  if (bytes.length !== shape.reduce((a, b) => a * b, Type.BYTES_PER_ELEMENT)) {
    throw new Error(`${path}: is cut short, or longer than its shape says`);
  }
  return new Type(Uint8Array.from(bytes).buffer); // a copy, because typed arrays must be aligned
}
