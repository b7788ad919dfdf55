// Doubt: three maps that claim to show what mattered, side by side, and the same for weights that know nothing.

/** Spearman's rank correlation of two lists. */
function rank_correlation(a, b) {
  const ranks = (values) => {
    const order = [...values.keys()].sort((i, j) => values[i] - values[j]),
      rank = new Float64Array(values.length);
    for (let i = 0; i < order.length;) {
      let j = i;
      while (j + 1 < order.length && values[order[j + 1]] === values[order[i]]) j++;
      for (let k = i; k <= j; k++) rank[order[k]] = (i + j) / 2;
      i = j + 1;
    }
    return rank;
  };
  const [x, y] = [ranks(a), ranks(b)],
    middle = (a.length - 1) / 2;
  let xy = 0,
    xx = 0,
    yy = 0;
  x.forEach((value, i) => {
    xy += (value - middle) * (y[i] - middle);
    xx += (value - middle) ** 2;
    yy += (y[i] - middle) ** 2;
  });
  return xx && yy ? xy / Math.sqrt(xx * yy) : 0;
}

const MAPS = [
  ["rollout", "Attention rollout", "where it looked"],
  ["gradient", "Gradient", "where a small change matters"],
  ["occlusion", "Occlusion", "how far the score falls when it is hidden"],
];
let doubts = null,
  drawing_maps = false;

/** One map over the largest scale of the photograph. */
function map_picture(values, label) {
  const scale = picture.scales.reduce((a, b) => (a.kept > b.kept ? a : b)),
    { rows, columns, start, kept, width, height, image } = scale,
    P = config.patch_size;
  const part = [...values.slice(start, start + kept)],
    most = largest_of(part),
    left = -same(width, P),
    top = -same(height, P);
  const drawing = s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("image", { href: image, width, height, class: "dim grey" }),
    s("image", {
      href: as_heat(part, rows, columns, (v) => colour(v, 1.25 * most)),
      x: left,
      y: top,
      width: columns * P,
      height: rows * P,
      preserveAspectRatio: "none",
      class: "crisp",
    }),
  );
  return h("figure", { class: "map" }, drawing, h("figcaption", {}, label));
}

function doubt_view() {
  const start = h(
    "button",
    {
      class: "pill strong",
      onclick: async () => {
        start.disabled = drawing_maps = true;
        const bar = h("progress", { max: 2, value: 0, "aria-label": "hiding one region after the other" });
        start.after(bar);
        const side = picture.tokens > 500 ? 4 : 6;
        await alone(async () => {
          const trained = await ask("doubt", { which: "trained", side }, (share) => (bar.value = share));
          const shuffled = await ask("doubt", { which: "shuffled", side }, (share) => (bar.value = 1 + share));
          await ask("score", state.changes);
          doubts = { trained, shuffled };
        }).finally(() => (drawing_maps = false));
        if (state.view === "doubt") go({});
      },
      disabled: drawing_maps,
    },
    doubts ? "Draw them again" : "Draw the six maps",
  );
  const row = (which, label) => [
    h("h3", {}, label, h("span", { class: "small" }, ` score ${doubts[which].score.toFixed(2)}`)),
    h(
      "div",
      { class: "maps-row" },
      ...MAPS.map(([name, title, words]) => map_picture(doubts[which][name], `${title}: ${words}`)),
    ),
  ];
  const agreement = () => {
    const r = (a, b) => minus(rank_correlation(a, b).toFixed(2)),
      { trained: t, shuffled: w } = doubts;
    const cell = (words) => h("td", {}, words);
    return h(
      "table",
      { class: "plain" },
      h("caption", {}, "Do they agree? Rank correlation over all tokens; 1 is perfect, 0 none"),
      h(
        "tbody",
        {},
        h("tr", {}, h("th", { scope: "row" }, "rollout and gradient"), cell(r(t.rollout, t.gradient))),
        h("tr", {}, h("th", { scope: "row" }, "rollout and occlusion"), cell(r(t.rollout, t.occlusion))),
        h("tr", {}, h("th", { scope: "row" }, "gradient and occlusion"), cell(r(t.gradient, t.occlusion))),
        ...MAPS.map(([name, title]) =>
          h("tr", {}, h("th", { scope: "row" }, `${title}: as it is, and shuffled`), cell(r(t[name], w[name]))),
        ),
      ),
    );
  };
  return [
    h("h2", {}, "Doubt"),
    h(
      "p",
      {},
      "Three maps are often shown as “what the model saw”. If each showed what mattered, they would agree. And if a map looks as convincing for weights that were shuffled, it shows the photograph more than the model.",
    ),
    start,
    ...(doubts
      ? [
          ...row("trained", "The model"),
          ...row("shuffled", "The same weights, shuffled: it knows nothing"),
          agreement(),
          h(
            "p",
            {},
            "A map that is evenly orange says: everywhere. One that looks much the same in both rows says little about what was learned. Attention says where information was taken from, not whether it was liked; the gradient speaks of tiny changes only; hiding a region makes a picture the model has never seen.",
          ),
        ]
      : []),
  ];
}
