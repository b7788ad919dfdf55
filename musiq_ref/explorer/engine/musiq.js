// The whole model, tokens to score and back to the pixels; beside musiq_ref/model/{embeddings,head,musiq}.py.
"use strict";

/** One row of E_p per patch: the features, flattened, through a linear layer     (Eq. 1) */
function patch_embedding(x, { kernel, bias }) {
  const [y, cache] = linear(reshape(x, 1, x.shape[0], kernel.shape[0]), kernel, bias);
  return [y, { shape: x.shape, cache }];
}

function patch_embedding_backward(dy, { shape, cache }, want_params) {
  const [dx, dkernel, dbias] = linear_backward(dy, cache, want_params);
  return [reshape(dx, ...shape), { kernel: dkernel, bias: dbias }];
}

/** T[p, j] = sin(p/10000^(2⌊j/2⌋/D)) for even j, cos of the same for odd j       (appendix B.2) */
function sinusoidal_table(G, D) {
  const angle = (i) => Math.floor(i / D) / 10000 ** ((2 * Math.floor((i % D) / 2)) / D);
  return array(
    [G * G, D],
    Float32Array.from({ length: G * G * D }, (_, i) => ((i % D) % 2 ? Math.cos : Math.sin)(angle(i))),
  );
}

/** z_0 = [class; E_p + E_HSE + E_SCE]                                       (Eq. 2);  x: E_p, (1, N, D) */
function embed(x, tokens, params, config, tap) {
  const cache = {},
    [, N, D] = x.shape;
  const spatial = { learnable: params.spatial_embedding?.table, sinusoidal: sinusoidal_table(config.grid_size, D) }[
    config.spatial
  ];
  const scale = config.scale_embedding ? params.scale_embedding.table : undefined;
  for (const [name, table, index] of [
    ["spatial_embedding", spatial, tokens.hash_index],
    ["scale_embedding", scale, tokens.scale_index],
  ]) {
    if (table) {
      const [rows, cache_rows] = lookup(table, index);
      x = add(x, rows);
      if (params[name]) cache[name] = cache_rows;
    }
    x = tap(name, x);
  }
  const z = array([1, 1 + N, D]);
  z.data.set(params.class_token.data);
  z.data.set(x.data, D);
  return [tap("encoder/input", z), cache];
}

function embed_backward(dz, cache, tap) {
  dz = tap("encoder/input", dz);
  const [, rows, D] = dz.shape,
    dparams = { class_token: array([D], dz.data.slice(0, D)) };
  let dx = array([1, rows - 1, D], dz.data.subarray(D));
  for (const name of ["scale_embedding", "spatial_embedding"]) {
    dx = tap(name, dx);
    if (cache[name]) dparams[name] = { table: lookup_backward(dx, cache[name]) };
  }
  return [dx, dparams];
}

/** logits = y[class]·W + b, the class token being the first                 (Eq. 5 and SPEC 4) */
function head(y, { kernel, bias }, tap) {
  const token = tap("class_token", array([1, last(y)], y.data.slice(0, last(y)))),
    [logits, cache] = linear(token, kernel, bias);
  return [tap("logits", logits), { cache, shape: y.shape }];
}

function head_backward(dlogits, { cache, shape }, tap, want_params) {
  const [dtoken, dkernel, dbias] = linear_backward(tap("logits", dlogits), cache, want_params),
    dy = array(shape);
  dy.data.set(tap("class_token", dtoken).data);
  return [dy, { kernel: dkernel, bias: dbias }];
}

/** One output: the score itself. Several: p = softmax(logits), score = Σ_k k·p_k, k = 1…C     (SPEC 4) */
function expected_score(logits) {
  const C = last(logits);
  if (C === 1) return [{ score: logits.data[0], distribution: null }, { C }];
  const [p, cache] = softmax(logits);
  return [{ score: p.data.reduce((sum, share, i) => sum + share * (i + 1), 0), distribution: p }, { C, cache }];
}

/** dlogits_k = p_k·(k − score), of the score itself */
function expected_score_backward({ C, cache }) {
  const k = array([1, C], Float32Array.from({ length: C }, (_, i) => (C === 1 ? 1 : i + 1)));
  return C === 1 ? k : softmax_backward(k, cache);
}

/** What does not depend on the places of the patches: E_p (1, N, D), and what its backward needs. */
function embed_patches(params, tokens, config, tap) {
  const [, N, ...patch] = tokens.patches.shape,
    cache = {};
  const stem_tap = (name, x, first, N) => tap(`stem/${name}`, x, first, N);
  let x;
  [x, cache.stem] = features(reshape(tap("patches", tokens.patches), N, ...patch), params.stem ?? {}, config, stem_tap);
  [x, cache.patch_embedding] = patch_embedding(x, params.patch_embedding);
  return [tap("patch_embedding", x), cache];
}

/** From E_p to the logits (1, C)                                            (Eq. 2–5) */
function forward_from_embedding(x, params, tokens, config, tap) {
  const cache = {};
  let z, y, logits;
  [z, cache.embed] = embed(x, tokens, params, config, tap);
  [y, cache.encoder] = encoder(z, [1, ...tokens.mask], params.encoder, config.conventions, within(tap, "encoder"));
  [logits, cache.head] = head(y, params.head, within(tap, "head"));
  return [logits, cache];
}

/** The logits (1, C), and what `backward` needs                             (Eq. 1–11) */
function forward(params, tokens, config, tap = (name, x) => x) {
  const [x, cache] = embed_patches(params, tokens, config, tap);
  const [logits, cache_after] = forward_from_embedding(x, params, tokens, config, tap);
  return [logits, { ...cache, ...cache_after }];
}

/** The lines of `forward` from the last to the first. Returns {params, patches}; params only where they are wanted. */
function backward(dlogits, cache, tap = (name, x) => x, want_params = false) {
  const dparams = {};
  let dy, dz, dx, dembed, dfeatures, dpatches;
  [dy, dparams.head] = head_backward(dlogits, cache.head, within(tap, "head"), want_params);
  [dz, dparams.encoder] = encoder_backward(dy, cache.encoder, within(tap, "encoder"), want_params);
  [dx, dembed] = embed_backward(dz, cache.embed, tap);
  Object.assign(dparams, dembed);
  [dfeatures, dparams.patch_embedding] = patch_embedding_backward(
    tap("patch_embedding", dx),
    cache.patch_embedding,
    want_params,
  );
  const stem_tap = (name, x, first, N) => tap(`stem/${name}`, x, first, N);
  [dpatches, dparams.stem] = features_backward(dfeatures, cache.stem, stem_tap, want_params);
  return { params: want_params ? dparams : null, patches: tap("patches", reshape(dpatches, 1, ...dpatches.shape)) };
}
