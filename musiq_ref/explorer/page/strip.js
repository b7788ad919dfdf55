// A vector as a strip of cells, each of which tells where it comes from; and the card in which it does.

const CELL = 16;

/** A strip.  about: {name of the stage, start: flat index of its first number, back, label, note} */
function strip(values, about) {
  const largest = largest_of(values),
    columns = Math.min(values.length, 32),
    rows = Math.ceil(values.length / columns);
  const canvas = h("canvas", { width: columns * CELL, height: rows * CELL, "aria-hidden": "true" }),
    context = canvas.getContext("2d");
  let at = -1;
  const paint = () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    values.forEach((value, i) => {
      const x = (i % columns) * CELL,
        y = Math.floor(i / columns) * CELL;
      context.fillStyle = colour(value, largest);
      context.fillRect(x + 0.5, y + 0.5, CELL - 1, CELL - 1);
      context.strokeStyle = i === at ? getComputedStyle(document.body).color : "rgba(128,128,128,.35)";
      context.lineWidth = i === at ? 2.5 : 1;
      if (i === at || values.length <= 512) context.strokeRect(x + 0.5, y + 0.5, CELL - 1, CELL - 1);
    });
  };
  const point = (i, now = false) => {
    if (i < 0 || i >= values.length || (i === at && !now)) return;
    at = i;
    paint();
    box.setAttribute("aria-valuenow", i);
    box.setAttribute("aria-valuetext", `cell ${i} of ${values.length}: ${shown(values[i])}`);
    (now ? show_sum : show_sum_calmly)(about, i, values[i]);
  };
  const cell_at = (event) => {
    const area = canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - area.left) / area.width) * columns),
      row = Math.floor(((event.clientY - area.top) / area.height) * rows);
    return column >= 0 && column < columns ? row * columns + column : -1;
  };
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    Home: -values.length,
    End: values.length,
  };
  const box = h(
    "div",
    {
      class: "strip",
      style: `max-width:${17 * columns}px`,
      role: "slider",
      tabindex: 0,
      "aria-label": `${about.label}, ${values.length} numbers`,
      "aria-valuemin": 0,
      "aria-valuemax": values.length - 1,
      "aria-valuenow": 0,
      onpointermove: (event) => point(cell_at(event)),
      onclick: (event) => point(cell_at(event), true),
      onkeydown: (event) => {
        if (!(event.key in steps)) return;
        event.preventDefault();
        event.stopPropagation();
        point(Math.min(values.length - 1, Math.max(0, at + steps[event.key])));
      },
      onfocus: () => at < 0 && point(0),
    },
    canvas,
  );
  paint();
  box.show_largest = () => {
    const most = largest_of(values);
    show_sum(
      about,
      values.findIndex((value) => Math.abs(value) === most),
      0,
    );
  };
  return h(
    "figure",
    { class: "vector" },
    h("figcaption", {}, h("b", {}, about.label), about.note ? h("span", {}, ` ${about.note}`) : null),
    box,
  );
}

let asked = 0;

/** The card "Where this number comes from" for number i of a strip. */
async function show_sum(about, i, value) {
  const mine = ++asked,
    card = find("sum");
  const found = about.name
    ? await ask("explain", { name: about.name, flat: about.start + i, back: about.back }).catch(() => null)
    : null;
  if (mine !== asked) return;
  const what = h(
    "p",
    { class: "what" },
    about.back ? `gradient of the score to “${about.label}”, cell ${i}: ` : `${about.label}, cell ${i}: `,
    h("b", {}, shown(found?.value ?? value, 4)),
  );
  if (!found?.formula)
    return card.replaceChildren(h("h3", {}, "Where this number comes from"), what, h("p", {}, about.why ?? ""));
  const largest = largest_of(found.terms.map((one) => one.value));
  const row = (label, number, factors = "", kind = "") =>
    h(
      "li",
      { class: kind },
      h("span", { class: "name" }, label, factors ? h("span", { class: "factors" }, factors) : null),
      h("span", { class: "number" }, shown(number)),
      h("span", {
        class: "bar",
        style: `background:${colour(Math.sign(number) || 1, 1)};width:${Math.min(100, (100 * Math.abs(number)) / (largest || 1))}%`,
      }),
    );
  const [file, line] = found.source ?? [];
  card.replaceChildren(
    h("h3", {}, "Where this number comes from"),
    what,
    h("p", { class: "formula" }, found.formula, " ", h("span", { class: "equation" }, found.equation)),
    h(
      "ol",
      { class: "terms" },
      ...found.terms.map((one) => row(one.label, one.value, one.factors.map((factor) => shown(factor)).join(" × "))),
      found.rest ? row(`${found.rest.count.toLocaleString("en")} smaller terms`, found.rest.value, "", "rest") : null,
      found.terms.length > 1 ? row(`sum of ${found.count.toLocaleString("en")}`, found.total, "", "total") : null,
    ),
    h(
      "p",
      { class: "source" },
      `${about.back ? "gradient/" : ""}${found.name} (${found.shape.join(", ")})`,
      file ? h("code", {}, line) : null,
      file ? `musiq_ref/${file}` : "",
    ),
  );
}

const show_sum_calmly = calmly(show_sum);
