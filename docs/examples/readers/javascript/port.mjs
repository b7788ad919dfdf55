// A port of one stage, to start from: the first LayerNorm of the encoder.
//
// node port.mjs FIXTURE OUT          writes OUT/encoder/block_00/norm1.npy
// node port.mjs 1e-4 FIXTURE OUT     with another ε, to see a comparison fail
import { readNpy, readStage, readWeights, writeStage } from "./fixture.mjs";

process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(2);
});

const [out, fixture, epsilon = "1e-6"] = process.argv.slice(2).reverse();
if (!fixture) throw new Error("name the folder of a fixture, and one to write into");
if (!(Number(epsilon) >= 0)) throw new Error(`${epsilon}: is no ε`);

function layerNorm({ shape, data: x }, scale, bias, eps) {
  const width = scale.length;
  if (shape.at(-1) !== width || bias.length !== width) throw new Error("the input of the norm is not as wide as its scale and bias");
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    const values = x.subarray(row, row + width);
    const mean = values.reduce((a, b) => a + b, 0) / width;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
    values.forEach((value, i) => {
      y[row + i] = (scale[i] * (value - mean)) / Math.sqrt(variance + eps) + bias[i];
    });
  }
  return y;
}

const image = readNpy(`${fixture}/image.npy`);
if (image.shape.length !== 3) throw new Error(`${fixture}/image.npy: is no image`);
const mask = readStage(fixture, "mask").data;
console.log(`image ${image.shape[0]} x ${image.shape[1]}, ${mask.filter((m) => m).length} of ${mask.length} tokens are valid`);

const weight = readWeights(fixture);
const x = readStage(fixture, "encoder/input");
const name = "encoder/block_00/norm1";
const [scale, bias] = ["scale", "bias"].map((leaf) => weight(`${name}/${leaf}`).data);
writeStage(out, name, x.shape, layerNorm(x, scale, bias, Number(epsilon)));
