// The same for gradients inside attention.
"use strict";

BACKWARD.push(
  [
    /^(encoder\/block_\d+)\/attention\/out$/,
    (m, [, b], [, n, j]) => ({
      formula: "a sum hands its gradient on",
      equation: "Eq. 3, backward",
      source: SOURCE.residual1_back,
      terms: [term("d residual1", row_of(m.gradient(`${b}/residual1`), n)[j])],
    }),
  ],
  [
    /^(encoder\/block_\d+)\/attention\/heads$/,
    (m, [, b], [, h, n, d]) => ({
      formula: "dSA = dy·U_mᵀ",
      equation: "Eq. 9, backward",
      source: SOURCE.linear_back,
      terms: m.changes.heads.includes(`${b.slice(8)}/${h}`)
        ? []
        : linear_back_terms(
            row_of(m.gradient(`${b}/attention/out`), n),
            params_at(m, b).attention.out.kernel,
            h * (m.config.width / m.config.heads) + d,
          ),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/attention\/value$/,
    (m, [, b], [, h, k, d]) => {
      const weights = m.stage(`${b}/attention/weights`),
        dheads = m.gradient(`${b}/attention/heads`),
        N = weights.shape[2];
      return {
        formula: "dV = Aᵀ·dSA",
        equation: "Eq. 8, backward",
        source: SOURCE.value_back,
        terms: Array.from({ length: N }, (_, q) =>
          term(
            `A·dSA of ${token_name(q)}`,
            row_of(weights, h * N + q)[k] * row_of(dheads, h * N + q)[d],
            row_of(weights, h * N + q)[k],
            row_of(dheads, h * N + q)[d],
          ),
        ),
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/weights$/,
    (m, [, b], [, h, q, k]) => {
      const dheads = m.gradient(`${b}/attention/heads`),
        value = m.stage(`${b}/attention/value`),
        N = value.shape[2];
      return {
        formula: "dA = dSA·Vᵀ",
        equation: "Eq. 8, backward",
        source: SOURCE.weights_back,
        terms: Array.from(row_of(dheads, h * N + q), (g, d) =>
          term(`dSA[${d}]·v[${d}]`, g * row_of(value, h * N + k)[d], g, row_of(value, h * N + k)[d]),
        ),
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/logits$/,
    (m, [, b], [, h, q, k]) => {
      const N = m.stage(`${b}/attention/weights`).shape[2],
        p = row_of(m.stage(`${b}/attention/weights`), h * N + q);
      const dp = row_of(m.gradient(`${b}/attention/weights`), h * N + q),
        along = dp.reduce((sum, d, i) => sum + d * p[i], 0);
      return {
        formula: "dx = A·(dA − Σ dA·A)",
        equation: "Eq. 7, backward",
        source: SOURCE.softmax_back,
        terms: [term("A·dA", p[k] * dp[k], p[k], dp[k]), term("−A·Σ dA·A", -p[k] * along, p[k], -along)],
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/(query|key)$/,
    (m, [, b, part], [, h, n, d]) => {
      const dlogits = m.gradient(`${b}/attention/logits`),
        other = m.stage(`${b}/attention/${part === "query" ? "key" : "query"}`);
      const [, , N, D_h] = other.shape,
        scale = 1 / Math.sqrt(D_h),
        is_query = part === "query";
      const one = (t) => (is_query ? row_of(dlogits, h * N + n)[t] : row_of(dlogits, h * N + t)[n]);
      return {
        formula: is_query ? "dQ = dlogits·K/√D_h" : "dK = dlogitsᵀ·Q/√D_h",
        equation: "Eq. 7, backward",
        source: is_query ? SOURCE.query_back : SOURCE.key_back,
        terms: Array.from({ length: N }, (_, t) =>
          term(
            `dlogit·${is_query ? "k" : "q"} of ${token_name(t)}`,
            one(t) * row_of(other, h * N + t)[d] * scale,
            one(t),
            row_of(other, h * N + t)[d],
            scale,
          ),
        ),
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/norm1$/,
    (m, [, b], [, n, j]) => ({
      formula: "dx = dQ·W_qᵀ + dK·W_kᵀ + dV·W_vᵀ",
      equation: "Eq. 6, backward",
      source: SOURCE.project_back,
      terms: ["query", "key", "value"].flatMap((part) =>
        linear_back_terms(
          row_of(join_heads(m.gradient(`${b}/attention/${part}`)), n),
          params_at(m, b).attention[part].kernel,
          j,
        ).map((t) => ({ ...t, label: `${part}: ${t.label}` })),
      ),
    }),
  ],
);
