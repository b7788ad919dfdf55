// The state of the page, its address, and what follows from it.

const VIEWS = { follow: "Follow", reverse: "Reverse", predict: "Predict first", doubt: "Doubt", spoil: "Spoil" };
const state = {
  view: "follow",
  station: "pixels",
  back: false,
  block: 0,
  head: 0,
  all_heads: true,
  token: 0,
  last_patch: 0,
  key: null,
  question: 0,
  changes: changes_none(),
  score: 0,
  base: 0,
  expert: false,
  step: "gn_root", // of the stem
  steps: false,
  pick: null,
};
let facts = null,
  current = null;
const photograph = () => current;

/** Changes the state, the address and the page. */
function go(changes) {
  Object.assign(state, changes);
  only_patches();
  const address = `#${address_of()}`;
  if (address !== location.hash) history.pushState(null, "", address);
  return render();
}

/** Where only patches are, the patch that was chosen last stands for the class token. */
function only_patches() {
  if (state.token !== CLASS) state.last_patch = state.token;
  else if (["pixels", "scales", "patches", "stem", "embedding", "place"].includes(state.station)) state.token = state.last_patch;
}

/** "reverse/block_00/attention/head_1/token_37" */
function address_of() {
  if (state.view === "predict") return `predict/${state.question + 1}`;
  if (state.view === "doubt" || state.view === "spoil") return state.view;
  const at = station(),
    token = state.token === CLASS ? "class" : `token_${state.token}`;
  const where = at.block
    ? `block_${two(state.block)}/${at.id}${at.id === "attention" && !state.all_heads ? `/head_${state.head}` : ""}`
    : at.id === "stem" && state.steps
      ? `stem/${state.step}`
      : at.id;
  return `${state.back ? "reverse/" : ""}${where}/${token}`;
}

/** Where each chapter of the course is at home: #chapter_05 opens the station of chapter 05. These do not change. */
const CHAPTERS = [
  "spoil", "scales", "place", "reverse/block_00/mlp", "stem", "block_00/attention/head_0", "block_00/mlp", "reverse/score/class",
  "predict/9", "predict/6", "doubt", "reverse/block_00/attention", "embedding", "score", "pixels", "patches", "block_00/attention",
];

/** The state that an address stands for; what cannot be is left as it is. */
function read_address() {
  const hash = location.hash.slice(1),
    [, chapter] = /^chapter_(\d+)$/.exec(hash) ?? [],
    parts = (CHAPTERS[Number(chapter)] ?? hash).split("/").filter(Boolean),
    found = { view: "follow", back: false };
  for (const part of parts) {
    const [, word, number] = /^([a-z]+)_?(\d+)?$/.exec(part) ?? [],
      n = Number(number);
    if (Object.hasOwn(VIEWS, part)) Object.assign(found, { view: part, back: part === "reverse" });
    else if (word === "block" && number) found.block = Math.min(n, config.layers - 1);
    else if (word === "head" && number) Object.assign(found, { head: Math.min(n, config.heads - 1), all_heads: false });
    else if (word === "token" && number) found.token = Math.min(n, picture.tokens - 1);
    else if (part === "class") found.token = CLASS;
    else if (Object.hasOwn(STEM_STEPS, part)) Object.assign(found, { step: part, steps: true });
    else if (/^\d+$/.test(part) && found.view === "predict")
      found.question = Math.min(Math.max(Number(part), 1), QUESTIONS.length) - 1;
    else if (STATIONS.some(({ id }) => id === part)) found.station = part;
  }
  if (found.station === "attention" && !parts.some((part) => part.startsWith("head_"))) found.all_heads = true;
  return found;
}

/** Goes where the address says; what it leaves open is written into it. */
function follow_address() {
  if (!facts) return;
  Object.assign(state, read_address());
  only_patches();
  history.replaceState(null, "", `#${address_of()}`);
  return render();
}

/** Makes the reader's changes, and the score follows. */
async function change(changes) {
  const wanted = (state.changes = { ...state.changes, ...changes });
  await alone(() => wanted === state.changes && compute_changed()); // unless there is a later change, or photograph
  return go({});
}

async function compute_changed() {
  const result = await ask("score", state.changes);
  state.score = result.score;
  Object.assign(facts, result);
}

const is_changed = () => JSON.stringify(state.changes) !== JSON.stringify(changes_none());

/** A photograph for the model, {width, height, data}. One that cannot be used leaves all as it was. */
async function load(pixels) {
  const photograph = checked(pixels),
    score = await alone(() => take(photograph));
  await render();
  return score;
}

async function take(pixels) {
  const result = await ask("load", pixels);
  doubts = noticed = painted = clean_output = null;
  spoilt_now = touched = false;
  given.length = 0;
  current = pixels;
  facts = result;
  Object.assign(state, { changes: changes_none(), score: result.score, base: result.score, key: null, pick: null });
  const images = await Promise.all(
    result.scales.map(async (_, k) => as_picture(await ask("stage", `pixels/scale_${k}`))),
  );
  lay_out(result.scales, config.patch_size, images);
  const big = picture.scales.reduce((a, b) => (a.kept > b.kept ? a : b));
  if (Math.max(state.token, state.last_patch) >= picture.tokens || state.fresh !== false)
    state.token = state.last_patch = big.start + Math.floor(big.rows / 2) * big.columns + Math.floor(big.columns / 2);
  state.fresh = false;
  find("time").textContent = `${Math.round(result.milliseconds)} ms, ${picture.tokens + 1} tokens`;
  return result.score;
}

const ANY_HEAT = {
  score: () => "encoder/norm",
  mlp: () => in_block("output"),
  attention: () => in_block("residual1"),
  scale: () => "encoder/input",
  place: () => "spatial_embedding",
  embedding: () => "patch_embedding",
  stem: () => "patch_embedding",
};

/** What the picture shows now. */
async function look_now() {
  const look = {
    token: state.token,
    key: state.station === "attention" ? state.key : null,
    hidden: state.changes.hidden,
    grid: state.station !== "pixels" || state.view !== "follow",
  };
  if (state.view === "spoil")
    return {
      ...look,
      ...(noticed
        ? {
            heat: noticed.heat,
            class_heat: noticed.class_heat,
            paint: (v) => `rgba(226,114,0,${(0.85 * v).toFixed(3)})`,
          }
        : {}),
    };
  if (state.view !== "follow" && state.view !== "reverse") return look;
  if (state.token !== CLASS) {
    look.spot = same_spot(state.token);
    if (!state.back && ["patches", "place"].includes(state.station))
      look.shared = facts.hash_index.flatMap((cell, token) =>
        cell === facts.hash_index[state.token] && token !== state.token ? [token] : [],
      );
  }
  if (state.back) {
    const name = ANY_HEAT[state.station]?.(),
      norms = name ? await ask("norms", { name, back: true }) : await ask("strength");
    const sequence = norms.length === picture.tokens + 1,
      tokens = sequence ? norms.slice(1) : norms,
      most = largest_of(tokens);
    return {
      ...look,
      heat: tokens.map((value) => (most ? Math.sqrt(value / most) : 0)),
      class_heat: sequence ? Math.min(1, norms[0] / (most || norms[0])) : 0,
      paint: (v) => `rgba(226,114,0,${(0.85 * v).toFixed(3)})`,
    };
  }
  return state.station === "attention" ? { ...look, ...(await attention_look()) } : look;
}

let drawn = 0;

/** Draws the page anew; a later call overtakes an earlier one. */
function render() {
  const mine = ++drawn;
  if (!facts) return;
  const slow = setTimeout(() => document.body.classList.add("busy"), 250);
  return alone(() => mine === drawn && draw(mine)).finally(() => {
    clearTimeout(slow);
    if (mine === drawn) document.body.classList.remove("busy");
  });
}

async function draw(mine) {
  if (state.view !== "spoil") await leave_spoil();
  const at = station();
  const panel =
    state.view === "predict"
      ? predict_view()
      : state.view === "doubt"
        ? doubt_view()
        : state.view === "spoil"
          ? spoil_view()
          : await station_view(at);
  const look = await look_now();
  if (mine !== drawn) return;
  draw_picture(look);
  keeping_focus(() => {
    render_frame();
    find("panel").replaceChildren(...panel);
  });
  if (["follow", "reverse"].includes(state.view)) show_first();
  Object.assign(document.body.dataset, { ready: location.hash, drawn: mine });
}

/** The card tells of something at once: of the largest number of the last strip, or of the middle of the patch. */
function show_first() {
  pointed = null;
  const strips = find("panel").querySelectorAll(".strip");
  const [maps] = find("panel").querySelectorAll(".maps");
  if (maps) return maps.show_largest();
  if (strips.length) return strips[state.back ? 0 : strips.length - 1].show_largest();
  const P = config.patch_size,
    { back, station } = state,
    small = (token) => scale_of(token).longer_side > 0,
    token = station === "scales" ? ([state.token, ...same_spot(state.token)].find(small) ?? state.token) : Math.max(0, state.token);
  if (back && (station === "scales" || station === "pixels")) {
    const { x, y } = middle_of(token),
      at = (Math.floor(y) * current.width + Math.floor(x)) * 3;
    return show_sum({ name: "image", start: 0, back, place: `red of the pixel in row ${Math.floor(y)}, column ${Math.floor(x)}` }, at, 0);
  }
  const middle = (P >> 1) * P + (P >> 1);
  return show_sum({ name: "patches", start: token * P * P * 3, back, place: `red in the middle of ${token_label(token)}` }, middle * 3, 0);
}
