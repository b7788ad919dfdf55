// Predict first: commit to an answer, then see what the model says.

const given = [];

/** The view with all questions, one at a time. */
function predict_view() {
  const i = Math.min(state.question ?? 0, QUESTIONS.length - 1),
    { text, options, answer, at } = QUESTIONS[i],
    past = given[i];
  const answered = given.filter((one) => one?.because),
    right = answered.filter((one) => one.choice === one.right).length,
    done = answered.length;
  const dots = h(
    "div",
    { class: "row dots", role: "group", "aria-label": "questions" },
    ...QUESTIONS.map((_, k) =>
      h(
        "button",
        {
          class: given[k]?.because ? (given[k].choice === given[k].right ? "dot right" : "dot wrong") : "dot",
          "aria-current": k === i && "true",
          "aria-label": `question ${k + 1}`,
          onclick: () => go({ question: k }),
        },
        `${k + 1}`,
      ),
    ),
  );
  const result = h("div", { "aria-live": "polite" });
  const reveal = ({ choice, right, because }) => {
    [...list.children].forEach((button, k) => {
      button.disabled = true;
      if (k === right) button.classList.add("right");
      else if (k === choice) button.classList.add("wrong");
    });
    result.replaceChildren(
      h("p", { class: "verdict" }, choice === right ? "Right. " : "Not quite. ", because),
      h(
        "p",
        { class: "row" },
        h("a", { class: "pill", href: `#${at}` }, "See it at its station"),
        i + 1 < QUESTIONS.length
          ? h("button", { class: "pill strong", onclick: () => go({ question: i + 1 }) }, "Next question")
          : null,
      ),
    );
  };
  const wait = (words) => {
    [...list.children].forEach((button) => (button.disabled = true));
    result.replaceChildren(h("p", {}, words));
  };
  const commit = async (choice) => {
    if (given[i]) return;
    given[i] = { choice };
    wait("The model computes …");
    await alone(async () => {
      try {
        Object.assign(given[i] ?? {}, await answer((share) => wait(`The model computes … ${Math.round(100 * share)} %`)));
      } catch (error) {
        delete given[i];
        throw error;
      } finally {
        await ask("score", state.changes);
      }
    });
    if (state.view === "predict") go({});
  };
  const list = h(
    "div",
    { class: "options" },
    ...options().map((words, choice) =>
      h(
        "button",
        {
          class: "option",
          onclick: () => commit(choice),
        },
        words,
      ),
    ),
  );
  if (past?.because) reveal(past);
  else if (past) wait("The model computes …");
  return [
    h("h2", {}, "Predict first"),
    h(
      "p",
      {},
      "Commit to an answer; then the model computes it on this photograph. Being wrong is how you learn most.",
    ),
    dots,
    h("p", { class: "question" }, `${i + 1}. ${text()}`),
    list,
    result,
    h(
      "p",
      { class: "count", role: "status" },
      done === QUESTIONS.length
        ? `All ${done} answered: ${right} right.${right > 11 ? " You could have built it." : " Try again with another photograph: the answers may change."}`
        : `${right} right of ${done} answered, ${QUESTIONS.length - done} to go.`,
    ),
  ];
}
