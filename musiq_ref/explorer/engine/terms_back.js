// The same for gradients: where every one of them comes from.
"use strict";

/** What a residual join adds up: the straight way, and the way through the branch and its LayerNorm. */
function join_terms(m, straight, branch, x_name, params, n, j) {
  const skip = row_of(m.gradient(straight), n)[j],
    dy = row_of(m.gradient(branch), n),
    x = row_of(m.stage(x_name), n);
  return [
    term("straight past the branch", skip),
    ...norm_back_terms(dy, x, params, j).map((t) => ({ ...t, label: `through the branch: ${t.label}` })),
  ];
}

const JOIN = "dz + dx: a sum's gradient goes to both terms; where they meet again, they add";

const BACKWARD = [
  [
    /^head\/logits$/,
    (m, _, [, c]) => ({
      formula: m.config.outputs === 1 ? "d score / d score = 1" : "dlogit_k = p_k·(k − score)",
      equation: "score",
      source: SOURCE.score_back,
      terms: [term("d score", m.gradient("head/logits").data[c])],
    }),
  ],
  [
    /^head\/class_token$/,
    (m, _, [, j]) => ({
      formula: "dx = dy·Wᵀ",
      equation: "Eq. 5, backward",
      source: SOURCE.linear_back,
      terms: linear_back_terms(m.gradient("head/logits").data, m.params.head.kernel, j),
    }),
  ],
  [
    /^encoder\/norm$/,
    (m, _, [, n, j]) => ({
      formula: "only the class token is read",
      equation: "Eq. 5, backward",
      source: SOURCE.head_back,
      terms: [term(token_name(n), n === 0 ? m.gradient("head/class_token").data[j] : 0)],
    }),
  ],
  [
    /^encoder\/block_(\d+)\/output$/,
    (m, [, i], [, n, j]) => {
      const next = Number(i) + 1;
      if (next === m.config.layers)
        return {
          formula: NORM_BACK,
          equation: "Eq. 5, backward",
          source: SOURCE.norm_back,
          terms: norm_back_terms(
            row_of(m.gradient("encoder/norm"), n),
            row_of(m.stage(input_of(next)), n),
            m.params.encoder.norm,
            j,
          ),
        };
      const b = block_at(next);
      return {
        formula: JOIN,
        equation: "Eq. 3, backward",
        source: SOURCE.block_back,
        terms: join_terms(m, `${b}/residual1`, `${b}/norm1`, input_of(next), params_at(m, b).norm1, n, j),
      };
    },
  ],
  [
    /^encoder\/input$/,
    (m, _, [, n, j]) => ({
      formula: JOIN,
      equation: "Eq. 3, backward",
      source: SOURCE.block_back,
      terms: join_terms(
        m,
        `${block_at(0)}/residual1`,
        `${block_at(0)}/norm1`,
        "encoder/input",
        params_at(m, block_at(0)).norm1,
        n,
        j,
      ),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/residual1$/,
    (m, [, b], [, n, j]) => ({
      formula: JOIN,
      equation: "Eq. 4, backward",
      source: SOURCE.residual1_back,
      terms: join_terms(m, `${b}/output`, `${b}/norm2`, `${b}/residual1`, params_at(m, b).norm2, n, j),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/fc2$/,
    (m, [, b], [, n, j]) => ({
      formula: "a sum hands its gradient on",
      equation: "Eq. 4, backward",
      source: SOURCE.residual1_back,
      terms: [term("d block output", row_of(m.gradient(`${b}/output`), n)[j])],
    }),
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/gelu$/,
    (m, [, b], [, n, j]) => ({
      formula: "dx = dy·W_2ᵀ",
      equation: "MLP in Eq. 4, backward",
      source: SOURCE.linear_back,
      terms: linear_back_terms(row_of(m.gradient(`${b}/mlp/fc2`), n), params_at(m, b).mlp.fc2.kernel, j),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/fc1$/,
    (m, [, b], [, n, j]) => {
      const dy = row_of(m.gradient(`${b}/mlp/gelu`), n)[j],
        dx = row_of(m.gradient(`${b}/mlp/fc1`), n)[j];
      return {
        formula: "dx = dy·GELU′(x)",
        equation: "MLP in Eq. 4, backward",
        source: SOURCE.gelu_back,
        terms: [term("dy·GELU′(x)", dx, dy, dx / dy)],
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/norm2$/,
    (m, [, b], [, n, j]) => ({
      formula: "dx = dy·W_1ᵀ",
      equation: "MLP in Eq. 4, backward",
      source: SOURCE.linear_back,
      terms: linear_back_terms(row_of(m.gradient(`${b}/mlp/fc1`), n), params_at(m, b).mlp.fc1.kernel, j),
    }),
  ],
  [
    /^(scale|spatial|patch)_embedding$/,
    (m, [name], [, n, j]) => ({
      formula: "a sum hands its gradient on",
      equation: "Eq. 2, backward",
      source: SOURCE.add_rows,
      terms: [term("d encoder input", row_of(m.gradient("encoder/input"), n + 1)[j])],
    }),
  ],
  [
    /^stem\/output$/,
    (m, _, place) => {
      const [n, ...rest] = place,
        shape = [m.config.patch_size / 4, m.config.patch_size / 4, 256],
        i = rest.reduce((at, index, axis) => at * shape[axis] + index, 0);
      return {
        formula: "dfeatures = dE_p·Wᵀ",
        equation: "Eq. 1, backward",
        source: SOURCE.linear_back,
        terms: linear_back_terms(
          row_of(m.gradient("patch_embedding"), m.place_of(n)),
          m.params.patch_embedding.kernel,
          i,
        ),
      };
    },
  ],
  [
    /^patches$/,
    (m, _, [, n, row, column, channel]) => {
      if (m.config.stem === "linear")
        return {
          formula: "the linear stem hands its gradient on",
          equation: "Eq. 1, backward",
          source: SOURCE.linear_back,
          terms: [],
        };
      const P = m.config.patch_size,
        half = Math.ceil(P / 2),
        dconv = m.of_patch("stem/conv_root", n, true),
        before = same_padding(P, 7, 2)[0],
        terms = [];
      const [kernel] = standardize(m.params.stem.conv_root.kernel, m.config.conventions.weight_std_ddof);
      for (let i = 0; i < half; i++)
        for (let j = 0; j < half; j++) {
          const a = row - 2 * i + before,
            b = column - 2 * j + before;
          if (a < 0 || a > 6 || b < 0 || b > 6) continue;
          const w = kernel.data.subarray(((a * 7 + b) * 3 + channel) * 64),
            d = dconv.data.subarray((i * half + j) * 64);
          for (let o = 0; o < 64; o++) terms.push(term(`window ${i},${j} · filter ${o}`, d[o] * w[o], d[o], w[o]));
        }
      return {
        formula: "every window that saw this pixel: Σ dy·ŵ",
        equation: "stem, backward",
        source: SOURCE.conv_back,
        terms,
      };
    },
  ],
  [
    /^image$/,
    (m, _, [row, column, channel]) => {
      const { scales } = m.tokens,
        { width } = m.pixels,
        dpatches = m.gradient("patches");
      return {
        formula: "2·Σ over the scales of Rᵀ·dscale",
        equation: "resize, backward",
        source: SOURCE.image_back,
        terms: scales.map((scale) =>
          term(
            scale.longer_side ? `through the scale of ${scale.height}×${scale.width}` : "through the photograph itself",
            tokenize_backward(dpatches, m.pixels, [scale], m.config).data[(row * width + column) * 3 + channel],
          ),
        ),
      };
    },
  ],
];
