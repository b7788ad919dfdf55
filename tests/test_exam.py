"""The exam: twenty questions with as many solutions, whose numbers the library computes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref import losses, metrics
from musiq_ref.image.hash import hash_index
from musiq_ref.image.resize import resized_sides
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import parameter_shapes
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.softmax import mask_logits, softmax, softmax_backward

DOCS = Path(__file__).parent.parent / "docs"
QUESTIONS = [int(n) for n in re.findall(r"^\*\*(\d+)\.\*\* ", (DOCS / "exam.md").read_text("utf-8"), re.M)]
SOLUTIONS = {
    int(n): (re.match(r"\*\*([\d.,−]+?)\.\*\* ", text) or [None, None])[1]
    for n, text in re.findall(
        r"<summary>(\d+)\. [^<]+</summary>\n\n(.+?)\n\n</details>",
        (DOCS / "exam_solutions.md").read_text("utf-8"),
        re.S,
    )
}
CONFIG = mq.MusiqConfig.preset("small")
SCALES = scales_of(400, 600, CONFIG)
LOGITS, VALUES = np.log([[1.0, 2.0, 5.0]]), np.array([[8.0, 4.0, 0.0]])


def missing_tokens():
    height, width = resized_sides(715, 832, 224)
    assert (height, width) == (193, 224)
    assert resized_sides(715, 832, 224, "float64") == (192, 224)
    return (-(-height // 32) - -(-192 // 32)) * (width // 32)


def products_of(n):
    return 2 * n * n * CONFIG.width


def cost():
    counts = mq.complexity(CONFIG, (400, 600))  # which counts the tokens that pad the resized scales, too
    assert counts.macs_by_part["encoder/attention/products"] == CONFIG.layers * products_of(counts.tokens + 1)
    products = {n: products_of(n) for n in (768, 769)}
    projections = {n: 4 * n * CONFIG.width**2 for n in (768, 769)}
    assert products[768] == projections[768]
    assert products[769] > projections[769]
    return products_of(1 + sum(scale.kept for scale in SCALES))


def padding():
    allowed = np.array([[[[True, True, True, False, False]]]])
    masked, _ = mask_logits(np.zeros((1, 1, 1, 5), np.float32), allowed, "add", -1e10)
    return softmax(masked)[0][0, 0, 0, 3:].max()


def layer_norm_gradient():
    _, cache = layer_norm(np.array([[1.0, 3, 5, 7]]), np.ones(4), np.zeros(4), eps=1e-12)
    dx, *_ = layer_norm_backward(np.array([[1.0, 0, 0, 0]]), cache)
    assert abs(dx.sum()) < 1e-12
    return dx[0, 0]


def correlation():
    assert metrics.srcc([1, 2, 3, 10], [1, 2, 3, 4]) == pytest.approx(1)
    return metrics.plcc([1, 2, 3, 10], [1, 2, 3, 4])


def distance():
    return losses.emd(np.log([[0.5, 0.5, 1e-30]]), np.array([[0, 0.5, 0.5]]))[0]


def rollout():
    mixed = (np.array([[0.5, 0.5], [0, 1]]) + np.eye(2)) / 2
    return (mixed @ mixed)[0, 1]


NUMBERS = {
    1: lambda: 1 + sum(scale.kept for scale in SCALES),
    2: lambda: hash_index(13, 19, 10).reshape(13, 19)[7, 12],
    3: lambda: len(np.unique(hash_index(SCALES[0].rows, SCALES[0].columns, 10))),
    4: missing_tokens,
    6: lambda: (softmax(LOGITS)[0] * VALUES).sum(),
    7: lambda: softmax_backward(VALUES, softmax(LOGITS)[1])[0, 2],
    8: lambda: CONFIG.head_width**0.5,
    9: padding,
    10: cost,
    11: lambda: sum(
        np.prod(shape) for name, shape in parameter_shapes(CONFIG).items() if name.startswith("encoder/block_00/")
    ),
    12: layer_norm_gradient,
    16: correlation,
    17: distance,
    18: lambda: 2.262 * 0.020 / 10**0.5,
    19: rollout,
}


def test_every_question_has_its_solution_and_every_number_its_computation():
    assert QUESTIONS == list(SOLUTIONS) == list(range(1, 21))
    assert [n for n, number in SOLUTIONS.items() if number] == list(NUMBERS)


@pytest.mark.parametrize("question", NUMBERS)
def test_the_number_is_what_the_library_computes(question):
    written = SOLUTIONS[question].replace(",", "").replace("−", "-")
    digits = len(written.partition(".")[2])
    assert f"{NUMBERS[question]():.{digits}f}" == written
