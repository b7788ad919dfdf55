// Spoil: brush blur, noise, blocks, haze or darkness onto the photograph, and see which tokens notice.

const brush = { kind: "blur", radius: 40, strength: 0.7 };
let noticed = null;

const copy_of = ({ width, height, data }) => ({ width, height, data: new Uint8ClampedArray(data) });

/** Every spoilt pixel: f(x, y, c, source) gives its new value. */
const SPOIL = {
  blur: (strength) => {
    const reach = Math.max(1, Math.round(4 * strength));
    return ({ width, height, data }, x, y, c) => {
      let sum = 0,
        count = 0;
      for (let i = Math.max(0, y - reach); i <= Math.min(height - 1, y + reach); i++)
        for (let j = Math.max(0, x - reach); j <= Math.min(width - 1, x + reach); j++, count++)
          sum += data[4 * (i * width + j) + c];
      return sum / count;
    };
  },
  noise: (strength) => {
    const at_random = (x, y, c) => {
      const v = Math.sin(x * 12.9898 + y * 78.233 + c * 37.719) * 43758.5453;
      return v - Math.floor(v) - 0.5;
    };
    return ({ width, data }, x, y, c) => data[4 * (y * width + x) + c] + 140 * strength * at_random(x, y, c);
  },
  blocks: (strength) => {
    const side = Math.max(2, Math.round(12 * strength));
    return ({ width, height, data }, x, y, c) => {
      const j = Math.min(width - 1, x - (x % side) + (side >> 1)),
        i = Math.min(height - 1, y - (y % side) + (side >> 1));
      return data[4 * (i * width + j) + c];
    };
  },
  haze:
    (strength) =>
    ({ width, data }, x, y, c) =>
      data[4 * (y * width + x) + c] * (1 - 0.8 * strength) + 200 * 0.8 * strength,
  darkness:
    (strength) =>
    ({ width, data }, x, y, c) =>
      data[4 * (y * width + x) + c] * (1 - 0.85 * strength),
};

/** The pixels with a kind of damage, all over or within a circle {x, y, radius}. */
function spoilt(pixels, kind, strength, spot = null, target = copy_of(pixels)) {
  const make = SPOIL[kind](strength),
    { width, height } = pixels;
  const reach = spot?.radius ?? 0,
    [top, bottom] = spot ? [spot.y - reach, spot.y + reach] : [0, height],
    [left, right] = spot ? [spot.x - reach, spot.x + reach] : [0, width];
  for (let y = Math.max(0, Math.floor(top)); y < Math.min(height, bottom); y++)
    for (let x = Math.max(0, Math.floor(left)); x < Math.min(width, right); x++)
      if (!spot || (x - spot.x) ** 2 + (y - spot.y) ** 2 <= reach ** 2)
        for (let c = 0; c < 3; c++) target.data[4 * (y * width + x) + c] = make(pixels, x, y, c);
  return target;
}

function mirrored(pixels) {
  const other = copy_of(pixels),
    { width, height } = pixels;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++)
        other.data[4 * (y * width + x) + c] = pixels.data[4 * (y * width + width - 1 - x) + c];
  return other;
}

let painted = null, // stays when the reader looks at another view, and comes back with her
  touched = false, // whether it differs from the photograph
  spoilt_now = false, // whether the model holds it
  brushing = false,
  clean_output = null;

function spoil_view() {
  painted ??= copy_of(photograph());
  const { width, height } = painted,
    canvas = h("canvas", {
      width,
      height,
      class: "brushable",
      style: `width:min(100%, 36rem, ${(58 * width) / height}vh)`,
      tabindex: 0,
      role: "application",
      "aria-label": "the photograph; drag to spoil it, or press Enter to spoil all around the chosen patch",
    }),
    context = canvas.getContext("2d");
  const paint = () => context.putImageData(new ImageData(painted.data, width, height), 0, 0);
  const at = (event) => {
    const area = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - area.left) / area.width) * width,
      y: ((event.clientY - area.top) / area.height) * height,
      radius: brush.radius,
    };
  };
  const stroke = (spot) => {
    spoilt(photograph(), brush.kind, brush.strength, spot, painted);
    touched = true;
    paint();
  };
  canvas.addEventListener("pointerdown", (event) => {
    brushing = true;
    canvas.setPointerCapture(event.pointerId);
    stroke(at(event));
  });
  canvas.addEventListener("pointermove", (event) => brushing && stroke(at(event)));
  canvas.addEventListener("lostpointercapture", () => {
    brushing = false;
    notice();
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      stroke(middle_of(Math.max(0, state.token)));
      notice();
    }
  });
  const choice = (kind) =>
    pill(kind, () => ((brush.kind = kind), go({})), { "aria-pressed": brush.kind === kind });
  const slide = (label, key, min, max, step) => {
    const oninput = (event) => (brush[key] = Number(event.target.value));
    return h("label", { class: "slider" }, label, h("input", { id: `brush-${key}`, type: "range", min, max, step, value: brush[key], oninput }));
  };
  const everywhere = () => {
    stroke(null);
    notice();
  };
  const clean = () => {
    painted = noticed = null;
    touched = false;
    alone(leave_spoil).then(() => go({}));
  };
  paint();
  if (touched && !spoilt_now && !brushing) notice();
  return [
    h("h2", {}, "Spoil"),
    h(
      "p",
      {},
      "Choose a kind of damage, brush it onto the photograph, and watch the score. In the picture, the tokens that noticed light up: the more their output of the last block changed, the brighter.",
    ),
    h("div", { class: "row", role: "group", "aria-label": "kinds of damage" }, ...Object.keys(SPOIL).map(choice)),
    slide("size of the brush", "radius", 8, 160, 4),
    slide("strength", "strength", 0.1, 1, 0.05),
    h("p", { class: "verdict", role: "status" }, noticed ? noticed.words : "Nothing is spoilt yet."),
    canvas,
    h("div", { class: "row" }, pill(`${brush.kind} everywhere`, everywhere), pill("Clean again", clean)),
  ];
}

/** The middle of a token, in pixels of the photograph. */
function middle_of(token) {
  const { x, y, w, h: high } = place_of(token),
    own = scale_of(token),
    { width, height } = photograph();
  return {
    x: ((x + w / 2 - own.x) / (own.width * own.zoom)) * width,
    y: ((y + high / 2 - own.y) / (own.height * own.zoom)) * height,
    radius: brush.radius,
  };
}

let noticing = 0;

/** Runs the model on the spoilt pixels, and shows it; a later stroke overtakes an earlier one. */
async function notice() {
  const mine = ++noticing;
  await alone(() => mine === noticing && touched && state.view === "spoil" && compare_with_clean());
  if (mine === noticing && state.view === "spoil" && !brushing) go({});
}

/** Compares the last block's output of spoilt and clean pixels token by token. */
async function compare_with_clean() {
  const name = `encoder/block_${two(config.layers - 1)}/output`;
  if (!clean_output) {
    await ask("load", photograph());
    clean_output = { score: state.base, data: (await ask("stage", name)).data };
  }
  spoilt_now = true;
  const after = await ask("load", painted),
    { data } = await ask("stage", name),
    D = config.width;
  const change = Float32Array.from({ length: picture.tokens + 1 }, (_, n) =>
    Math.hypot(...data.subarray(n * D, (n + 1) * D).map((value, i) => value - clean_output.data[n * D + i])),
  );
  const most = largest_of(change) || 1,
    lit = change.slice(1).filter((value) => value > 0.3 * most).length;
  noticed = {
    heat: change.slice(1).map((value) => value / most),
    class_heat: change[0] / most,
    words: `${from_to(clean_output.score, after.score)} ${lit} of ${picture.tokens} tokens noticed it clearly.`,
  };
  state.score = after.score;
}

/** Puts the clean photograph back into the model; what was painted stays for the next visit. */
async function leave_spoil() {
  if (!spoilt_now) return;
  spoilt_now = false;
  await ask("load", photograph());
  state.score = (await ask("score", state.changes)).score;
}
