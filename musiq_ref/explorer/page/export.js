// What one takes home: the picture as SVG or PNG, the numbers as .npy.

function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const file_name = (ending) => `musiq_${location.hash.slice(1).replace(/[^a-z0-9]+/gi, "_") || "page"}.${ending}`;

/** The drawing with its styles written into it, so that it looks the same elsewhere. */
function drawing_as_svg() {
  const drawing = find("drawing"),
    copy = drawing.cloneNode(true),
    from = drawing.querySelectorAll("*"),
    to = copy.querySelectorAll("*");
  const wanted = [
    "fill",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "opacity",
    "font-size",
    "font-family",
    "text-anchor",
    "image-rendering",
    "filter",
  ];
  from.forEach((element, i) => {
    const look = getComputedStyle(element);
    to[i].setAttribute("style", wanted.map((name) => `${name}:${look.getPropertyValue(name)}`).join(";"));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.prepend(
    s("rect", { width: 600, height: picture.height, fill: getComputedStyle(document.body).backgroundColor }),
  );
  return new XMLSerializer().serializeToString(copy);
}

const save_svg = () => save(new Blob([drawing_as_svg()], { type: "image/svg+xml" }), file_name("svg"));

async function save_png() {
  const image = new Image(),
    canvas = h("canvas", { width: 1200, height: 2 * picture.height });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawing_as_svg())}`;
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(blob, file_name("png")));
}

/** An array as the bytes of a .npy file, float32. */
function as_npy({ shape, data }) {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.map((n) => `${n},`).join(" ")}), }`;
  const header = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`,
    start = new Uint8Array(10 + header.length);
  start.set([
    0x93,
    ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)),
    1,
    0,
    header.length & 255,
    header.length >> 8,
  ]);
  start.set([...header].map((letter) => letter.charCodeAt(0)), 10);
  return new Blob([start, new Uint8Array(Float32Array.from(data).buffer)], { type: "application/octet-stream" });
}

/** The stage that a station is about. */
const main_stage = () =>
  ({
    pixels: "patches",
    scales: "patches",
    patches: "patches",
    stem: "stem/output",
    embedding: "patch_embedding",
    place: "spatial_embedding",
    scale: "encoder/input",
    attention: in_block("attention/weights"),
    mlp: in_block("output"),
    score: "head/class_token",
  })[state.station];

async function save_npy() {
  const name = state.back && state.station === "pixels" ? "image" : main_stage();
  save(
    as_npy(await alone(() => ask(state.back ? "gradient" : "stage", name))),
    `${state.back ? "gradient_" : ""}${name.replaceAll("/", "_")}.npy`,
  );
}
