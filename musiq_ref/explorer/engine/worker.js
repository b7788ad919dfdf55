// The engine's end of the conversation with the page: {id, call, args} comes, {id, result} or {id, error} goes back.
"use strict";

/** Weights as the page carries them: float32, or float16 where an index says 2 bytes a value; of each array the first
 *  bytes of all values, then the second ones, …; compressed, as base64.  index: {name: [shape, bytes a value]} */
async function read_weights(index, base64) {
  const letters = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)),
    unpacking = new DecompressionStream("deflate"),
    written = new Response(unpacking.readable).arrayBuffer(), // read before all is written, or the writer would wait
    writer = unpacking.writable.getWriter();
  writer.write(letters);
  writer.close();
  const packed = new Uint8Array(await written),
    of_half = Float32Array.from({ length: 2 ** 16 }, (_, bits) => from_half(bits)),
    weights = {};
  let at = 0;
  for (const [name, [shape, wide]] of Object.entries(index)) {
    const count = size_of(shape),
      bytes = new Uint8Array(count * wide);
    for (let k = 0; k < wide; k++) for (let i = 0; i < count; i++) bytes[i * wide + k] = packed[at++];
    const { buffer } = bytes;
    weights[name] = array(shape, wide === 4 ? new Float32Array(buffer) : Float32Array.from(new Uint16Array(buffer), (half) => of_half[half]));
  }
  return weights;
}

/** The number that a float16's 16 bits stand for. */
function from_half(bits) {
  const sign = bits & 0x8000 ? -1 : 1,
    exponent = (bits >> 10) & 31,
    fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024);
}

const loaded = { trained: null, shuffled: null };
let latest = null;

const wanted = (name, back) => (back ? loaded.trained.gradient(name) : loaded.trained.stage(name));

const CALLS = {
  async open({ index, base64, config }) {
    loaded.trained = session(nest(await read_weights(index, base64)), config);
    return { how: scratch.how };
  },
  load(pixels) {
    const model = loaded.trained,
      start = performance.now(),
      score = model.load(pixels);
    latest = pixels;
    return { score, milliseconds: performance.now() - start, ...facts(model) };
  },
  score(changes) {
    return { score: loaded.trained.score(changes), ...facts(loaded.trained) };
  },
  stage: (name) => loaded.trained.stage(name),
  gradient: (name) => loaded.trained.gradient(name),
  /** Some numbers of a stage or gradient, without all the others. */
  slice({ name, start, count, back }) {
    const { shape, data } = wanted(name, back);
    return { shape, data: data.slice(start, start + count) };
  },
  of_patch: ({ name, token, back }) => loaded.trained.of_patch(name, token, back),
  /** Of every token (or row): the length of its vector. */
  norms({ name, back }) {
    const { shape, data } = wanted(name, back),
      one = data.length / shape[1];
    return Float32Array.from({ length: shape[1] }, (_, n) => Math.hypot(...data.subarray(n * one, (n + 1) * one)));
  },
  explain: ({ name, flat, back }) => explain(loaded.trained, name, flat, back),
  params: (path) => params_at(loaded.trained, path),
  rollout: () => rollout(loaded.trained),
  strength: () => gradient_strength(loaded.trained),
  /** Rollout, gradient and occlusion of the model, or of its weights shuffled. */
  doubt({ which, side }, progress) {
    if (which === "shuffled") {
      const model = (loaded.shuffled = session(shuffled(loaded.trained.params), loaded.trained.config));
      model.load(latest);
    }
    const model = loaded[which],
      score = model.score(),
      regions = coarse_regions(model.tokens.scales, side);
    const maps = { rollout: rollout(model), gradient: gradient_strength(model) },
      fall = {};
    for (const one of occlusion(model, regions)) {
      fall[one.region] = one.fall;
      progress(Object.keys(fall).length / one.of);
    }
    loaded.shuffled = null;
    return { score, ...maps, occlusion: Float32Array.from(regions, (region) => fall[region]) };
  },
};

/** What the page shows of a run besides numbers it asks for. */
function facts({ tokens: { scales, hash_index, scale_index }, expected: { distribution } }) {
  return { scales, hash_index, scale_index, distribution: distribution && [...distribution.data] };
}

async function answer({ data: { id, call, args } }) {
  try {
    postMessage({ id, result: await CALLS[call](args, (share) => postMessage({ id, progress: share })) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
}

let earlier = Promise.resolve(); // one question after the other: what is asked while weights are unpacked waits for them
if (typeof onmessage !== "undefined") onmessage = (message) => (earlier = earlier.then(() => answer(message)));
