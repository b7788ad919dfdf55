// The photograph at every scale, as one SVG: patches to click, what is lit, heat, and the lines of attention.

const picture = { width: 600, scales: [], tokens: 0 };
const CLASS = -1; // the class token, where a token is meant

/** Where everything goes: the native image on top, the small ones below, side by side. */
function lay_out(scales, P, images) {
  const order = scales.map((scale, k) => ({ ...scale, k })).sort((a, b) => b.width * b.height - a.width * a.height);
  const [big, ...small] = order,
    gap = 14,
    label = 26;
  const fit = Math.min(600 / (big.columns * P), 520 / (big.rows * P)),
    wide = small.reduce((sum, { columns }) => sum + columns, 0);
  const patch = small.length ? Math.min(44, (600 - 64 - gap * small.length) / wide) : 0;
  let x = 0,
    y = label;
  const put = (scale, zoom, left, top) => {
    const pad = [same(scale.height, P), same(scale.width, P)];
    return { ...scale, zoom, x: left, y: top, pad, cell: P * zoom, image: images[scale.k] };
  };
  const left = (600 - big.columns * P * fit) / 2 + same(big.width, P) * fit;
  const placed = [put(big, fit, left, y + same(big.height, P) * fit)];
  y += big.rows * P * fit + label + 12;
  for (const scale of small) {
    const zoom = patch / P;
    placed.push(put(scale, zoom, x + same(scale.width, P) * zoom, y + same(scale.height, P) * zoom));
    x += scale.columns * patch + gap;
  }
  const high = y + Math.max(52, ...small.map(({ rows }) => rows * patch)) + 6;
  Object.assign(picture, {
    scales: placed.sort((a, b) => a.k - b.k),
    height: high,
    class_at: { x: 600 - 50, y: y + 4, w: 44, h: 44 },
  });
  picture.tokens = scales.reduce((sum, { kept }) => sum + kept, 0);
}

const same = (n, P) => (Math.ceil(n / P) * P - n) >> 1;
const scale_of = (token) => picture.scales.find(({ start, kept }) => token >= start && token < start + kept);

/** The rectangle of a token in the drawing. */
function place_of(token) {
  if (token === CLASS) return picture.class_at;
  const { x, y, zoom, pad, cell, columns, start } = scale_of(token),
    i = token - start;
  return {
    x: x - pad[1] * zoom + (i % columns) * cell,
    y: y - pad[0] * zoom + Math.floor(i / columns) * cell,
    w: cell,
    h: cell,
  };
}

/** The token under a point of the drawing, or null. */
function token_at(px, py) {
  const c = picture.class_at;
  if (px >= c.x && px <= c.x + c.w && py >= c.y && py <= c.y + c.h) return CLASS;
  for (const { x, y, zoom, pad, cell, columns, rows, start, kept } of picture.scales) {
    const column = Math.floor((px - x + pad[1] * zoom) / cell),
      row = Math.floor((py - y + pad[0] * zoom) / cell);
    const i = row * columns + column;
    if (column >= 0 && column < columns && row >= 0 && row < rows && i < kept) return start + i;
  }
  return null;
}

/** The tokens of the other scales that show the middle of this one. */
function same_spot(token) {
  const from = place_of(token),
    own = scale_of(token);
  const u = (from.x + from.w / 2 - own.x) / (own.width * own.zoom),
    v = (from.y + from.h / 2 - own.y) / (own.height * own.zoom);
  const inside = (share) => Math.min(0.999, Math.max(0.001, share));
  return picture.scales
    .filter((scale) => scale !== own)
    .map(({ x, y, width, height, zoom }) => token_at(x + inside(u) * width * zoom, y + inside(v) * height * zoom))
    .filter((other) => other !== null);
}

/** Draws it all.  look: { token, shared, hidden, heat: (N,) with 0 … 1 or −1 … 1, class_heat, lines: [{to, share}], from, spot } */
function draw_picture(look) {
  const parts = [];
  for (const scale of picture.scales) {
    const { x, y, width, height, zoom, image, pad, cell, columns, rows, start, kept } = scale;
    parts.push(
      s("image", {
        href: image,
        x,
        y,
        width: width * zoom,
        height: height * zoom,
        preserveAspectRatio: "none",
        class: `${zoom > 1.6 ? "crisp" : ""} ${look.heat ? "grey" : ""}`,
      }),
    );
    parts.push(
      s(
        "text",
        { x: Math.max(0, x - pad[1] * zoom), y: y - pad[0] * zoom - 7, class: "label" },
        `${scale.longer_side ? "" : "native "}${width}×${height} · ${kept} patches`,
      ),
    );
    const left = x - pad[1] * zoom,
      top = y - pad[0] * zoom;
    if (look.heat) {
      const values = Array.from({ length: rows * columns }, (_, i) => (i < kept ? look.heat[start + i] : 0));
      parts.push(
        s("image", {
          href: as_heat(values, rows, columns, look.paint),
          x: left,
          y: top,
          width: columns * cell,
          height: rows * cell,
          preserveAspectRatio: "none",
          class: "crisp heat",
        }),
      );
    }
    if (look.grid) {
      let path = "";
      for (let i = 0; i <= columns; i++) path += `M${left + i * cell} ${top}v${rows * cell}`;
      for (let i = 0; i <= rows; i++) path += `M${left} ${top + i * cell}h${columns * cell}`;
      parts.push(s("path", { d: path, class: "grid" }));
    }
  }
  const box = (token, kind) => {
    const { x, y, w, h: high } = place_of(token);
    return s("rect", { x, y, width: w, height: high, class: kind });
  };
  const c = picture.class_at;
  parts.push(
    s("rect", {
      x: c.x,
      y: c.y,
      width: c.w,
      height: c.h,
      rx: 6,
      class: "class-token",
      style: look.class_heat ? `fill:${look.paint(look.class_heat)}` : "",
    }),
  );
  parts.push(...(look.hidden ?? []).map((token) => box(token, "hidden-patch")));
  parts.push(...(look.shared ?? []).map((token) => box(token, "shared")));
  parts.push(...(look.spot ?? []).map((token) => box(token, "spot")));
  for (const { to, share } of look.lines ?? []) {
    const [a, b] = [place_of(look.from), place_of(to)],
      x1 = a.x + a.w / 2,
      y1 = a.y + a.h / 2,
      x2 = b.x + b.w / 2,
      y2 = b.y + b.h / 2;
    parts.push(
      s("path", {
        d: `M${x1} ${y1}Q${(x1 + x2) / 2 + (y2 - y1) * 0.12} ${(y1 + y2) / 2 - (x2 - x1) * 0.12} ${x2} ${y2}`,
        class: "line",
        "stroke-width": 0.8 + 5 * share,
        opacity: 0.35 + 0.65 * share,
      }),
    );
  }
  if (look.key != null && look.key !== look.token) parts.push(box(look.key, "key"));
  if (look.token != null) parts.push(box(look.token, "halo"), box(look.token, "chosen"));
  parts.push(s("text", { x: c.x + c.w / 2, y: c.y + 27, class: "class-label" }, "class"));
  const drawing = find("drawing");
  drawing.setAttribute("viewBox", `0 0 600 ${picture.height}`);
  drawing.replaceChildren(...parts);
}

/** The neighbour of a token in a direction, in its own scale; for the keyboard. */
function neighbour(token, right, down) {
  if (token === CLASS) return 0;
  const { columns, rows, start, kept } = scale_of(token),
    i = token - start;
  const column = Math.min(columns - 1, Math.max(0, (i % columns) + right)),
    row = Math.min(rows - 1, Math.max(0, Math.floor(i / columns) + down));
  return start + Math.min(kept - 1, row * columns + column);
}
