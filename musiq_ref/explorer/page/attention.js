// Attention, to be looked at and bent: lines, heads, single logits.

const changes_none = () => ({ hidden: [], places: {}, heads: [], logits: {}, swapped: [] });

/** The shares that the chosen token gives to all others, one head or their mean: (1 + N,) */
async function shares_of(token = state.token) {
  const N = picture.tokens + 1,
    heads = state.all_heads ? [...Array(config.heads).keys()] : [state.head];
  const rows = await Promise.all(
    heads.map((head) => slice(in_block("attention/weights"), (head * N + token + 1) * N, N)),
  );
  return rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
}

/** What the picture shows at this station: heat by share, lines to the largest. */
async function attention_look() {
  const shares = await shares_of(),
    largest = Math.max(...shares),
    best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 14);
  return {
    heat: shares.slice(1).map((share) => share / largest),
    class_heat: shares[0] / largest,
    paint: (share) => `rgba(226,114,0,${(0.75 * share).toFixed(3)})`,
    from: state.token,
    lines: best.filter((k) => k - 1 !== state.token).map((k) => ({ to: k - 1, share: shares[k] / largest })),
  };
}

const key_of = () => `block_${two(state.block)}/${state.head}/${state.token + 1}/${state.key + 1}`;

/** Heads to choose and to silence, the largest shares, and a slider for one logit. */
async function attention_panel() {
  const head = (i) => {
    const name = `block_${two(state.block)}/${i}`,
      silent = state.changes.heads.includes(name);
    return h(
      "span",
      { class: "head-choice" },
      h(
        "button",
        {
          class: "pill",
          "aria-pressed": !state.all_heads && state.head === i,
          onclick: () => go({ head: i, all_heads: false }),
        },
        `head ${i + 1}`,
      ),
      h(
        "button",
        {
          class: "mute",
          "aria-pressed": silent,
          "aria-label": silent ? `let head ${i + 1} speak again` : `silence head ${i + 1}`,
          title: silent ? "let it speak again" : "silence it",
          onclick: () =>
            change({
              heads: silent ? state.changes.heads.filter((one) => one !== name) : [...state.changes.heads, name],
            }),
        },
        silent ? "✕" : "mute",
      ),
    );
  };
  const shares = await shares_of(),
    best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 6);
  const list = h(
    "ol",
    { class: "shares" },
    ...best.map((k) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            class: "plain-button",
            "aria-pressed": state.key === k - 1,
            onclick: () => go({ key: k - 1, all_heads: false }),
          },
          h("span", { class: "bar", style: `width:${Math.max(2, (110 * shares[k]) / shares[best[0]])}px` }),
          ` ${k ? `token ${k - 1}` : "class token"} `,
          h("b", {}, `${(100 * shares[k]).toFixed(1)} %`),
        ),
      ),
    ),
  );
  const parts = [
    h(
      "div",
      { class: "row", role: "group", "aria-label": "heads" },
      h(
        "button",
        { class: "pill", "aria-pressed": state.all_heads, onclick: () => go({ all_heads: true }) },
        "mean of all",
      ),
      ...Array.from({ length: config.heads }, (_, i) => head(i)),
    ),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { class: "pill", "aria-pressed": state.token === CLASS, onclick: () => go({ token: CLASS }) },
        "ask from the class token",
      ),
      h(
        "button",
        {
          class: "pill",
          "aria-pressed": state.token !== CLASS,
          onclick: () => go({ token: state.token === CLASS ? state.last_patch : state.token }),
        },
        `ask from token ${state.token === CLASS ? state.last_patch : state.token}`,
      ),
    ),
    h(
      "p",
      { class: "small" },
      `${token_label(state.token)[0].toUpperCase()}${token_label(state.token).slice(1)} looks most at`,
    ),
    list,
  ];
  if (state.key == null || state.all_heads)
    return [...parts, h("p", { class: "hint" }, "Choose one of them to bend its line.")];
  const N = picture.tokens + 1,
    D_h = head_width(),
    row = (part, token) => slice(in_block(`attention/${part}`), (state.head * N + token + 1) * D_h, D_h);
  const [q, k] = await Promise.all([row("query", state.token), row("key", state.key)]),
    logit = q.reduce((sum, value, d) => sum + (value * k[d]) / Math.sqrt(D_h), 0);
  const added = state.changes.logits[key_of()] ?? 0;
  const words = h(
    "output",
    {},
    `logit ${shown(logit)} ${added ? `${signed(added)}` : ""} → ${(100 * shares[state.key + 1]).toFixed(1)} %`,
  );
  const slider = h("input", {
    type: "range",
    min: -10,
    max: 10,
    step: 0.25,
    value: added,
    id: "logit",
    oninput: calmly(
      (event) => change({ logits: { ...state.changes.logits, [key_of()]: Number(event.target.value) } }),
      60,
    ),
  });
  return [
    ...parts,
    h(
      "label",
      { class: "slider" },
      `Bend the line from ${token_label(state.token)} to ${token_label(state.key)}, head ${state.head + 1}: add to its logit`,
      slider,
    ),
    words,
  ];
}
