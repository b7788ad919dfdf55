// The frame of the page: tabs, rail, score, what may be done to a patch; and how it all begins.

/** What every drawing of the page has around the panel. */
function render_frame() {
  find("views").replaceChildren(...Object.entries(VIEWS).map(([view, name]) => h("button", { class: "tab", id: `view-${view}`, "aria-current": state.view === view && "page", onclick: () => go({ view, back: view === "reverse" }) }, name)));
  const shown_now = ["follow", "reverse"].includes(state.view);
  document.body.classList.toggle("back", state.back);
  document.body.classList.toggle("expert", state.expert);
  document.body.dataset.view = state.view;
  find("rail").hidden = !shown_now;
  find("rail").replaceChildren(...STATIONS.flatMap((one) => {
    const stop = h("li", { class: one.block ? "stop in-block" : "stop" }, h("button", { id: `stop-${one.id}`, "aria-current": state.station === one.id && "step", onclick: () => go({ station: one.id, key: null }) }, h("span", { class: "dot", "aria-hidden": "true" }), one.rail));
    if (one.id !== "attention") return [stop];
    const blocks = h("li", { class: "blocks" }, h("span", {}, "block"), ...Array.from({ length: config.layers }, (_, i) => h("button", { class: "pill", "aria-label": `block ${i + 1}`, "aria-pressed": state.block === i, onclick: () => go({ block: i, station: station().block ? state.station : "attention" }) }, `${i + 1}`)));
    return [blocks, stop];
  }));
  const stop = find(`stop-${state.station}`), rail = find("rail");
  if (rail.scrollWidth > rail.clientWidth) rail.scrollLeft = stop.offsetLeft - rail.clientWidth / 2; // on a phone it is a row
  const score = state.score.toFixed(2), moved = state.score - state.base;
  find("score").replaceChildren(h("span", { class: "small" }, "score"), h("span", { class: "big" }, score.replace("-", "−")), Math.abs(moved) >= 0.005 ? h("span", { class: moved > 0 ? "delta up" : "delta down" }, `${signed(moved)} from ${state.base.toFixed(2)}`) : "");
  render_actions(shown_now);
}

/** What may be done to the chosen patch. */
function render_actions(shown_now) {
  const token = state.token, { changes } = state, picking = (pick) => go({ pick: state.pick === pick ? null : pick });
  const spot = token === CLASS ? [] : [token, ...same_spot(token)], hidden = spot.length && spot.every((one) => changes.hidden.includes(one));
  const button = (words, pressed, onclick) => h("button", { class: "pill", "aria-pressed": pressed, disabled: token === CLASS, onclick }, words);
  find("actions").hidden = !shown_now;
  find("actions").replaceChildren(
    button(hidden ? "Show it again" : "Hide it", Boolean(hidden), () => change({ hidden: hidden ? changes.hidden.filter((one) => !spot.includes(one)) : [...new Set([...changes.hidden, ...spot])] })),
    button("Swap with …", state.pick === "swap", () => picking("swap")), button("Move to …", state.pick === "move", () => picking("move")),
    h("button", { class: "pill", disabled: !is_changed(), onclick: () => change(changes_none()) }, "Undo all"));
  const own = token === CLASS ? null : scale_of(token), i = own ? token - own.start : 0;
  find("where").textContent = state.pick ? `Choose the patch to ${state.pick === "swap" ? "swap with" : "move it to"}.`
    : own ? `Token ${token}: row ${Math.floor(i / own.columns)}, column ${i % own.columns} of ${own.width}×${own.height}` : "The class token, which collects the verdict";
}

/** A station: words, what there is to see, strips, and the way on. */
async function station_view(at) {
  const i = STATIONS.indexOf(at), step = state.back ? -1 : 1, next = STATIONS[i + step], before = STATIONS[i - step];
  const number = state.back ? STATIONS.length - i : i + 1;
  const words = (state.back ? at.reverse : at.words)();
  const visual = await (at.visual?.() ?? []), strips = await strips_of(at);
  const [first, ...more] = state.back ? strips : [...strips].reverse();
  const ordered = state.back ? more : more.reverse();
  const turn = !next && h("button", { class: "pill strong", onclick: () => go(state.back ? { view: "predict", back: false } : { view: "reverse", back: true }) }, state.back ? "Now predict first" : "Now backwards ↺");
  return [
    h("p", { class: "step" }, `${state.back ? "backwards, " : ""}station ${number} of ${STATIONS.length}${at.block ? ` · block ${state.block + 1} of ${config.layers}` : ""}`),
    h("h2", { id: "title", tabindex: -1 }, state.back ? at.back_title : at.title), ...words.map((sentence) => h("p", {}, sentence)),
    ...[visual].flat(2),
    first && !at.block && !["place", "scale", "score"].includes(at.id) ? first : null,
    ...(["place", "scale", "score"].includes(at.id) ? [h("div", { class: "strips" }, ...(state.back ? strips : [...ordered, first]))] : []),
    at.block ? h("details", { class: "more", open: state.expert || state.back || at.id === "mlp" }, h("summary", {}, `The ${strips.length} vectors of ${token_label(state.token)} on the way`), h("div", { class: "strips" }, ...(state.back ? strips : [...ordered, first]))) : null,
    h("details", { class: "more", open: state.expert, ontoggle: (event) => (state.expert = event.target.open) }, h("summary", {}, "For the expert"), expert_table(at)),
    h("nav", { class: "row onward", "aria-label": "tour" }, before && h("button", { class: "pill", id: "before", onclick: () => go({ station: before.id }) }, `← ${before.rail}`), next ? h("button", { class: "pill strong", id: "next", onclick: () => go({ station: next.id }) }, `${next.rail} →`) : turn),
  ].filter(Boolean);
}

const EQUATIONS = {
  pixels: ["x = −1 + 2·u/255", "SPEC 3", "image/tokenize.py", "normalize"], scales: ["y = R_rows·x·R_columnsᵀ, a Gaussian of σ = 0.5", "SPEC 3", "image/resize.py", "resize"],
  patches: ["t = min(⌊i·G/n⌋, G − 1) along both axes; hash = t_row·G + t_column", "B.1", "image/hash.py", "hash_index"], stem: ["conv 7×7/2 → GroupNorm → ReLU → max-pool → bottleneck 1×1, 3×3, 1×1 + shortcut", "SPEC 4", "model/stem.py", "stem"],
  embedding: ["E_p = features·W + b", "Eq. 1", "model/embeddings.py", "patch_embedding"], place: ["E_p + E_HSE", "Eq. 2", "model/embeddings.py", "embed"], scale: ["z₀ = [class; E_p + E_HSE + E_SCE]", "Eq. 2", "model/embeddings.py", "embed"],
  attention: ["z′ = MSA(LN(z)) + z,  A = softmax(Q·Kᵀ/√D_h),  SA = A·V", "Eq. 3, 6–9", "model/attention.py", "attention"], mlp: ["z″ = MLP(LN(z′)) + z′", "Eq. 4", "model/encoder.py", "mlp"], score: ["y = LN(z_L)[class]·W + b", "Eq. 5", "model/head.py", "head"],
};

/** Equation, shapes, source and the stage's name in the kit. */
function expert_table(at) {
  const [formula, equation, file, name] = EQUATIONS[at.id], N = picture.tokens, back = state.back;
  const rows = [["equation", `${formula}   (${equation})`], ["NumPy", `${name}${back ? "_backward" : ""} in musiq_ref/${file}`], ["stage", `${back ? "gradient/" : ""}${main_stage()}`],
    ["shapes", `${N} + 1 tokens, D = ${config.width}, ${config.heads} heads of ${head_width()}, MLP ${config.mlp_width}, L = ${config.layers}, G = ${config.grid_size}, P = ${config.patch_size}`],
    ["in the console", `await musiq.${back ? "gradient" : "stage"}("${main_stage()}")`]];
  return h("table", { class: "plain" }, h("tbody", {}, ...rows.map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, h("code", {}, value))))));
}

/** A patch was chosen in the picture. */
async function choose(token) {
  const { pick, token: chosen, changes } = state;
  if (pick && token !== CLASS && chosen !== CLASS) {
    state.pick = null;
    if (pick === "swap") return change({ swapped: [...changes.swapped, [chosen, token]] });
    return change({ places: { ...changes.places, [chosen]: facts.hash_index[token] } });
  }
  return go({ token, key: null });
}

/** A picture from a file, reduced to what this page computes in a second. */
async function open_file(file) {
  try {
    const bitmap = await createImageBitmap(file), share = Math.min(1, Math.sqrt(about.most_pixels / (bitmap.width * bitmap.height)));
    const width = Math.max(1, Math.round(bitmap.width * share)), height = Math.max(1, Math.round(bitmap.height * share));
    const context = h("canvas", { width, height }).getContext("2d");
    Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high" });
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    await load(context.getImageData(0, 0, width, height));
    say(share < 1 ? `Reduced to ${width}×${height}; the score is that of the reduced picture.` : `${width}×${height} pixels.`);
  } catch (error) {
    say(`This picture cannot be used: ${error.message}`);
  }
}

const say = (words) => (find("says").textContent = words);

/** The photographs that the page carries, as buttons. */
function render_photographs() {
  find("photographs").replaceChildren(...photographs.map(({ name, source }, i) => h("button", { class: "thumb", "aria-label": `photograph ${name}`, title: name, onclick: () => from_source(source).then(load).then(() => say(i ? "" : about.note)) }, h("img", { src: source, alt: "" }))));
}

async function from_source(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const context = h("canvas", { width: image.naturalWidth, height: image.naturalHeight }).getContext("2d", { colorSpace: "srgb" });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
}

function listen() {
  const drawing = find("drawing"), spot = (event) => {
    const area = drawing.getBoundingClientRect();
    return token_at(((event.clientX - area.left) / area.width) * 600, ((event.clientY - area.top) / area.height) * picture.height);
  };
  drawing.addEventListener("click", (event) => { const token = spot(event); if (token !== null) choose(token); });
  drawing.addEventListener("keydown", (event) => {
    const [right, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [];
    if (right === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(neighbour(state.token, right, down));
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, canvas, [role=slider]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], i = STATIONS.indexOf(station()) + (step ?? 0) * (state.back ? -1 : 1);
    if (step && STATIONS[i] && ["follow", "reverse"].includes(state.view)) go({ station: STATIONS[i].id });
    else if (event.key === "r") go({ view: state.back ? "follow" : "reverse", back: !state.back });
    else if (event.key === "Escape") go({ pick: null });
  });
  document.addEventListener("paste", (event) => { const [file] = event.clipboardData.files; if (file) open_file(file); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => { event.preventDefault(); const [file] = event.dataTransfer.files; if (file) open_file(file); });
  find("file").addEventListener("change", ({ target }) => target.files[0] && open_file(target.files[0]));
  find("svg").addEventListener("click", save_svg);
  find("png").addEventListener("click", save_png);
  find("npy").addEventListener("click", save_npy);
  find("theme").addEventListener("click", () => {
    const dark = (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    render();
  });
  addEventListener("popstate", () => { Object.assign(state, read_address()); only_patches(); render(); });
}

async function begin() {
  render_photographs();
  listen();
  await ask("open", { index, base64: find("weights").textContent.trim(), config });
  const score = await load(await from_source(photographs[0].source));
  Object.assign(state, read_address());
  say(about.note);
  await go({});
  return score;
}

/** For tests, and for the curious. */
window.musiq = {
  ready: begin().catch((error) => { say(`This page cannot compute here: ${error.message}`); throw error; }),
  get score() { return state.score; },
  get changes() { return state.changes; },
  load,
  stage: (name) => ask("stage", name),
  gradient: (name) => ask("gradient", name),
};
