"""The explorer's engine under Node.js, certified by the kit; and what the kit says of it with a fault in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.checkpoint.native import config_to_json
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.explorer import engine
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model.gradient_by_team import patch_gradient
from musiq_ref.model.parameters import flatten, nest
from musiq_ref.verify import deterministic_params, make_fixture, trace
from musiq_ref.verify.adapters import run_command
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.comparison.suite import compare_suite
from musiq_ref.verify.ladder.suite import make_suite

NODE = shutil.which("node") or ""
pytestmark = pytest.mark.skipif(not NODE, reason="needs Node.js")
PORT = Path(__file__).with_name("explorer_port.mjs")
TERMS = PORT.with_name("explorer_terms.mjs")
REQUIRED = [
    "integers/*",
    "layout",
    "hash_index",
    "pixels/*",
    "patches",
    "stem/*",
    "patch_embedding",
    "encoder/*",
    "head/*",
]
REQUIRED += ["score", "gradient/*", "dparams/*"]


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    return make_fixture(tmp_path_factory.mktemp("follow") / "official", conventions="official")


def computed(fixture, folder, source):
    """The stages that an engine's source computes."""
    script = folder / "engine.js"
    script.write_text(source, encoding="utf-8")
    return run_command(f'"{NODE}" "{PORT}" "{script}"', fixture)


def without_simd(source):
    return source.replace("new WebAssembly.Memory", "new Nothing")


SOURCES = [
    pytest.param(engine(), id="WebAssembly"),
    pytest.param(without_simd(engine()), id="JavaScript", marks=pytest.mark.long),
]


@pytest.mark.parametrize("source", SOURCES)
def test_the_kit_certifies_every_stage_and_gradient(official, tmp_path, source):
    result = compare(official, computed(official, tmp_path, source), require=REQUIRED)
    assert result.passed, str(result)


@pytest.mark.parametrize("conventions", ["pyiqa", "paper"])
def test_other_conventions_are_certified_too(conventions, tmp_path):
    fixture = make_fixture(tmp_path / "fixture", conventions=conventions)
    result = compare(fixture, computed(fixture, tmp_path, engine()), require=REQUIRED)
    assert result.passed, str(result)


@pytest.mark.long
def test_pictures_of_all_shapes_are_certified(tmp_path):
    suite = make_suite(tmp_path / "suite")
    result = compare_suite(suite, {name: computed(fixture, tmp_path, engine()) for name, fixture in suite.items()})
    assert result.passed, str(result)


FAULTS = {  # a line of the engine: what stands there instead, the stage that differs first, and what the kit says
    "eps = 1e-6)": ("eps = 1e-5)", "encoder/block_00/norm1", "LayerNorm with ε 1e-5"),
    'tap("residual1", add(dz, dx))': (
        'tap("residual1", dx)',
        "gradient/encoder/block_01/residual1",
        "second residual's gradient dropped",
    ),
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_planted_into_the_javascript_is_found_and_named(line, official, tmp_path):
    wrong, stage, words = FAULTS[line]
    source = engine()
    assert source.count(line) == 1
    result = compare(official, computed(official, tmp_path, source.replace(line, wrong)))
    assert result.first
    assert result.first.name == stage
    assert words in str(result)


def run_in_node(script, tmp_path, given):
    """What a script prints as JSON, run with the engine's names and JSON from us."""
    (tmp_path / "engine.js").write_text(engine(), encoding="utf-8")
    begin = """const { readFileSync } = require("fs");
    require("vm").runInThisContext(readFileSync(process.argv[1], "utf8"));
    const given = JSON.parse(readFileSync(0, "utf8"));"""
    done = subprocess.run(
        [NODE, "-e", begin + script, str(tmp_path / "engine.js")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


CHANGES = [{"attention": "performer"}, {"memory_tokens": 3}, {"stem": "wavelets"}, {"conventions": {"gelu": "sigmoid"}}]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_the_engine_does_not_compute_is_refused(change, tmp_path):
    script = "try { session({}, given); } catch (error) { console.log(JSON.stringify(error.message)); }"
    said = run_in_node(script, tmp_path, json.loads(config_to_json(mq.MusiqConfig())) | change)
    [name] = change.get("conventions", change)
    assert f"{name} = " in said
    assert said.endswith("is not computed here; use musiq_ref in Python")


@pytest.mark.parametrize("conventions", ["official", "pyiqa", "paper"])
def test_hidden_tokens_are_masked_by_each_convention(conventions, tmp_path, rng):
    config = mq.MusiqConfig.preset("tiny", conventions=NAMED_CONVENTIONS[conventions])
    params = deterministic_params(config, 5, "float32")
    image = rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    given = {
        "weights": {n: {"shape": v.shape, "data": v.ravel().tolist()} for n, v in flatten(params)},
        "config": json.loads(config_to_json(config)),
        "pixels": {"width": 60, "height": 40, "data": image.ravel().tolist()},
    }
    script = """
    for (const weight of Object.values(given.weights)) weight.data = Float32Array.from(weight.data);
    const model = session(nest(given.weights), given.config);
    model.load(given.pixels);
    model.score({ hidden: [1, 4] });
    const { data } = model.stage("encoder/block_00/attention/weights");
    console.log(JSON.stringify({ score: model.expected.score, weights: [...data] }));"""
    answer = run_in_node(script, tmp_path, given)
    tokens = mq.batch([drop_padding(mq.tokenize(image[..., :3].copy(), config))])
    mask = tokens.mask.copy()
    mask[0, [1, 4]] = False
    values, _ = trace(params, tokens._replace(mask=mask), config)
    np.testing.assert_allclose(answer["weights"], values["encoder/block_00/attention/weights"].ravel(), atol=1e-5)
    assert answer["score"] == pytest.approx(float(values["head/logits"][0, 0]), abs=1e-4)


def check_maps(maps, image, weights, config):
    """Rollout, gradient and regions of every token are those of the library, or of their definition."""
    params = nest({name: np.reshape(one["data"], one["shape"]) for name, one in weights.items()})
    tokens = drop_padding(mq.tokenize(image, config))
    order = np.argsort(tokens.scale_index, kind="stable")
    shares = mq.attention_rollout(params, tokens, config)
    np.testing.assert_allclose(
        np.array(maps["rollout"])[order], np.concatenate([one.ravel() for one in shares]), rtol=1e-4
    )
    strength = np.abs(patch_gradient(params, tokens, config)[1]).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(maps["gradient"], strength, rtol=1e-3, atol=1e-4 * strength.max())
    halves = [[int(2 * (i + 0.5) / n) for i in range(n)] for one in shares for n in one.shape]
    regions = [
        2 * row + column
        for rows, columns in zip(halves[::2], halves[1::2], strict=True)
        for row in rows
        for column in columns
    ]
    assert np.array(maps["regions"])[order].tolist() == regions


def test_the_terms_that_the_page_shows_add_up(tmp_path, rng):
    config = mq.MusiqConfig.preset("tiny", longer_sides=(40,), patch_size=16, outputs=3)
    weights = {
        name: {"shape": value.shape, "data": value.ravel().tolist()}
        for name, value in flatten(deterministic_params(config, 3, "float32"))
    }
    pixels = {"width": 50, "height": 34, "data": rng.integers(0, 256, 50 * 34 * 4).tolist()}
    given = json.dumps({"weights": weights, "config": json.loads(config_to_json(config)), "pixels": pixels})
    (tmp_path / "engine.js").write_text(engine(), encoding="utf-8")
    done = subprocess.run(
        [NODE, str(TERMS), str(tmp_path / "engine.js")], input=given, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    check_maps(answer["maps"], np.reshape(pixels["data"], (34, 50, 4))[..., :3].astype(np.uint8), weights, config)
    assert len({one["rule"] for one in answer["found"]}) == answer["rules"]
    assert [one for one in answer["found"] if one["error"] > 2e-5 * one["size"] + 1e-7] == []
    for file, line in answer["source"].values():
        assert line in (Path(mq.__file__).parent / file).read_text(encoding="utf-8")
