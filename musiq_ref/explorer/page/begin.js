// What the reader does: choosing patches, opening pictures, keys; and how it all begins.

/** A patch was chosen in the picture. */
async function choose(token) {
  const { pick, token: chosen, changes } = state;
  if (pick && token !== CLASS && chosen !== CLASS) {
    state.pick = null;
    if (token === chosen) return go({});
    if (pick === "swap") return change({ swapped: [...changes.swapped, [chosen, token]] });
    return change({ places: { ...changes.places, [chosen]: facts.hash_index[token] } });
  }
  return go({ token, key: null, pick: null });
}

let opened = 0;

/** Opens a picture, and says something about it; one that is opened later overtakes it. */
async function open(name, read) {
  const mine = ++opened;
  say(`Opening ${name} …`);
  try {
    const [pixels, words] = await read();
    if (mine === opened) await load(pixels);
    if (mine === opened) say(words);
  } catch (error) {
    if (mine === opened) say(`${name} cannot be used: ${error.message}`);
  }
}

/** A picture from a file, reduced to what this page computes in a second. Colours are those in the file, without its
 *  profile, as `musiq-ref score` takes them. */
const open_file = (file) =>
  open(file.name || "The picture", async () => {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
      throw new Error("this browser does not know it as a picture; save it as JPEG or PNG, and open that");
    });
    const share = Math.min(1, Math.sqrt(about.most_pixels / (bitmap.width * bitmap.height)));
    const width = Math.max(1, Math.floor(bitmap.width * share)),
      height = Math.max(1, Math.floor(bitmap.height * share));
    const context = h("canvas", { width, height }).getContext("2d");
    Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high" });
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    return [
      context.getImageData(0, 0, width, height),
      share < 1
        ? `Reduced to ${width}×${height}; the score is that of the reduced picture.`
        : `${width}×${height} pixels.`,
    ];
  });

const say = (words) => tell("says", words);

/** The photographs that the page carries, as buttons. */
function render_photographs() {
  find("photographs").replaceChildren(
    ...photographs.map(({ name, source }, i) =>
      h(
        "button",
        {
          class: "thumb",
          "aria-label": `photograph ${name}`,
          title: name,
          onclick: () => open(name, async () => [await from_source(source), i ? "" : about.note]),
        },
        h("img", { src: source, alt: "" }),
      ),
    ),
  );
}

async function from_source(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const context = h("canvas", { width: image.naturalWidth, height: image.naturalHeight }).getContext("2d", {
    colorSpace: "srgb",
  });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
}

function listen() {
  const drawing = find("drawing"),
    spot = (event) => {
      const area = drawing.getBoundingClientRect();
      return token_at(
        ((event.clientX - area.left) / area.width) * 600,
        ((event.clientY - area.top) / area.height) * picture.height,
      );
    };
  drawing.addEventListener("click", (event) => {
    if (!facts) return;
    const token = spot(event);
    if (token !== null) choose(token);
  });
  drawing.addEventListener("keydown", (event) => {
    if (!facts) return;
    const { token } = state,
      step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    const to = step ? neighbour(token, ...step) : { s: token === CLASS ? 0 : same_spot(token)[0], c: CLASS }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(to);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, canvas, [role=slider]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key],
      i = STATIONS.indexOf(station()) + (step ?? 0) * (state.back ? -1 : 1);
    if (step && STATIONS[i] && ["follow", "reverse"].includes(state.view)) go({ station: STATIONS[i].id });
    else if (event.key === "r") go({ view: state.back ? "follow" : "reverse", back: !state.back });
    else if (event.key === "Escape") go({ pick: null });
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open_file(file);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) open_file(file);
    else say("That was no file; save the picture first, then drop the file here.");
  });
  for (const id of ["file", "camera"])
    find(id).addEventListener("change", ({ target }) => {
      if (target.files[0]) open_file(target.files[0]);
      target.value = ""; // so that the same file may be chosen again
    });
  for (const [id, save_it] of Object.entries({ svg: save_svg, png: save_png, npy: save_npy }))
    find(id).addEventListener("click", () => facts && save_it());
  find("theme").addEventListener("click", () => {
    const dark =
      (document.documentElement.dataset.theme ??
        (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    render();
  });
  addEventListener("popstate", follow_address);
  addEventListener("unhandledrejection", ({ reason }) => say(`Something went wrong here (${reason?.message ?? reason}); reload the page.`));
}

async function begin() {
  render_photographs();
  listen();
  const score = await alone(async () => {
    await ask("open", { index, base64: find("weights").textContent.trim(), config });
    return take(checked(await from_source(photographs[0].source)));
  });
  if (!opened) say(about.note);
  await follow_address();
  return score;
}

/** For tests, and for the curious. */
window.musiq = {
  ready: begin().catch((error) => {
    find("panel").textContent = `This page cannot compute here: ${error.message}`;
    throw error;
  }),
  get score() {
    return state.score;
  },
  get changes() {
    return state.changes;
  },
  load: async (pixels) => {
    const photograph = checked(pixels);
    opened++; // of what is being opened, nothing will come
    return load(photograph);
  },
  stage: (name) => alone(() => ask("stage", String(name))),
  gradient: (name) => alone(() => ask("gradient", String(name))),
};
