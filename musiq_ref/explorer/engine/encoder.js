// Attention, MLP and the blocks of the encoder; beside musiq_ref/model/attention.py and encoder.py.
"use strict";

const within = (tap, part) => (name, x) => tap(`${part}/${name}`, x);

/** Head h of (1, H, N, D_h) as a matrix. */
function head_of(x, h) {
  const [, , N, D_h] = x.shape;
  return matrix(x.data, N, D_h, D_h, 1, h * N * D_h);
}

/** A product for every head, (1, H, N, …); factors(h): the two matrices of head h. */
function by_head(shape, factors) {
  const y = array(shape),
    values = size_of(shape.slice(2));
  for (let h = 0; h < shape[1]; h++) product(...factors(h), y.data.subarray(h * values, (h + 1) * values));
  return y;
}

/** (1, N, H·D_h) -> (1, H, N, D_h), and back. */
function split_heads(x, H) {
  const [, N, D] = x.shape,
    D_h = D / H,
    y = array([1, H, N, D_h]);
  for (let h = 0; h < H; h++)
    for (let n = 0; n < N; n++) y.data.set(x.data.subarray(n * D + h * D_h, n * D + (h + 1) * D_h), (h * N + n) * D_h);
  return y;
}

function join_heads(x) {
  const [, H, N, D_h] = x.shape,
    D = H * D_h,
    y = array([1, N, D]);
  for (let h = 0; h < H; h++)
    for (let n = 0; n < N; n++) y.data.set(x.data.subarray((h * N + n) * D_h, (h * N + n + 1) * D_h), n * D + h * D_h);
  return y;
}

/** One of Q, K, V for all heads                                             (Eq. 6);  (1, N, D) -> (1, H, N, D_h) */
function project(z, { kernel, bias }) {
  const [D, H, D_h] = kernel.shape,
    [y, cache] = linear(z, reshape(kernel, D, H * D_h), reshape(bias, H * D_h));
  return [split_heads(y, H), { cache, shape: kernel.shape }];
}

function project_backward(dy, { cache, shape: [D, H, D_h] }, want_params) {
  const [dz, dkernel, dbias] = linear_backward(join_heads(dy), cache, want_params);
  return [dz, want_params ? { kernel: reshape(dkernel, D, H, D_h), bias: reshape(dbias, H, D_h) } : null];
}

/** The heads side by side, times U_m                                        (Eq. 9);  (1, H, N, D_h) -> (1, N, D) */
function merge(heads, { kernel, bias }) {
  const [H, D_h, D] = kernel.shape,
    [y, cache] = linear(join_heads(heads), reshape(kernel, H * D_h, D), bias);
  return [y, { cache, shape: kernel.shape }];
}

function merge_backward(dy, { cache, shape: [H, D_h, D] }, want_params) {
  const [dside, dkernel, dbias] = linear_backward(dy, cache, want_params);
  return [split_heads(dside, H), want_params ? { kernel: reshape(dkernel, H, D_h, D), bias: dbias } : null];
}

/** y = x + M, M = 0 where both tokens are valid, else the mask's value      (Eq. 10 and 11);  valid: (N,)
 *  mask "fill": that value instead of x. Backward, both hand dy on: the softmax has made it 0 where nobody may look. */
function mask_logits(x, valid, { mask, mask_value }) {
  const N = valid.length,
    hidden = [...valid.keys()].filter((n) => !valid[n]),
    value = mask_value === "-inf" ? -Infinity : mask_value;
  if (!hidden.length) return x;
  const y = x.data.slice(),
    hide = (at) => (y[at] = mask === "fill" ? value : x.data[at] + value);
  for (let row = 0; row < y.length; row += N)
    if (!valid[(row / N) % N]) for (let k = 0; k < N; k++) hide(row + k);
    else for (const k of hidden) hide(row + k);
  return array(x.shape, y);
}

/** MSA(z) = [SA_1(z); …; SA_H(z)]·U_m,  SA = A·V,  A = softmax((Q·Kᵀ)/√D_h + M)              (Eq. 6–11) */
function attention(z, valid, params, conventions, tap) {
  const cache = {};
  let q, k, v, y;
  [q, cache.query] = project(z, params.query); // (1, H, N, D_h)
  [k, cache.key] = project(z, params.key);
  [v, cache.value] = project(z, params.value);
  [q, k, v] = [tap("query", q), tap("key", k), tap("value", v)];
  const [, H, N, D_h] = q.shape,
    scale = 1 / Math.sqrt(D_h),
    scaled = array(q.shape, q.data.map((value) => value * scale));
  const logits = tap("logits", by_head([1, H, N, N], (h) => [head_of(scaled, h), transposed(head_of(k, h))]));
  let [weights, cache_softmax] = softmax(mask_logits(logits, valid, conventions));
  weights = tap("weights", weights);
  const heads = tap("heads", by_head(q.shape, (h) => [head_of(weights, h), head_of(v, h)]));
  [y, cache.out] = merge(heads, params.out);
  Object.assign(cache, { softmax: cache_softmax, factors: { scaled, k, v, weights, scale } });
  return [tap("out", y), cache];
}

/** The lines of `attention` from the last to the first. Returns [dz, dparams]. */
function attention_backward(dy, cache, tap, want_params) {
  const { scaled, k, v, weights, scale } = cache.factors,
    dparams = {};
  let dheads, dz_v, dz_k, dz_q;
  [dheads, dparams.out] = merge_backward(tap("out", dy), cache.out, want_params);
  dheads = tap("heads", dheads);
  const dv = by_head(v.shape, (h) => [transposed(head_of(weights, h)), head_of(dheads, h)]);
  const dweights = tap(
    "weights",
    by_head(weights.shape, (h) => [head_of(dheads, h), transposed(head_of(v, h))]),
  );
  const dlogits = tap("logits", softmax_backward(dweights, cache.softmax));
  const dk = by_head(k.shape, (h) => [transposed(head_of(dlogits, h)), head_of(scaled, h)]);
  const dscaled = by_head(k.shape, (h) => [head_of(dlogits, h), head_of(k, h)]);
  const dq = array(k.shape, dscaled.data.map((value) => value * scale));
  [dz_v, dparams.value] = project_backward(tap("value", dv), cache.value, want_params);
  [dz_k, dparams.key] = project_backward(tap("key", dk), cache.key, want_params);
  [dz_q, dparams.query] = project_backward(tap("query", dq), cache.query, want_params);
  return [add(add(dz_q, dz_k), dz_v), dparams];
}

/** MLP(z) = GELU(z·W_1 + b_1)·W_2 + b_2                                     (Eq. 4) */
function mlp(z, params, conventions, tap) {
  const cache = {},
    [gelu, gelu_backward] = GELU[conventions.gelu];
  let x, y;
  [x, cache.fc1] = linear(z, params.fc1.kernel, params.fc1.bias); // (1, N, M)
  [x, cache.gelu] = gelu(tap("fc1", x));
  [y, cache.fc2] = linear(tap("gelu", x), params.fc2.kernel, params.fc2.bias);
  return [tap("fc2", y), { ...cache, gelu_backward }];
}

function mlp_backward(dy, cache, tap, want_params) {
  let [dx, dkernel_2, dbias_2] = linear_backward(tap("fc2", dy), cache.fc2, want_params); // (1, N, M)
  dx = tap("fc1", cache.gelu_backward(tap("gelu", dx), cache.gelu));
  const [dz, dkernel_1, dbias_1] = linear_backward(dx, cache.fc1, want_params);
  return [dz, { fc1: { kernel: dkernel_1, bias: dbias_1 }, fc2: { kernel: dkernel_2, bias: dbias_2 } }];
}

function norm(z, { scale, bias }) {
  return layer_norm(z, scale, bias);
}

function norm_backward(dy, cache) {
  const [dz, dscale, dbias] = layer_norm_backward(dy, cache);
  return [dz, { scale: dscale, bias: dbias }];
}

/** z′ = MSA(LN(z)) + z;  z″ = MLP(LN(z′)) + z′                              (Eq. 3 and 4) */
function block(z, valid, params, conventions, tap) {
  const cache = {};
  let x;
  [x, cache.norm1] = norm(z, params.norm1);
  [x, cache.attention] = attention(tap("norm1", x), valid, params.attention, conventions, within(tap, "attention"));
  z = tap("residual1", add(z, x));
  [x, cache.norm2] = norm(z, params.norm2);
  [x, cache.mlp] = mlp(tap("norm2", x), params.mlp, conventions, within(tap, "mlp"));
  return [tap("output", add(z, x)), cache];
}

/** The lines of `block` from the last to the first. */
function block_backward(dz, cache, tap, want_params) {
  const dparams = {};
  let dx;
  dz = tap("output", dz);
  [dx, dparams.mlp] = mlp_backward(dz, cache.mlp, within(tap, "mlp"), want_params);
  [dx, dparams.norm2] = norm_backward(tap("norm2", dx), cache.norm2);
  dz = tap("residual1", add(dz, dx));
  [dx, dparams.attention] = attention_backward(dz, cache.attention, within(tap, "attention"), want_params);
  [dx, dparams.norm1] = norm_backward(tap("norm1", dx), cache.norm1);
  return [add(dz, dx), dparams];
}

const block_names = (params) =>
  Object.keys(params)
    .filter((name) => name.startsWith("block_"))
    .sort((a, b) => Number(a.slice(6)) - Number(b.slice(6)));

/** z_L = block_L(… block_1(z_0));  y = LN(z_L)                              (Eq. 3–5) */
function encoder(z, valid, params, conventions, tap) {
  const cache = {};
  let y;
  for (const name of block_names(params))
    [z, cache[name]] = block(z, valid, params[name], conventions, within(tap, name));
  [y, cache.norm] = norm(z, params.norm);
  return [tap("norm", y), cache];
}

function encoder_backward(dy, cache, tap, want_params) {
  const dparams = {};
  let dz;
  [dz, dparams.norm] = norm_backward(tap("norm", dy), cache.norm);
  for (const name of block_names(cache).reverse())
    [dz, dparams[name]] = block_backward(dz, cache[name], within(tap, name), want_params);
  return [dz, dparams];
}
