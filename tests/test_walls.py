"""The kit never touches the live library: while a thread diagnoses ports, others compute as ever, to the bit."""

from __future__ import annotations

import ast
import sys
import threading
from pathlib import Path

import numpy as np

import musiq_ref as mq
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.ops.softmax import softmax
from musiq_ref.training.step import batch_gradient
from musiq_ref.verify import build_fixture, fingerprint, op
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.plant import run_planted

CONFIG = mq.MusiqConfig.preset("tiny", outputs=10, longer_sides=(56, 96))
PARAMS = mq.verify.deterministic_params(CONFIG, seed=3)
IMAGE = mq.verify.deterministic_image(5, 70, 90)
FIXTURE = build_fixture(image=IMAGE)
SINGLE = map_params(lambda a: a.astype(np.float32), FIXTURE.params)


def score():
    checkpoint = mq.Checkpoint(PARAMS, CONFIG, "native", None)
    [result] = mq.score([IMAGE], checkpoint)
    return [np.array(result.value), result.distribution]


def gradient():
    value, dimage = mq.image_gradient(IMAGE, PARAMS, CONFIG)
    return [np.array(value), dimage]


def training():
    tokens = [mq.tokenize(IMAGE, CONFIG), mq.tokenize(IMAGE[::-1], CONFIG)]
    result = batch_gradient(PARAMS, tokens, np.array([3.0, 7.0]), CONFIG, "l1")
    return [np.array(result.loss), *(a for _, a in flatten(result.gradients))]


WORK = (score, gradient, training)


def wrong(name, stage):
    """A port with a mistake, of which the stage that shows it and the one before are given."""
    stages = run_planted([MISTAKES[name]], SINGLE, IMAGE, FIXTURE.config)
    order = list(stages)
    return {n: stages[n] for n in order[order.index(stage) - 1 : order.index(stage) + 1]}


PORT = wrong("scores 0 … C−1", "score")


def diagnose(stop):
    """Plants and diagnoses, through all of the kit's doors, until it is told to stop; returns how often."""
    rounds = 0
    while not stop.is_set():
        run_planted([MISTAKES[n] for n in ("quick GELU", "BGR", "softmax over the queries")], SINGLE, IMAGE, CONFIG)
        op("softmax", lambda x: (np.exp(x), None), tries=3)
        fingerprint(FIXTURE, PORT)
        rounds += 1
    return rounds


def test_while_a_thread_diagnoses_others_compute_what_they_always_do():
    alone, stop, failures, rounds = [work() for work in WORK], threading.Event(), [], []
    thread = threading.Thread(target=lambda: rounds.append(diagnose(stop)))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-3)  # so that threads meet at more places
    thread.start()
    try:
        for _ in range(8):
            for right, work in zip(alone, WORK, strict=True):
                same = all(a.tobytes() == b.tobytes() for a, b in zip(right, work(), strict=True))
                failures += [] if same else [work.__name__]
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert rounds, "the diagnosis ended with an error"
    assert failures == []


def test_two_diagnoses_at_once_find_what_each_finds_alone():
    ports = {"scores 0 … C−1": "score", "missing scale embedding": "scale_embedding"}
    found = {}
    threads = [
        threading.Thread(target=lambda n=name, at=stage: found.update({n: fingerprint(FIXTURE, wrong(n, at)).names}))
        for name, stage in ports.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [name] for name in ports}


def test_no_function_of_the_library_is_another_after_a_diagnosis():
    before = {name: dict(vars(module)) for name, module in library()}
    fingerprint(FIXTURE, PORT)
    for name, module in library():
        assert {k: v for k, v in vars(module).items() if before[name].get(k) is not v} == {}
    assert softmax is sys.modules["musiq_ref.model.attention"].softmax


def library():
    return [
        (n, m) for n, m in sys.modules.items() if n.startswith(("musiq_ref.ops", "musiq_ref.image", "musiq_ref.model"))
    ]


def test_the_package_patches_nothing():
    root = Path(mq.__file__).parent
    for file in root.rglob("*.py"):
        names = {
            alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {n for n in names if n.startswith("unittest")}, file
