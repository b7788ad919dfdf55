"""Suites, fixtures of training, JUnit XML, and what people copy into their own CI."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from musiq_ref.cli import main
from musiq_ref.image.resize import resized_sides
from musiq_ref.image.tokenize import tokenize
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.training.optimizers import OPTIMIZERS
from musiq_ref.training.step import batch_gradient
from musiq_ref.verify import FixtureError, compare, fingerprint, load_fixture
from musiq_ref.verify.adapters import run_port
from musiq_ref.verify.comparison.junit import as_junit
from musiq_ref.verify.comparison.suite import compare_suite, over_cases
from musiq_ref.verify.ladder.descent import curve
from musiq_ref.verify.ladder.stages import targets
from musiq_ref.verify.ladder.suite import CASES, load_suite, make_suite
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.reference import Reference

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "ci"
PORT = """
from musiq_ref.verify.adapters import reference_port

def port(fixture, tap):
    if fixture.config.patch_size != 32:
        raise NotImplementedError("P = 32 only")
    return {} if fixture.config.outputs == 1 else reference_port(fixture, tap)

def right(fixture, tap):
    return reference_port(fixture, tap)

def wrong(fixture, tap):
    return reference_port(fixture, lambda n, a: tap(n, a * 1.01 if n == "encoder/block_02/norm1" else a))
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite") / "reference"
    assert main(["fixture", str(folder), "--suite"]) == 0
    return folder


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    file = tmp_path_factory.mktemp("ports") / "my_port.py"
    file.write_text(PORT, encoding="utf-8")
    return file


@pytest.fixture
def mine(suite, tmp_path):
    for case in CASES:
        shutil.copytree(suite / case / "stages", tmp_path / "mine" / case)
    return tmp_path / "mine"


def test_a_suite_is_small_and_holds_what_one_picture_does_not_show(suite):
    fixtures = load_suite(suite)
    assert sum(f.stat().st_size for f in suite.rglob("*") if f.is_file()) < 12e6
    assert {f.config.outputs for f in fixtures.values()} == {1, 10}
    assert {f.config.patch_size for f in fixtures.values()} == {16, 32}
    assert max(f.config.layers for f in fixtures.values()) == 12
    height, width = fixtures["portrait"].image.shape[:2]
    assert height > width
    sides = [resized_sides(height, width, longer)[1] for longer in fixtures["portrait"].config.longer_sides]
    assert sides != [width * longer // height for longer in fixtures["portrait"].config.longer_sides]
    assert sides == [-(-width * longer // height) for longer in fixtures["portrait"].config.longer_sides]
    assert fixtures["exactly_384"].image.shape[1] == max(fixtures["exactly_384"].config.longer_sides) == 384
    assert max(fixtures["upscaled"].image.shape) < min(fixtures["upscaled"].config.longer_sides)
    assert fixtures["one_patch"].stages["mask"].shape == (1, fixtures["one_patch"].config.scales)


def test_folders_are_compared_case_by_case(suite, mine, tmp_path, capsys):
    shutil.rmtree(mine / "panorama")
    page, junit = tmp_path / "report.html", tmp_path / "report.xml"
    assert main(["compare", str(suite), str(mine), "--html", str(page), "--junit", str(junit)]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"PASSED: 7 of 8 cases compared, (\d+) of \1 stages in them, none differs; nothing given: panorama", said
    )
    assert page.read_text(encoding="utf-8").count("twelve_layers") > 2
    root = ElementTree.parse(junit).getroot()
    assert [child.get("name") for child in root] == [case for case in CASES if case != "panorama"]
    assert root.get("failures") == root.get("errors") == "0"
    assert main(["compare", str(suite), str(mine), "--require", "score", "--junit", str(junit)]) == 1
    assert ElementTree.parse(junit).getroot().find("testsuite[@name='panorama']/testcase/error") is not None
    (mine / "panorma").mkdir()
    assert main(["compare", str(suite), str(mine)]) == 2
    assert "did you mean 'panorama'?" in capsys.readouterr().err


@pytest.mark.parametrize(("function", "code"), [("right", 0), ("wrong", 1), ("port", 2)])
def test_a_callable_meets_every_case(suite, ports, capsys, function, code):
    arguments = ["compare", str(suite), f"{ports}:{function}", "--no-diagnosis", "--json"]
    assert main(arguments) == code
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is (code == 0)
    if function == "wrong":
        differ = {name for name, c in said["cases"].items() if not c["passed"]}
        assert differ == {"twelve_layers"}
        assert said["cases"]["twelve_layers"]["first_divergence"] == "encoder/block_02/norm1"
    if function == "port":
        assert said["not_given"] == ["one_output"]
        assert "P = 32 only" in said["failed"]["patch_16"]


def test_blocks_in_the_order_of_strings_show(suite):
    fixture = load_suite(suite)["twelve_layers"]
    names = sorted(range(12), key=str)
    stages = {n: s.array for n, s in fixture.stages.items() if n.startswith("encoder/block")}
    wrong = {f"encoder/block_{i:02d}/output": stages[f"encoder/block_{j:02d}/output"] for i, j in enumerate(names)}
    result = compare(fixture, wrong, diagnose=False)
    assert result.first is not None
    assert result.first.name == "encoder/block_02/output"


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        ("sides cut off, not rounded", "portrait"),
        ("blocks in the order of their names as strings (0, 1, 10, 11, …, 2)", "twelve_layers"),
    ],
)
def test_a_case_names_what_it_is_for(suite, mistake, case):
    """Sides, though a case does without integers/sides; and nothing besides, though of the loss rounding is left."""
    fixture = load_suite(suite)[case]
    mine = Reference(fixture).run([MISTAKES[mistake]])
    score = mine["score"] * (1 + 2e-7)
    target = targets(fixture.config)[0]
    mine |= {"score": score, "loss/l1": np.abs(score - target).mean(), "loss/mse": ((score - target) ** 2).mean()}
    found = fingerprint(fixture, mine)
    assert found.names == [mistake]
    assert not found.unexplained


def test_the_first_case_that_differs_is_diagnosed(suite):
    fixtures = {name: f for name, f in load_suite(suite).items() if name in ("one_patch", "upscaled")}
    scores = {name: {"score": f.stages["score"].array - 1} for name, f in fixtures.items()}
    result = compare_suite(fixtures, scores)
    assert [c.diagnosis is not None for c in result.cases.values()] == [True, False]
    assert "scores 0 … C−1" in str(result)
    with pytest.raises(ValueError, match="nothing to compare"):
        over_cases(fixtures, lambda case, fixture, **options: None)


def test_notes_of_the_cases_are_shown_once(suite, mine):
    for case in ("portrait", "upscaled"):
        for name in ("score", "encoder/norm"):
            file = mine / case / f"{name}.npy"
            np.save(file, np.load(file).astype(np.float16))
    (mine / "Panorama").mkdir()
    text = str(compare_suite(suite, mine, diagnose=False, allow_unknown=True))
    assert text.count("such a port is judged with --precision float16 (portrait)") == 1
    assert "note      Panorama is no case of the suite" in text


def edited(file):
    file.write_text(file.read_text().replace("P = 16", "P = 8"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "suite.json").write_text("{"), "cannot be read as a suite"),
        (lambda s: edited(s / "suite.json"), "was edited"),
        (lambda s: shutil.rmtree(s / "portrait"), "portrait/manifest.json: is missing"),
        (lambda s: (s / "more").mkdir(), "more: does not belong"),
        (lambda s: (s / "portrait/stages/score.npy").write_bytes(b""), "score.npy"),
        (lambda s: shutil.rmtree(s / "portrait") or shutil.copytree(s / "panorama", s / "portrait"), "another suite"),
    ],
)
def test_a_damaged_suite_is_refused_by_name(suite, tmp_path, damage, message):
    copy = shutil.copytree(suite, tmp_path / "copy")
    damage(copy)
    with pytest.raises(FixtureError, match=message):
        load_suite(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fixture", "new", "--suite", "--training"], "one of the two"),
        (["fixture", "new", "--suite", "--outputs", "3"], "of their own"),
        (["compare", "SUITE", "--self-test"], "is a suite"),
        (["compare", "SUITE", "nowhere"], "is no folder"),
    ],
)
def test_bad_use_is_one_sentence(suite, monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(suite) if a == "SUITE" else a for a in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_runs_write_the_same_suite(suite, tmp_path):
    make_suite(tmp_path / "again")
    assert (tmp_path / "again" / "suite.json").read_bytes() == (suite / "suite.json").read_bytes()


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "reference"
    assert main(["fixture", str(folder), "--training"]) == 0
    return folder


def descent(**changes):
    """A float32 port that takes the images in the other order, with other settings of one optimiser."""

    def port(fixture, tap):
        about = fixture.manifest["training"]
        tokens = [tokenize(image, fixture.config) for image in fixture.image][::-1]
        for name, settings in about["optimizers"].items():
            params = map_params(lambda a: a.astype(np.float32), fixture.params)
            begin, update = OPTIMIZERS[name]
            state, settings = begin(params), {**settings, **changes.get(name, {})}
            eps, times = settings.get("eps", 0), settings.pop("eps_times", lambda k: 1)
            for k in range(1, about["steps"] + 1):
                settings |= {"eps": eps * times(k)} if eps else {}
                found = batch_gradient(params, tokens, np.array(about["targets"])[::-1], fixture.config, about["loss"])
                tap(f"training/{name}/step_{k}/loss", found.loss)
                params, state = update(params, found.gradients, state, **settings)
                for path, value in flatten(params):
                    tap(f"training/{name}/step_{k}/params/{path}", value)

    return port


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, ""),
        ({"sgd": {"momentum": 0.0}}, "training/sgd/step_2"),
        ({"sgd": {"nesterov": True}}, "training/sgd/step_1"),
        ({"sgd": {"weight_decay": 0.0}}, "training/sgd/step_1"),
        ({"sgd": {"lr": 3.03e-4}}, "training/sgd/step_1"),
        ({"adam": {"beta2": 0.999}}, "training/adam/step_2"),
        ({"adam": {"eps": 1e-8}}, "training/adam/step_1"),
        ({"adam": {"eps_times": lambda k: 0.5}}, "training/adam/step_1"),
        ({"adam": {"eps_times": lambda k: 2}}, "training/adam/step_1"),
        ({"adam": {"eps_times": lambda k: (1 - 0.95**k) ** -0.5}}, "training/adam/step_1"),  # beside √v, not √v̂: Keras
        ({"adam": {"weight_decay": 0.01, "decoupled": True}}, "training/adam/step_1"),
    ],
)
def test_training_is_compared_step_by_step(training, changes, first):
    fixture = load_fixture(training)
    result = compare(fixture, run_port(fixture, descent(**changes)))
    assert result.passed is (not first), str(result)
    assert not first or (result.first is not None and result.first.name.startswith(first)), result.first


@pytest.mark.parametrize(
    ("right", "wrong"), [("adam/step_2/loss", "adam/step_2/los"), ("adam/step_5/params/", "Adam/step_5/params/")]
)
def test_a_stage_of_training_that_is_misspelt_is_refused(training, right, wrong):
    arrays = {name: s.array for name, s in load_fixture(training).stages.items()}
    renamed = {name.replace(right, wrong): array for name, array in arrays.items()}
    with pytest.raises(ValueError, match=f"'training/{wrong}.*did you mean 'training/{right}"):
        compare(training, renamed)
    own = {name.replace("params/head/bias", "params/fc.bias"): array for name, array in arrays.items()}
    assert compare(training, own).notes == ["10 parameters have names that are not ours; they were not compared"]


def test_the_published_curve_is_what_the_command_prints(training, capsys):
    fixture = load_fixture(training)
    assert curve(fixture) in (ROOT / "docs" / "port-guide.md").read_text(encoding="utf-8")
    assert main(["compare", str(training), str(training), "--precision", "float16"]) == 2
    assert "float32 only" in capsys.readouterr().err
    assert main(["compare", str(training), "x.py:f", "--bisect"]) == 2


def test_junit_tells_failures_from_what_was_not_given(training):
    fixture = load_fixture(training)
    name = "training/sgd/step_1/loss"
    result = compare(fixture, {name: fixture.stages[name].array * 2}, require=["training/sgd/step_?/loss"])
    root = ElementTree.fromstring(as_junit({"training": result}, {"other": "raised"}))
    assert (root.get("failures"), root.get("errors")) == ("5", "1")
    said = {
        case.get("name"): failure.get("message") for case in root.iter("testcase") for failure in case.iter("failure")
    }
    assert "median error" in str(said[name])
    assert said["training/sgd/step_2/loss"] == "required"
    assert root.find(".//skipped") is not None


def test_the_example_for_pytest_runs(ports, tmp_path):
    test = shutil.copy(EXAMPLES / "test_musiq.py", tmp_path)
    assert len(Path(test).read_text().split("\n\n", 1)[1].strip().splitlines()) <= 10
    for port, code in (("right", 0), ("lambda fixture, tap: {'score': [1.0]}", 1)):
        text = f"{ports.read_text()}\nport = {port}\n"
        (tmp_path / "my_port.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_the_commands_of_the_workflow_run(ports, tmp_path, monkeypatch):
    lines = re.findall(r"- run: (musiq-ref .*)", (EXAMPLES / "musiq.yml").read_text(encoding="utf-8"))
    shutil.copy(ports, tmp_path)
    monkeypatch.chdir(tmp_path)
    make, check = (shlex.split(line)[1:] for line in lines)
    assert main(make) == 0
    assert main(["my_port.py:right" if a == "my_port.py:port" else a for a in check]) == 0
    assert (tmp_path / "musiq.xml").exists()
    assert (tmp_path / "musiq.html").exists()
