"""What every chapter imports: photographs, the library's source, exercises and quizzes that check themselves, sliders.

Not part of the library: it only serves the notebooks in this folder.
"""

from __future__ import annotations

import functools
import html
import importlib.util
import inspect
import os
import random
import re
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from PIL import Image

from musiq_ref.explain.style import STYLE
from musiq_ref.image.decode import decode
from musiq_ref.pictures.synthetic import PHOTOGRAPHS

if ipython := get_ipython():  # a figure at the end of a cell is shown
    ipython.run_line_magic("matplotlib", "inline")
plt.rcParams.update(STYLE)
np.set_printoptions(precision=4, suppress=True)


def photograph(name: str = "coffee", longer_side: int | None = None) -> np.ndarray:
    """A bundled photograph, uint8 (H, W, 3), reduced if a longer side is given.

    name: "astronaut", "cat", "coffee", "flower", "hopper", "raccoon", "rocket" or "temple"
    """
    pixels = decode(PHOTOGRAPHS / f"{name}.png")
    if longer_side is None:
        return pixels
    ratio = longer_side / max(pixels.shape[:2])
    height, width = (round(side * ratio) for side in pixels.shape[:2])
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def show(*things: Any) -> None:
    """The source of functions or classes of the library, as the notebook shows code."""
    for thing in things:
        module = inspect.getmodule(thing)
        name = module.__name__ if module else ""
        display(Markdown(f"`{name}`\n```python\n{inspect.getsource(thing).rstrip()}\n```"))


class MissingPackage(ImportError):
    """A package that a chapter cannot do without is not installed; a notebook shows the sentence only."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this
        return [str(self)]


def needs(package: str, name: str, install: str) -> None:
    """Stops a chapter with one sentence where a package is missing that the course as a whole does without.

    package: as it is imported;  name: as people call it;  install: what to run
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(
            f"This chapter needs {name}, which is not installed: "
            f"run {install} in a cell, then restart the kernel."
        )


class StillOpen(Exception):
    """Raised inside an exercise whose answer is `...`."""


def exercise(number: int, answer: Any, check: Callable[[Any], Any]) -> None:
    """Says whether an exercise is open, not right yet (and what is wrong), or solved; never stops the notebook.

    answer: the student's function or value; `...`, or a function that returns `...`, is an open exercise
    check: gets the answer; raises AssertionError, with a sentence, if it is wrong, or returns what `verify.op` returns
    """
    verdict, sentence = judge(answer, check)
    says = {
        "solved": "solved.",
        "open": "still open: replace the `...` in the cell above.",
        "wrong": f"not right yet: {sentence}",
    }
    print(f"Exercise {number} is {says[verdict]}")


def judge(answer: Any, check: Callable[[Any], Any]) -> tuple[str, str]:
    """("solved", ""), ("open", ""), or ("wrong", a sentence); arguments as `exercise` has them."""
    opened: list[bool] = []
    empty: list[bool] = []
    verdict = "solved", ""
    if inspect.isfunction(answer):
        answer = _watched(answer, opened, empty)
    try:
        if _is_open(answer):
            raise StillOpen
        result = check(answer)
        if not getattr(result, "passed", True):  # a verify.OpResult, which says what is wrong
            verdict = "wrong", str(result)
    except StillOpen:
        opened.append(True)
    except AssertionError as error:
        verdict = "wrong", str(error) or "a check failed"
    except Exception as error:
        verdict = "wrong", f"your code stopped with {_where(error)}"
        if empty:
            verdict = "wrong", "your function returns nothing; is its `return` missing?"
    return ("open", "") if opened else verdict


def _watched(f: Callable, opened: list[bool], empty: list[bool]) -> Callable:
    """f, but an answer of `...` is noted, and raised, however the check treats what it calls; None is noted."""

    @functools.wraps(f)
    def watched(*args, **kwargs):
        result = f(*args, **kwargs)
        if _is_open(result):
            opened.append(True)
            raise StillOpen
        if result is None:
            empty.append(True)
        return result

    return watched


def _is_open(answer: Any) -> bool:
    if isinstance(answer, tuple | list):
        return any(_is_open(part) for part in answer)
    return answer is ...


def _where(error: Exception) -> str:
    """The error and the student's line that led to it."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "ipykernel" in f.filename and f.line
    ]
    place = f", in the line `{frames[-1].line}`" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def questions(chapter: str) -> list[dict[str, Any]]:
    """The quiz of a chapter, from quiz/: each question has ask, right, why, and wrong, {answer: why it is wrong}."""
    paths = sorted((Path(__file__).parent / "quiz").glob("*.toml"))
    found = {path.stem.partition("_")[0]: path for path in paths}
    if chapter not in found:
        raise ValueError(f"no chapter {chapter!r} has a quiz; there are {', '.join(found)}")
    return tomllib.loads(found[chapter].read_text("utf-8"))["question"]


def quiz(chapter: str) -> None:
    """Shows the quiz of a chapter: click an answer, and it says whether it is right, and why.

    chapter: "05", or "05b"
    """
    shown = []
    for number, question in enumerate(questions(chapter), 1):
        replies = {question["right"]: f"<b>Right.</b> {_marked(question['why'])}"}
        replies |= {a: f"<b>No.</b> {_marked(why)}" for a, why in question["wrong"].items()}
        answers = random.Random(question["ask"]).sample(sorted(replies), len(replies))
        shown.append(f"<p><b>{number}.</b> {_marked(question['ask'])}</p>")
        shown += [
            f"<details><summary>{_marked(answer)}</summary><p>{replies[answer]}</p></details>"
            for answer in answers
        ]
    display(HTML(f'<div class="quiz">{"".join(shown)}</div>'))


def _marked(text: str) -> str:
    """Plain text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def explore(draw: Callable[..., Any], **choices: Any) -> None:
    """draw(**choices) with sliders and menus where ipywidgets is installed; else drawn once, with the first choices.

    choices: name=range(…) or a list of values. The stored notebook holds the picture of the first choices.
    draw: returns a Figure, or draws with pyplot
    """
    first = {name: values[0] for name, values in choices.items()}
    try:
        if os.environ.get("MUSIQ_REF_STATIC"):
            raise ImportError
        import ipywidgets
    except ImportError:
        _shown(draw(**first))
        return
    controls = {
        name: ipywidgets.IntSlider(
            min=values.start, max=values.stop - 1, step=values.step, value=values[0]
        )
        if isinstance(values, range)
        else ipywidgets.Dropdown(options=list(values), value=values[0])
        for name, values in choices.items()
    }

    ipywidgets.interact(lambda **chosen: _shown(draw(**chosen)), **controls)


def _shown(figure: Any) -> None:
    """Shows a figure, or, where there is none, what pyplot has drawn."""
    plt.show() if figure is None else display(figure)
