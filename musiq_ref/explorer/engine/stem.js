// The stem, a few patches at a time: every patch goes through it by itself. Beside musiq_ref/model/stem.py.
"use strict";

const ROOT_EPS = 1e-6,
  BLOCK_EPS = 1e-4,
  CHUNK = 8; // CHUNK: patches whose features fit into the processor's cache
const CONVOLUTIONS = ["conv_root", "conv_proj", "conv1", "conv2", "conv3"];

/** Root convolution, pooling and one bottleneck with a projected shortcut.  (N, P, P, 3) -> (N, P/4, P/4, 256) */
function stem(patches, kernels, params, tap) {
  const cache = {};
  const keep = (name, [y, cache_y]) => {
    cache[name] = cache_y;
    return tap(name, y);
  };
  const conv = (name, x, stride = 1) => keep(name, convolution(x, kernels[name], stride));
  const norm = (name, x, eps = BLOCK_EPS) => keep(name, group_norm(x, params[name].scale, params[name].bias, eps));
  const rectify = (name, x) => keep(name, relu(x));

  let x = conv("conv_root", patches, 2); // (N, P/2, P/2, 64)
  x = rectify("relu_root", norm("gn_root", x, ROOT_EPS));
  x = keep("pool", max_pool(x)); // (N, P/4, P/4, 64)

  const shortcut = norm("gn_proj", conv("conv_proj", x)); // (N, P/4, P/4, 256)
  x = rectify("relu1", norm("gn1", conv("conv1", x))); // (N, P/4, P/4, 64)
  x = rectify("relu2", norm("gn2", conv("conv2", x))); // (N, P/4, P/4, 64)
  x = norm("gn3", conv("conv3", x)); // (N, P/4, P/4, 256)
  return [rectify("output", tap("sum", add(x, shortcut))), cache];
}

/** The lines of `stem` from the last to the first. Adds the gradients of the parameters to dparams, if there is one. */
function stem_backward(dy, cache, dparams, tap) {
  const more = (name, leaf, gradient) => {
    const part = (dparams[name] ??= {});
    part[leaf] = part[leaf] ? add(part[leaf], gradient) : gradient;
  };
  const conv_backward = (name, dy) => {
    const [dx, dkernel] = convolution_backward(tap(name, dy), cache[name], dparams !== null);
    if (dparams) more(name, "kernel", dkernel);
    return dx;
  };
  const norm_backward = (name, dy) => {
    const [dx, dscale, dbias] = group_norm_backward(tap(name, dy), cache[name]);
    if (dparams) (more(name, "scale", dscale), more(name, "bias", dbias));
    return dx;
  };
  const rectify_backward = (name, dy) => relu_backward(tap(name, dy), cache[name]);

  const dsum = tap("sum", rectify_backward("output", dy));
  let dx = conv_backward("conv3", norm_backward("gn3", dsum));
  dx = conv_backward("conv2", norm_backward("gn2", rectify_backward("relu2", dx)));
  dx = conv_backward("conv1", norm_backward("gn1", rectify_backward("relu1", dx)));
  dx = add(dx, conv_backward("conv_proj", norm_backward("gn_proj", dsum))); // both branches read the pooled features

  dx = max_pool_backward(tap("pool", dx), cache.pool);
  dx = norm_backward("gn_root", rectify_backward("relu_root", dx));
  return conv_backward("conv_root", dx);
}

const standardized = new WeakMap(); // what does not depend on the photograph is computed once

/** Every convolution's standardised kernel, and its cache; tap sees the kernels. */
function standardized_kernels(params, ddof, tap) {
  if (!standardized.has(params)) {
    const pairs = CONVOLUTIONS.map((name) => [name, standardize(params[name].kernel, ddof)]);
    standardized.set(params, [0, 1].map((i) => Object.fromEntries(pairs.map(([name, pair]) => [name, pair[i]]))));
  }
  const [kernels, caches] = standardized.get(params);
  return [Object.fromEntries(CONVOLUTIONS.map((name) => [name, tap(`${name}/standardized`, kernels[name])])), caches];
}

/** Some patches of many: (N, …) -> (count, …), the same numbers. */
function some(x, first, count) {
  const [, ...rest] = x.shape,
    values = size_of(rest);
  return array([count, ...rest], x.data.subarray(first * values, (first + count) * values));
}

/** The features of all patches. tap gets arrays of a few patches, with the number of the first and of all.
 *  Nothing is kept for the backward, which computes it again: at 400×600 pixels it would be 200 MB. */
function features(patches, params, config, tap) {
  const N = patches.shape[0];
  if (config.stem === "linear") return [patches, null];
  const [kernels, caches] = standardized_kernels(params, config.conventions.weight_std_ddof, (name, x) =>
    tap(name, x, 0, 0),
  );
  const P = config.patch_size / 4,
    y = array([N, P, P, 256]);
  for (let first = 0; first < N; first += CHUNK) {
    const part = some(patches, first, Math.min(CHUNK, N - first)),
      tap_part = (name, x) => tap(name, x, first, N);
    y.data.set(briefly(() => stem(part, kernels, params, tap_part))[0].data, first * P * P * 256);
  }
  return [y, { patches, params, kernels, caches }];
}

/** Returns [dpatches, dparams]; dparams is null where it is not wanted. */
function features_backward(dy, cache, tap, want_params) {
  if (cache === null) return [dy, want_params ? {} : null]; // the linear stem has no parameters
  const { patches, params, kernels, caches } = cache,
    N = patches.shape[0],
    dpatches = array(patches.shape);
  const dparams = want_params ? {} : null,
    values = size_of(patches.shape.slice(1));
  for (let first = 0; first < N; first += CHUNK) {
    const count = Math.min(CHUNK, N - first);
    const back = () => {
      const [, cache_part] = stem(some(patches, first, count), kernels, params, (name, x) => x);
      return stem_backward(some(dy, first, count), cache_part, dparams, (name, x) => tap(name, x, first, N));
    };
    dpatches.data.set((want_params ? back() : briefly(back)).data, first * values); // gradients of parameters stay
  }
  if (dparams)
    for (const name of CONVOLUTIONS)
      dparams[name].kernel = standardize_backward(
        tap(`${name}/standardized`, dparams[name].kernel, 0, 0),
        caches[name],
      );
  return [dpatches, dparams];
}
