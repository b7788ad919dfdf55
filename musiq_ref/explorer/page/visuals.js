// What the stations show besides strips: tables, the hash grid, feature maps, splits and sums.

function scale_table() {
  const head = h("tr", {}, ...["size", "pixels", "patches", "tokens"].map((word) => h("th", { scope: "col" }, word)));
  const rows = picture.scales.map(({ longer_side, width, height, columns, rows, kept }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, longer_side ? `longer side ${longer_side}` : "native"),
      h("td", {}, `${width}×${height}`),
      h("td", {}, `${columns}×${rows}`),
      h("td", {}, kept),
    ),
  );
  return [h("table", { class: "plain" }, h("thead", {}, head), h("tbody", {}, rows))];
}

/** The G × G table of places: how many patches share each cell, and which is the chosen one's. */
function hash_grid() {
  if (config.spatial === "none") return [];
  const G = config.grid_size,
    counts = new Array(G * G).fill(0),
    cell = state.token === CLASS ? -1 : facts.hash_index[state.token];
  facts.hash_index.forEach((place) => counts[place]++);
  const most = Math.max(...counts),
    size = 20;
  const squares = counts.map((count, i) =>
    s(
      "rect",
      {
        x: (i % G) * size + 1,
        y: Math.floor(i / G) * size + 1,
        width: size - 2,
        height: size - 2,
        class: i === cell ? "cell lit" : "cell",
        style: `--share:${count / most}`,
      },
      s("title", {}, `row ${Math.floor(i / G)}, column ${i % G}: ${count} patches`),
    ),
  );
  const words =
    cell < 0
      ? "The class token has no place."
      : `Row ${Math.floor(cell / G)}, column ${cell % G} of ${G}×${G}: the place of ${counts[cell] > 1 ? `${counts[cell]} patches, whatever their size` : "this patch alone"}.`;
  const grid = s("svg", { viewBox: `0 0 ${G * size} ${G * size}`, class: "hash", role: "img", "aria-label": words }, ...squares);
  return [h("figure", { class: "visual" }, grid, h("figcaption", {}, words))];
}

const STEM_MAPS = { conv_root: "first filters, 7×7", pool: "strongest of each neighbourhood", output: "what leaves the stem" };
const STEM_STEPS = {
  conv_root: "7×7 filters", gn_root: "GroupNorm", relu_root: "ReLU", pool: "max-pool",
  conv1: "1×1", gn1: "GroupNorm", relu1: "ReLU", conv2: "3×3", gn2: "GroupNorm", relu2: "ReLU", conv3: "1×1", gn3: "GroupNorm",
  conv_proj: "shortcut 1×1", gn_proj: "its GroupNorm", sum: "sum", output: "ReLU",
};

/** One stage of the stem for the chosen patch: a small map a filter. */
async function feature_map(name, label) {
  const token = Math.max(0, state.token),
    { back } = state,
    { shape: [, side, , C], data } = await ask("of_patch", { name: `stem/${name}`, token, back }),
    many = C > 64 ? 32 : 16,
    columns = many * side;
  const most = data.map(Math.abs).sort()[Math.floor(0.99 * data.length)];
  const at = (i) => {
    const x = i % columns,
      y = Math.floor(i / columns);
    return { x: x % side, y: y % side, c: Math.floor(y / side) * many + Math.floor(x / side) };
  };
  const flat = (i) => (at(i).y * side + at(i).x) * C + at(i).c,
    words = (i) => `${label}, filter ${at(i).c} at row ${at(i).y}, column ${at(i).x}`;
  const show_at = (i, now) =>
    (now ? show_sum : show_sum_calmly)({ name: `stem/${name}`, start: token * data.length, back, place: words(i) }, flat(i), data[flat(i)]);
  const box = cells({
    columns,
    count: data.length,
    zoom: 8,
    every: side,
    kind: "maps",
    label: `${label}: ${C} maps of ${side} by ${side}`,
    paint: (i) => colour(data[flat(i)], most),
    words: (i) => `${words(i)}: ${shown(data[flat(i)])}`,
    told: show_at,
  });
  const strongest = [...data.keys()].reduce((best, i) => (Math.abs(data[flat(i)]) > Math.abs(data[flat(best)]) ? i : best), 0);
  box.show_largest = () => box.point(strongest, true);
  return h("figure", { class: "vector" }, h("figcaption", {}, h("b", {}, label), ` ${C} filters, ${side}×${side}`), box);
}

/** The stem in three maps; and every step of it, for the expert. */
async function stem_maps() {
  if (config.stem === "linear") return [h("p", {}, "This model has no stem: its patches go straight on.")];
  const maps = Object.entries(STEM_MAPS).map(([name, label]) => feature_map(name, label)),
    step = (name) =>
      h("button", { class: "pill", "aria-pressed": state.step === name, onclick: () => go({ step: name, steps: true }) }, STEM_STEPS[name]);
  const every = h(
    "details",
    { class: "more", open: state.steps, ontoggle: (event) => (state.steps = event.target.open) },
    h("summary", {}, "Every step of the stem"),
    h("div", { class: "row steps", role: "group", "aria-label": "steps of the stem" }, ...Object.keys(STEM_STEPS).map(step)),
    await feature_map(state.step, `stem/${state.step}`),
  );
  return [...(await Promise.all(state.back ? maps.reverse() : maps)), every];
}

/** How a gradient splits at a residual join and adds again, for the chosen token: lengths of vectors. */
async function residual_split(after, block, branch) {
  const D = config.width,
    start = (state.token + 1) * D,
    b = `encoder/block_${two(block)}`;
  const incoming = after === "output" ? `${b}/output` : `${b}/residual1`;
  const outgoing =
    after === "output" ? `${b}/residual1` : block === 0 ? "encoder/input" : `encoder/block_${two(block - 1)}/output`;
  const [before, joined] = [await slice(incoming, start, D, true), await slice(outgoing, start, D, true)];
  const length = (x) => Math.hypot(...x),
    through = joined.map((value, i) => value - before[i]);
  const [a, c, d] = [length(before), length(through), length(joined)],
    most = Math.max(a, c, d) || 1;
  const pipe = (path, size, label, x, y, anchor = "middle") => [
    s("path", { d: path, class: "pipe", "stroke-width": 2 + (14 * size) / most }),
    s("text", { x, y, class: "label", "text-anchor": anchor }, `${label} ${shown(size)}`),
  ];
  const drawing = s(
    "svg",
    {
      viewBox: "0 0 420 150",
      class: "split",
      role: "img",
      "aria-label": `gradient ${shown(a)} splits: straight ${shown(a)}, through the ${branch} ${shown(c)}; together ${shown(d)}`,
    },
    ...pipe("M10 60H110", a, "arrives", 4, 36, "start"),
    ...pipe("M110 60C150 20 270 20 310 60", a, "straight past", 210, 20),
    ...pipe("M110 60C150 130 270 130 310 60", c, `through the ${branch}`, 210, 142),
    ...pipe("M310 60H410", d, "leaves", 416, 36, "end"),
  );
  return [
    h(
      "figure",
      { class: "visual" },
      drawing,
      h(
        "figcaption",
        {},
        `Lengths of the gradient of ${token_label(state.token)}. The two paths add as vectors, so the sum may be longer or shorter than either.`,
      ),
    ),
  ];
}

function distribution_chart() {
  const shares = facts.distribution;
  if (!shares) return [];
  const most = Math.max(...shares),
    wide = 400 / shares.length;
  return [
    h(
      "figure",
      { class: "visual" },
      s(
        "svg",
        { viewBox: "0 0 400 120", class: "chart", role: "img", "aria-label": "distribution of scores" },
        ...shares.map((share, k) =>
          s(
            "rect",
            {
              x: k * wide + 1,
              y: 100 - (90 * share) / most,
              width: Math.max(1, wide - 2),
              height: (90 * share) / most,
              class: "column",
            },
            s("title", {}, `score ${k + 1}: ${(100 * share).toFixed(1)} %`),
          ),
        ),
      ),
      h("figcaption", {}, `How likely each score 1 … ${shares.length} is; the score is their mean.`),
    ),
  ];
}
