// The frame of the page: tabs, rail, score, and what may be done to a patch.

/** Where the way back begins. */
const TURNED = { back: true, station: "score", token: CLASS, block: config.layers - 1 };

/** What every drawing of the page has around the panel. */
function render_frame() {
  find("views").replaceChildren(
    ...Object.entries(VIEWS).map(([view, name]) =>
      h(
        "button",
        {
          class: "tab",
          id: `view-${view}`,
          "aria-current": state.view === view && "page",
          onclick: () =>
            go({ view, back: view === "reverse", ...(view === "reverse" && !state.back ? TURNED : {}) }),
        },
        name,
      ),
    ),
  );
  const shown_now = ["follow", "reverse"].includes(state.view);
  document.body.classList.toggle("back", state.back);
  document.body.classList.toggle("expert", state.expert);
  document.body.dataset.view = state.view;
  find("rail").hidden = !shown_now;
  find("rail").replaceChildren(
    ...STATIONS.flatMap((one) => {
      const stop = h(
        "li",
        { class: one.block ? "stop in-block" : "stop" },
        h(
          "button",
          {
            id: `stop-${one.id}`,
            "aria-current": state.station === one.id && "step",
            onclick: () => go({ station: one.id, key: null }),
          },
          h("span", { class: "dot", "aria-hidden": "true" }),
          one.rail,
        ),
      );
      if (one.id !== "attention") return [stop];
      const blocks = h(
        "li",
        { class: "blocks" },
        h("span", {}, "block"),
        ...Array.from({ length: config.layers }, (_, i) =>
          h(
            "button",
            {
              class: "pill",
              "aria-label": `block ${i + 1}`,
              "aria-pressed": state.block === i,
              onclick: () => go({ block: i, station: station().block ? state.station : "attention" }),
            },
            `${i + 1}`,
          ),
        ),
      );
      return [blocks, stop];
    }),
  );
  const stop = find(`stop-${state.station}`),
    rail = find("rail");
  if (rail.scrollWidth > rail.clientWidth) rail.scrollLeft = stop.parentElement.offsetLeft - rail.clientWidth / 2; // on a phone it is a row
  const score = state.score.toFixed(2),
    moved = state.score - state.base;
  tell(
    "score",
    h("span", { class: "small" }, "score"),
    h("span", { class: "big" }, score.replace("-", "−")),
    about.of ? h("span", { class: "small" }, about.of) : "",
    Math.abs(moved) >= 0.005
      ? h("span", { class: moved > 0 ? "delta up" : "delta down" }, signed(moved), h("span", { class: "small" }, ` from ${state.base.toFixed(2)}`))
      : "",
  );
  render_actions(shown_now);
}

/** What may be done to the chosen patch. */
function render_actions(shown_now) {
  const token = state.token,
    { changes } = state,
    picking = (pick) => go({ pick: state.pick === pick ? null : pick });
  const spot = token === CLASS ? [] : [token, ...same_spot(token)],
    hidden = spot.length && spot.every((one) => changes.hidden.includes(one));
  const button = (words, pressed, onclick) =>
    h("button", { class: "pill", "aria-pressed": pressed, disabled: token === CLASS, onclick }, words);
  find("actions").hidden = !shown_now;
  find("actions").replaceChildren(
    button(hidden ? "Show it again" : "Hide it", Boolean(hidden), () =>
      change({
        hidden: hidden
          ? changes.hidden.filter((one) => !spot.includes(one))
          : [...new Set([...changes.hidden, ...spot])],
      }),
    ),
    button("Swap with …", state.pick === "swap", () => picking("swap")),
    button("Move to …", state.pick === "move", () => picking("move")),
    h("button", { class: "pill", hidden: !is_changed(), onclick: () => change(changes_none()) }, "Undo all"),
  );
  const own = token === CLASS ? null : scale_of(token),
    i = own ? token - own.start : 0;
  tell("where", state.pick
    ? `Choose ${state.pick === "swap" ? "the patch to swap with" : "a patch in whose place to put it"}; Escape leaves all as it is.`
    : own
      ? `Token ${token}: row ${Math.floor(i / own.columns)}, column ${i % own.columns} of ${own.width}×${own.height}`
      : "The class token, which collects the verdict");
  const at = station();
  tell("announce", shown_now ? (state.back ? at.back_title : at.title) : VIEWS[state.view]);
}
