// One model and one photograph: its score, every stage and every gradient by name, and what happens if …
"use strict";

/** {"encoder/block_00/norm1/scale": array, …} as nested objects. */
function nest(flat) {
  const nested = {};
  for (const [path, value] of Object.entries(flat)) {
    const parts = path.split("/"),
      leaf = parts.pop();
    parts.reduce((at, part) => (at[part] ??= {}), nested)[leaf] = value;
  }
  return nested;
}

/** The reverse of `nest`: [path, array] of every leaf. */
function* leaves(nested, path = "") {
  if (nested.data) yield [path, nested];
  else for (const [key, value] of Object.entries(nested)) yield* leaves(value, path ? `${path}/${key}` : key);
}

/** A tap that keeps arrays by name where `wanted(name, count of values)`; of what comes a few patches at a time, all. */
function keep(store, wanted) {
  return (name, x, first = 0, all = 0) => {
    const one = all ? size_of(x.shape.slice(1)) : 0;
    if (!wanted(name, all ? all * one : x.data.length)) return x;
    if (first === 0) store.set(name, all ? array([all, ...x.shape.slice(1)], new Float32Array(all * one)) : x); // to stay
    if (all) store.get(name).data.set(x.data, first * one);
    return x;
  };
}

/** What is kept: larger arrays are computed again when somebody asks for them. */
const is_small = (name, count) => count <= 2 ** 20;

/** What a reader may change. NONE changes nothing.
 *  hidden: tokens that nobody may look at;  places: {token: hash cell};  heads: ["block_00/2", …] that say nothing;
 *  logits: {"block_00/head/query/key": what is added};  swapped: [[token, token], …] whose patches are exchanged */
const NONE = { hidden: [], places: {}, heads: [], logits: {}, swapped: [] };

/** Zeros where a head (1, H, N, D_h) or its gradient belongs to one that says nothing; x itself if all speak. */
function silence(name, x, heads) {
  const [, block] = /^encoder\/(block_\d+)\/attention\/heads$/.exec(name) ?? [],
    silent = block ? heads.filter((head) => head.startsWith(`${block}/`)) : [];
  if (!silent.length) return x;
  const one = size_of(x.shape.slice(2)),
    y = array(x.shape, x.data.slice());
  for (const head of silent) {
    const h = Number(head.split("/")[1]);
    y.data.fill(0, h * one, (h + 1) * one);
  }
  return y;
}

/** A tap that makes the changes inside the encoder. */
function changing({ heads, logits }, tap) {
  return (name, x, ...chunk) => {
    if (name.endsWith("/attention/logits"))
      for (const [key, amount] of Object.entries(logits)) {
        const [block, h, query, key_token] = key.split("/"),
          N = last(x);
        if (name === `encoder/${block}/attention/logits`) x.data[(Number(h) * N + Number(query)) * N + Number(key_token)] += amount;
      }
    return tap(name, silence(name, x, heads), ...chunk);
  };
}

const unknown = (name, what) =>
  new Error(`no ${what} is called “${name}”; names are such as patches, encoder/block_00/attention/weights, head/logits`);

/** Opens a model for one photograph at a time.  params: nested;  config: as in the checkpoint */
function session(params, config) {
  check_config(config);
  let pixels, tokens, embedded, run, gradients, token_sources;
  let values = new Map();

  /** Tokenises and embeds the pixels, and runs the rest. Returns the score. */
  function load(new_pixels) {
    const kept = new Map(),
      new_tokens = tokenize(new_pixels, config, keep(kept, () => true)); // refuses what is too elongated
    [pixels, tokens, values] = [new_pixels, new_tokens, kept];
    const [x, cache] = embed_patches(params, tokens, config, keep(values, is_small));
    embedded = { x, cache };
    return score(NONE);
  }

  /** The score with some changes; stages and gradients are from now on those of this run. */
  function score(changes = NONE) {
    changes = { ...NONE, ...changes };
    const changed = changed_tokens(changes),
      tap = changing(changes, keep(values, is_small));
    const [logits, cache] = forward_from_embedding(changed.x, params, changed.tokens, config, tap);
    const [expected, cache_score] = expected_score(logits);
    run = { changes, expected, cache, cache_score, ...changed };
    gradients = null;
    return expected.score;
  }

  function changed_tokens(changes) {
    let { x } = embedded;
    const mask = tokens.mask.slice(),
      hash_index = tokens.hash_index.slice(),
      D = last(x);
    token_sources = tokens.hash_index.map((_, i) => i);
    for (const token of changes.hidden) mask[token] = 0;
    for (const [token, cell] of Object.entries(changes.places)) hash_index[token] = cell;
    if (changes.swapped.length) x = array(x.shape, x.data.slice());
    for (const [one, other] of changes.swapped) {
      const row = x.data.slice(one * D, (one + 1) * D);
      x.data.copyWithin(one * D, other * D, (other + 1) * D);
      x.data.set(row, other * D);
      [token_sources[one], token_sources[other]] = [token_sources[other], token_sources[one]];
    }
    return { x, tokens: { ...tokens, mask, hash_index } };
  }

  /** A stage of the latest run by its name in `verify.trace`. */
  function stage(name) {
    if (name === "score") return array([1], Float32Array.of(run.expected.score));
    if (name === "probabilities" && run.expected.distribution) return run.expected.distribution;
    if (values.has(name)) return values.get(name);
    const found = new Map(),
      tap = keep(found, (other) => other === name);
    if (name.startsWith("stem/")) embed_patches(params, tokens, config, tap);
    else forward_from_embedding(run.x, params, run.tokens, config, changing(run.changes, tap));
    if (!found.has(name)) throw unknown(name, "stage");
    return found.get(name);
  }

  /** The gradient of the score to a stage; also to "image", whose values are measured in 0 … 1. */
  function gradient(name) {
    gradients ??= go_back(is_small, false).found;
    if (name === "image" && !gradients.has(name))
      gradients.set(name, tokenize_backward(gradients.get("patches"), pixels, tokens.scales, config));
    if (gradients.has(name)) return gradients.get(name);
    const { found } = go_back((other) => other === name, name.endsWith("/standardized"));
    if (!found.has(name)) throw unknown(name, "gradient");
    return found.get(name);
  }

  /** A stage of the stem, or the gradient to it, for one patch alone: every patch goes through it by itself. */
  function of_patch(name, token, back = false) {
    const found = new Map(),
      tap = (part, x) => keep(found, (other) => other === name)(`stem/${part}`, x);
    const { kernels } = embedded.cache.stem,
      patch = some(reshape(tokens.patches, ...tokens.patches.shape.slice(1)), token, 1);
    const [y, cache] = stem(patch, kernels, params.stem, back ? (part, x) => x : tap);
    if (back) {
      const dx = some(
        reshape(gradient("patch_embedding"), ...gradient("patch_embedding").shape.slice(1)),
        token_sources.indexOf(token),
        1,
      );
      const { kernel, bias } = params.patch_embedding,
        [, { x }] = linear(reshape(y, 1, kernel.shape[0]), kernel, bias);
      const dy = reshape(linear_backward(dx, { x, kernel }, false)[0], ...y.shape);
      if (name === "stem/output") return dy;
      stem_backward(dy, cache, null, tap);
    }
    if (!found.has(name)) throw unknown(name, "stage");
    return found.get(name);
  }

  /** The gradients to all parameters, nested as those are. */
  function parameter_gradients() {
    return go_back(() => false, true).params;
  }

  function go_back(wanted, want_params) {
    const found = new Map(),
      cache = { ...embedded.cache, ...run.cache };
    const tap = (name, x, ...chunk) => {
      x = keep(found, wanted)(name, x, ...chunk);
      return name === "patch_embedding" ? unswapped(x) : x;
    };
    const dropped = (name, x, ...chunk) => tap(name, silence(name, x, run.changes.heads), ...chunk);
    const { params: dparams } = backward(expected_score_backward(run.cache_score), cache, dropped, want_params);
    return { found, params: dparams };
  }

  /** The rows of a gradient back where their patches were before they were swapped. */
  function unswapped(dx) {
    const D = last(dx),
      y = array(dx.shape);
    token_sources.forEach((source, i) => y.data.set(dx.data.subarray(i * D, (i + 1) * D), source * D));
    return y;
  }

  return {
    load, score, stage, gradient, of_patch, parameter_gradients, params, config,
    names: () => [...values.keys()],
    source_of: (token) => token_sources[token],
    place_of: (token) => token_sources.indexOf(token),
    get pixels() { return pixels; },
    get changes() { return run.changes; },
    get tokens() { return run.tokens; },
    get expected() { return run.expected; },
  };
}
