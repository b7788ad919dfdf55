// A station in the panel, and what the expert sees of it.

/** A strip that is no stage of its own: one stage minus another. */
function difference(name, without, label, note) {
  const at = of_patch(name, label, note);
  return { ...at, minus: without, why: "A row of the table, looked up and added." };
}

/** What each cell of the class token adds to the score. */
function contributions() {
  return {
    label: "× its weight",
    note: "what each adds",
    name: null,
    why: "A cell of the class token times its weight; the sum of all, and the bias, is the score.",
    values: async () => {
      const [y, kernel] = [await slice("head/class_token", 0, config.width), await ask("params", "head/kernel")];
      return y.map((value, i) => value * kernel.data[i]);
    },
  };
}

/** The strips of a station as elements, forward or as gradients. */
async function strips_of(at) {
  const wanted = (at.strips?.() ?? []).filter(({ name, minus }) => (name && !minus) || !state.back);
  return Promise.all(
    (state.back ? wanted.reverse() : wanted).map(async (about) => {
      let values = about.values ? await about.values() : await slice(about.name, about.start, about.count, state.back);
      if (about.minus) {
        const before = await slice(about.minus, about.start, about.count);
        values = values.map((value, i) => value - before[i]);
      }
      return strip(values, { ...about, name: about.minus ? null : about.name, back: state.back });
    }),
  );
}

/** A station: words, what there is to see, strips, and the way on. */
async function station_view(at) {
  const i = STATIONS.indexOf(at),
    step = state.back ? -1 : 1,
    next = STATIONS[i + step],
    before = STATIONS[i - step];
  const number = state.back ? STATIONS.length - i : i + 1;
  const words = (state.back ? at.reverse : at.words)();
  const visual = await (at.visual?.() ?? []),
    strips = await strips_of(at);
  const turned = state.back ? { view: "predict", back: false } : { view: "reverse", ...TURNED },
    turn = pill(state.back ? "Now predict first" : "Now backwards ↺", () => go(turned), { class: "pill strong" });
  const other = at.block && state.block + step;
  const block = (at.id === "mlp") !== state.back && other >= 0 && other < config.layers,
    go_deeper = () => go({ block: other, station: state.back ? "mlp" : "attention" });
  return [
    h(
      "p",
      { class: "step" },
      `${state.back ? "backwards, " : ""}station ${number} of ${STATIONS.length}${at.block ? ` · block ${state.block + 1} of ${config.layers}` : ""}`,
    ),
    h("h2", { id: "title", tabindex: -1 }, state.back ? at.back_title : at.title),
    ...words.map((sentence) => h("p", {}, sentence)),
    only_class_matters(at) ? class_hint() : null,
    ...[visual].flat(2),
    ...(at.block
      ? [
          h(
            "details",
            { class: "more", open: state.expert || state.back || at.id === "mlp" },
            h("summary", {}, `The ${strips.length} vectors of ${token_label(state.token)} on the way`),
            ...strips,
          ),
        ]
      : strips),
    h(
      "details",
      { class: "more", open: state.expert, ontoggle: (event) => (state.expert = event.target.open) },
      h("summary", {}, "For the expert"),
      expert_table(at),
    ),
    h(
      "nav",
      { class: "row onward", "aria-label": "tour" },
      before && pill(`← ${before.rail}`, () => go({ station: before.id }), { id: "before" }),
      block && pill(`block ${other + 1} of ${config.layers} →`, go_deeper, { id: "deeper" }),
      next ? pill(`${next.rail} →`, () => go({ station: next.id }), { class: "pill strong", id: "next" }) : turn,
    ),
  ].filter(Boolean);
}

/** After the last attention, only the class token is read: the gradient to all others is zero. */
function only_class_matters(at) {
  return state.back && at.id === "mlp" && state.block === config.layers - 1 && state.token !== CLASS;
}

function class_hint() {
  const choose_class = pill("Choose the class token", () => go({ token: CLASS }));
  return h(
    "p",
    { class: "hint" },
    "This token’s gradient is zero here: after the last attention nobody reads it. ",
    choose_class,
  );
}

const EQUATIONS = {
  pixels: ["x = −1 + 2·u/255", "SPEC 3", "image/tokenize.py", "normalize"],
  scales: ["y = R_rows·x·R_columnsᵀ, a Gaussian of σ = 0.5", "SPEC 3", "image/resize.py", "resize"],
  patches: ["t = min(⌊i·G/n⌋, G − 1) along both axes; hash = t_row·G + t_column", "B.1", "image/hash.py", "hash_index"],
  stem: [
    "conv 7×7/2 → GroupNorm → ReLU → max-pool → bottleneck 1×1, 3×3, 1×1 + shortcut",
    "SPEC 4",
    "model/stem.py",
    "stem",
  ],
  embedding: ["E_p = features·W + b", "Eq. 1", "model/embeddings.py", "patch_embedding"],
  place: ["E_p + E_HSE", "Eq. 2", "model/embeddings.py", "embed"],
  scale: ["z₀ = [class; E_p + E_HSE + E_SCE]", "Eq. 2", "model/embeddings.py", "embed"],
  attention: [
    "z′ = MSA(LN(z)) + z,  A = softmax(Q·Kᵀ/√D_h),  SA = A·V",
    "Eq. 3, 6–9",
    "model/attention.py",
    "attention",
  ],
  mlp: ["z″ = MLP(LN(z′)) + z′", "Eq. 4", "model/encoder.py", "mlp"],
  score: ["y = LN(z_L)[class]·W + b", "Eq. 5", "model/head.py", "head"],
};

/** Equation, shapes, source and the stage's name in the kit. */
function expert_table(at) {
  const [formula, equation, file, name] = EQUATIONS[at.id],
    N = picture.tokens,
    back = state.back;
  const rows = [
    ["equation", `${formula}   (${equation})`],
    ["NumPy", `${name}${back ? "_backward" : ""} in musiq_ref/${file}`],
    ["stage", `${back ? "gradient/" : ""}${main_stage()}`],
    [
      "shapes",
      `${N} + 1 tokens, D = ${config.width}, ${config.heads} heads of ${head_width()}, MLP ${config.mlp_width}, L = ${config.layers}, G = ${config.grid_size}, P = ${config.patch_size}`,
    ],
    ["in the console", `await musiq.${back ? "gradient" : "stage"}("${main_stage()}")`],
  ];
  return h(
    "table",
    { class: "plain" },
    h(
      "tbody",
      {},
      ...rows.map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, h("code", {}, value)))),
    ),
  );
}
