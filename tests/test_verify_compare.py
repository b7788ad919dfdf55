"""Comparing: no false alarm on correct ports, every planted fault found and named, small faults in any stage found."""

from __future__ import annotations

import json
import re
import sys
from functools import cache, partial

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import musiq_ref as mq
from musiq_ref import verify
from musiq_ref.cli import main
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import build_fixture, make_fixture
from musiq_ref.verify.adapters import bisect, compare_port, reference_port, run_port, single_step
from musiq_ref.verify.comparison.page import as_page
from musiq_ref.verify.comparison.self_test import self_test
from musiq_ref.verify.ladder.fixture import PRESETS, fixture_image
from musiq_ref.verify.ladder.stages import BACK, run_stages
from musiq_ref.verify.ladder.suite import build_case
from musiq_ref.verify.ladder.tolerance import shaken
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.plant import run_planted

compare = partial(verify.compare, budget=600.0)  # a slow machine finds as much as a fast one
fingerprint = partial(verify.fingerprint, budget=600.0)
FIXTURE = build_fixture()
SINGLE = map_params(lambda a: a.astype(np.float32), FIXTURE.params)
PLAIN = run_stages(SINGLE, FIXTURE.image, FIXTURE.config)


def in_the_ladder(config):
    return [name for name, m in MISTAKES.items() if m.stage is not None and m.applies(config)]


IN_THE_LADDER = in_the_ladder(FIXTURE.config)


def test_enough_faults():
    assert len(IN_THE_LADDER) >= 400


SHARE = 24  # the catalogue's faults in so many shares: one is tested, two are long; `compare --self-test` takes all


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] * (k % SHARE > 0)) for k, n in enumerate(IN_THE_LADDER) if k % SHARE < 3],
)
def test_a_planted_fault_is_detected_and_named(name):
    [result] = self_test(FIXTURE, [name])
    assert result.detected
    assert result.named, result


fixture_of = cache(lambda conventions: build_fixture(conventions=conventions))


@pytest.mark.parametrize("share", [0, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("conventions", ["pyiqa", "paper"])
def test_planted_faults_are_named_under_other_conventions(conventions, share):
    fixture = fixture_of(conventions)
    names = in_the_ladder(fixture.config)
    assert len(names) >= 100
    results = list(self_test(fixture, names[share::SHARE]))
    assert [r.fault for r in results] == names[share::SHARE]
    assert [r for r in results if not (r.detected and r.named)] == []


@pytest.mark.parametrize("runs", [range(8), pytest.param(range(8, 25), marks=pytest.mark.long)], ids=["8", "25"])
@pytest.mark.parametrize("seed", range(8))
def test_no_false_alarm_in_float32(seed, runs):
    """Pixels moved by rounding, tokens in another order, several threads."""
    n = FIXTURE.mask.size
    with threadpool_limits(1 + seed % 2):
        for k in runs:
            order = np.random.default_rng((seed, k)).permutation(n)
            stages = run_stages(
                SINGLE, FIXTURE.image, FIXTURE.config, tap=shaken(1000 * seed + k), gradients=k % 5 == 0
            )
            if k % 5:
                stages = reordered(stages["patches"], order)
            result = compare(FIXTURE, stages, diagnose=False)
            assert result.passed, str(result)


def reordered(patches, order):
    """A float32 run with its tokens in another order, put back into the fixture's."""
    tokens = Tokens(patches, *(FIXTURE.stages[n].array for n in ("hash_index", "scale_index", "mask")))
    seen = {}
    logits, _ = mq.forward(
        SINGLE,
        Tokens(*(a[:, order] for a in tokens)),
        FIXTURE.config,
        tap=lambda name, array: seen.setdefault(name, array),
    )
    back, whole = np.argsort(order), np.concatenate([[0], 1 + np.argsort(order)])
    for name, array in list(seen.items()):
        if "standardized" in name or name.startswith("head"):
            continue
        if name.startswith("stem/"):
            seen[name] = array[back]
        elif "attention/" in name and not name.endswith("out"):
            seen[name] = array[:, :, whole]
            if name.endswith(("logits", "weights")):
                seen[name] = seen[name][..., whole]
        else:
            seen[name] = array[:, back if array.shape[1] == len(order) else whole]
    return {**seen, "score": mq.expected_score(logits)[0].score}


@pytest.mark.parametrize(("height", "width"), [(40, 70), (97, 61), (33, 200)])
@pytest.mark.parametrize("conventions", ["official", "pyiqa"])
def test_no_false_alarm_at_other_sizes(height, width, conventions):
    fixture = build_fixture(conventions=conventions, image=fixture_image(height, width), outputs=1)
    single = map_params(lambda a: a.astype(np.float32), fixture.params)
    for seed in range(3):
        result = compare(fixture, run_stages(single, fixture.image, fixture.config, tap=shaken(50 + seed)))
        assert result.passed, str(result)


FLOATS = [n for n, s in FIXTURE.stages.items() if s.array.dtype.kind == "f" and s.tolerance.absolute is None]


def test_a_fault_of_one_part_in_ten_thousand_is_found_in_every_stage():
    for name in FLOATS:
        result = compare(FIXTURE, {name: PLAIN[name] * np.float32(1 + 1e-4)}, diagnose=False)
        assert result.first is not None, name
        assert result.first.name == name


def test_one_wrong_value_is_found_on_the_way_to_the_score():
    for name in FLOATS:
        stage = FIXTURE.stages[name]
        if name.startswith(BACK) or stage.sample or "/attention/" in name:
            continue
        wrong = PLAIN[name].copy()
        wrong.reshape(-1)[0] += np.float32(0.1 * np.sqrt((wrong**2).mean()))
        assert not compare(FIXTURE, {name: wrong}, diagnose=False).passed, name


def test_integers_are_compared_exactly():
    for name in ("integers/hash", "integers/sides", "layout", "hash_index", "scale_index", "mask"):
        wrong = PLAIN[name].copy()
        wrong.reshape(-1)[0] += 1
        first = compare(FIXTURE, {**PLAIN, name: wrong}, diagnose=False).first
        assert first is not None
        assert first.name == name


def test_where_and_how_much():
    name = "encoder/block_01/attention/heads"
    wrong = PLAIN[name].copy()
    wrong[0, 2, 5, 7] += 1
    first = compare(FIXTURE, {**PLAIN, name: wrong}, diagnose=False).first
    assert first is not None
    assert first.distance is not None
    assert first.where["index"] == [0, 2, 5, 7]
    assert (first.where["head"], first.where["token"]) == (2, 4)
    assert first.where["scale"] == FIXTURE.stages["scale_index"].array[0, 4]
    assert first.distance.max == pytest.approx(1, abs=1e-4)


def test_what_padding_holds_is_free():
    padded = np.concatenate([[False], FIXTURE.mask == 0])
    name = "encoder/block_00/output"
    free = PLAIN[name].copy()
    free[0, padded] = 99
    assert compare(FIXTURE, {**PLAIN, name: free}, diagnose=False).passed
    free[0, ~padded] += 1e-2
    assert not compare(FIXTURE, {**PLAIN, name: free}, diagnose=False).passed


def test_not_finite_is_different():
    wrong = {**PLAIN, "score": np.array([np.nan], np.float32)}
    assert compare(FIXTURE, wrong, diagnose=False).first.name == "score"
    json.loads(json.dumps(compare(FIXTURE, wrong, diagnose=False).to_dict(), allow_nan=False))


VALID = FIXTURE.mask.astype(bool)
SEQUENCE = np.concatenate([[True], VALID])
LAYOUTS = {
    "without batch": lambda s: {n: a[0] if a.shape[:1] == (1,) else a for n, a in s.items()},
    "NCHW": lambda s: {n: a.transpose(0, 3, 1, 2) if n.startswith("stem/") and a.ndim == 4 and "std" not in n
                       and "standardized" not in n else a for n, a in s.items()},
    "patches flat, channel first": lambda s: {**s, "patches": np.moveaxis(s["patches"], -1, -3).reshape(1, 19, -1)},
    "padding left out": lambda s: {
        "patch_embedding": s["patch_embedding"][:, VALID],
        "encoder/input": s["encoder/input"][:, SEQUENCE],
        "encoder/block_00/attention/weights": s["encoder/block_00/attention/weights"][:, :, SEQUENCE][..., SEQUENCE],
        "stem/output": s["stem/output"][VALID],
    },
    "heads side by side": lambda s: {
        n: a.swapaxes(1, 2).reshape(1, 20, -1) for n, a in s.items() if n.endswith(("query", "key", "value"))
        and n.startswith("encoder")},
    "fused qkv": lambda s: {"encoder/block_00/attention/qkv": np.concatenate(
        [s[f"encoder/block_00/attention/{n}"].swapaxes(1, 2).reshape(1, 20, -1) for n in ("query", "key", "value")],
        axis=-1)},
    "pyiqa's names": lambda s: {f"dparams/{n}": a for n, a in mq.checkpoint.to_pyiqa(gradients(s)).items()},
    "the authors' names": lambda s: {f"dparams/{n}": a for n, a in mq.checkpoint.to_official(gradients(s)).items()},
}  # fmt: skip


def gradients(stages):
    from musiq_ref.model.parameters import nest

    return nest({n.removeprefix("dparams/"): a for n, a in stages.items() if n.startswith("dparams/")})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_recognised(layout):
    stages = LAYOUTS[layout](PLAIN)
    result = compare(FIXTURE, stages, diagnose=False)
    assert result.passed, str(result)
    assert sum(r.fine for r in result.rungs) >= min(len(stages), 3)


def test_two_faults_at_once_are_both_named():
    faults = [MISTAKES["erf for tanh"], MISTAKES["scores 0 … C−1"], MISTAKES["unbiased std"]]
    stages = run_planted(faults, SINGLE, FIXTURE.image, FIXTURE.config)
    found = fingerprint(FIXTURE, stages)
    assert sorted(found.names) == sorted(f.name for f in faults)
    assert found.complete
    assert found.conventions["GELU"] == "erf for tanh"
    assert found.conventions["hash"] == "as the reference"


def test_the_score_alone_names_a_fault():
    stages = run_planted([MISTAKES["missing scale embedding"]], SINGLE, FIXTURE.image, FIXTURE.config)
    assert "missing scale embedding" in fingerprint(FIXTURE, {"score": stages["score"]}).names


def test_what_no_catalogue_knows_is_described():
    wrong = {**PLAIN, "encoder/block_01/mlp/fc1": 3 * PLAIN["encoder/block_01/mlp/fc1"]}
    found = fingerprint(FIXTURE, wrong)
    assert (found.complete, found.unexplained) == (False, "encoder/block_01/mlp/fc1")


def wrong_block(fixture, tap, block="encoder/block_01", base=reference_port):
    def change(name, array):
        return tap(name, array * 1.01 if name == f"{block}/mlp/fc1" else array)

    return base(fixture, change)


def test_single_step_shows_each_wrong_stage_alone():
    result = single_step(FIXTURE, wrong_block)
    assert [r.name for r in result.rungs if r.status == "differs"] == ["encoder/block_01/mlp/fc1"]
    free = compare(FIXTURE, run_port(FIXTURE, wrong_block), diagnose=False)
    assert sum(r.status == "differs" for r in free.rungs) > 4


def other_axes(fixture, tap):
    """A port that keeps the heads last but one, patches flat, and no batch axis, and goes on with what it gets."""

    def change(name, array):
        if name.endswith(("attention/query", "attention/key", "attention/value", "attention/heads")):
            return np.swapaxes(tap(name, np.swapaxes(array, 1, 2)), 1, 2)
        if name == "patches":
            return tap(name, array[0].reshape(array.shape[1], -1)).reshape(array.shape)
        return tap(name, array[0])[None] if name == "encoder/input" else tap(name, array)

    return reference_port(fixture, change)


def test_a_port_with_other_axes_is_stepped_and_bisected():
    result = single_step(FIXTURE, other_axes)
    assert result.passed, str(result)
    assert bisect(FIXTURE, other_axes) == ""
    wrong = single_step(FIXTURE, lambda f, tap: wrong_block(f, tap, base=other_axes))
    assert [r.name for r in wrong.rungs if r.status == "differs"] == ["encoder/block_01/mlp/fc1"]


def test_what_a_port_holds_at_padding_is_left_to_it():
    exact = run_stages(FIXTURE.params, FIXTURE.image, FIXTURE.config, gradients=False)
    name, masked = "encoder/block_00/attention/logits", -1e10
    hidden = ~np.concatenate([[True], FIXTURE.mask.astype(bool)])
    hidden = hidden[:, None] | hidden
    got = []
    run_port(FIXTURE, lambda f, tap: got.append(tap(name, np.full_like(exact[name], masked))), exact)
    assert (got[0][..., hidden] == masked).all()
    assert (got[0][..., ~hidden] == exact[name][..., ~hidden]).all()


def test_bisecting():
    assert bisect(FIXTURE, reference_port) == ""
    assert bisect(FIXTURE, wrong_block) == "encoder/block_01"
    assert bisect(FIXTURE, lambda f, tap: wrong_block(f, tap, "encoder/block_00")) == "encoder/block_00"

    def before(fixture, tap):
        return reference_port(fixture, lambda n, a: tap(n, a * 1.01 if n == "patch_embedding" else a))

    def after(fixture, tap):
        return reference_port(fixture, lambda n, a: tap(n, a * 1.01 if n == "encoder/norm" else a))

    assert bisect(FIXTURE, before) == "before the encoder"
    assert bisect(FIXTURE, after) == "after the encoder"


def test_reports():
    stages = run_planted([MISTAKES["erf for tanh"]], SINGLE, FIXTURE.image, FIXTURE.config)
    result = compare(FIXTURE, stages)
    text, page, values = str(result), as_page(result), result.to_dict()
    assert "FIRST DIVERGENCE: encoder/block_00/mlp/gelu" in text
    assert "convention: erf for tanh" in text
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "erf for tanh" in page
    assert values["schema"] == 1
    assert values["first_divergence"] == "encoder/block_00/mlp/gelu"
    assert {s["status"] for s in values["stages"]} <= {"equal", "rounding", "differs", "misshapen", "missing"}
    assert json.loads(json.dumps(values, allow_nan=False)) == values


PROGRAM = """
import sys, numpy as np
fixture, out = sys.argv[-2:]
np.save(out + "/score.npy", np.load(fixture + "/stages/score.npy") * {factor})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "reference"
    make_fixture(path)
    return path


def test_the_command(folder, tmp_path, capsys):
    assert main(["compare", str(folder), str(folder)]) == 0
    assert "PASSED: 243 of 243 stages compared" in capsys.readouterr().out
    np.savez(tmp_path / "mine.npz", score=np.load(folder / "stages/score.npy") - 1)
    page = tmp_path / "report.html"
    assert main(["compare", str(folder), str(tmp_path / "mine.npz"), "--json", "--html", str(page)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["diagnosis"]["findings"][0]["name"] == "scores 0 … C−1"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    port = "musiq_ref.verify.adapters:reference_port"
    assert main(["compare", str(folder), port]) == 0
    assert main(["compare", str(folder), port, "--single-step"]) == 0
    assert main(["compare", str(folder), port, "--bisect"]) == 0


@pytest.mark.parametrize("inside", [True, False])
def test_a_port_imports_what_lies_beside_it(folder, tmp_path, monkeypatch, capsys, inside):
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "port_of_parts.py").write_text("from part_of_it import reference_port as port")
    (tmp_path / "part_of_it.py").write_text("from musiq_ref.verify.adapters import reference_port")
    monkeypatch.chdir(tmp_path if inside else tmp_path.parent)
    port = "port_of_parts:port" if inside else f"{tmp_path.name}/port_of_parts.py:port"
    assert main(["compare", str(folder), port]) == 0, capsys.readouterr().err


def test_a_port_that_raises_is_shown_its_own_line():
    def port(fixture, tap):
        np.linalg.inv(np.zeros((2, 2)))  # raises in NumPy's own file

    with pytest.raises(ValueError, match=r"port raised LinAlgError.*test_verify_compare\.py line \d+$"):
        compare_port(FIXTURE, port)


@pytest.mark.parametrize(("factor", "code"), [("1", 0), ("1.01", 1), ("undefined", 2)])
def test_a_program_in_any_language(folder, tmp_path, capsys, factor, code):
    (tmp_path / "port.py").write_text(PROGRAM.replace("{factor}", factor))
    assert main(["compare", str(folder), "--command", f"{sys.executable} {tmp_path / 'port.py'}"]) == code
    if code == 2:
        assert "name 'undefined' is not defined" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name MINE, or a program"),
        (["nowhere"], "neither a folder nor"),
        (["x.py:f", "--command", "y"], "one of the two"),
        ([".", "--bisect"], "need a callable"),
        (["nowhere.py:f"], "nowhere.py:f: there is no file nowhere.py"),
        (["guide.py"], "add a colon and the name of the function in it: guide.py:FUNCTION"),
        (["guide.py:"], "no function '' in guide.py"),
        (["guide.py:prt"], "no function 'prt' in guide.py; did you mean 'port'?"),
        (["--command", "true"], "true: wrote no .npy file into the folder that is its last argument"),
        (["--command", "sh -c 'echo Error: no luck, by; echo Node.js v20; false'"], "with exit code 1: Error: no luck"),
        (["musiq_ref.verify.adapters:nothing"], "no function 'nothing'"),
        (["--command", "/no/such/program"], "could not be run"),
    ],
)
def test_bad_use_is_one_sentence(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guide.py").write_text("def port(fixture, tap): pass")
    assert main(["compare", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_stage_among_the_arrays():
    with pytest.raises(ValueError, match="has the name of a stage"):
        compare(FIXTURE, {"nonsense": np.zeros(3)})


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("scale_index", 1, "integers must be equal; 2 of 14 differ"),
        ("encoder/norm", np.nan, "it holds NaN at 2 of 720 places"),
        ("encoder/norm", -np.inf, "it holds infinity at 2 of 720 places"),
    ],
)
def test_what_has_no_size_of_an_error_is_said_in_words(name, wrong, said):
    array = FIXTURE.stages[name].array.copy()
    array[0, 14:].flat[:2] = wrong
    result = compare(FIXTURE, {name: array}, diagnose=False)
    first = str(result).partition("FIRST DIVERGENCE")[2]
    assert first.splitlines()[1].strip() == said
    assert result.to_dict()["stages"][[r.name for r in result.rungs].index(name)]["note"] == said
    assert " inf " not in first
    assert ">inf<" not in as_page(result)
    assert "inf ×" not in as_page(result)


def test_a_constant_factor_is_said_in_words():
    result = compare(FIXTURE, {"encoder/norm": 1.25 * FIXTURE.stages["encoder/norm"].array}, diagnose=False)
    assert "1.25 times the reference would fit it best" in str(result)


def test_a_fault_that_an_image_cannot_show_is_told_from_one_that_is_missed(folder, monkeypatch, capsys):
    """With pyiqa's sides the tiny fixture pads by even numbers only; the suite's portrait does not."""
    from musiq_ref.cli import compare as command

    fault = "padding with the larger half first"
    [hidden] = self_test(build_fixture(conventions="pyiqa"), [fault])
    assert (hidden.detected, hidden.shows) == (False, False)
    for fixture in (FIXTURE, build_case("portrait", "pyiqa"), build_case("portrait", "paper")):
        [found] = self_test(fixture, [fault])
        assert (found.detected, found.named, found.shows) == (True, True, True)
    monkeypatch.setattr(command, "to_plant", lambda fixture: [fault])
    for rows, code in (([hidden], 0), ([hidden._replace(shows=True)], 1)):
        monkeypatch.setattr(command, "self_test", lambda fixture, rows=rows: iter(rows))
        assert main(["compare", str(folder), "--self-test"]) == code
    hidden_said, missed_said = capsys.readouterr().out.split("0 of 0")
    assert f"hidden   {fault}\n{fault}: changes no number of this fixture" in hidden_said
    assert f"MISSED   {fault}\n0 of 1 planted" in missed_said


def test_tf32_is_not_called_float16_where_the_numbers_are_both():
    """The paper's order has the native image first, whose pixels in TF32 are numbers of float16 as well."""
    [found] = self_test(build_fixture(conventions="paper"), ["kept in TF32"])
    assert found.names == ("kept in TF32",)


def test_a_self_test_says_how_far_it_is(folder, monkeypatch, capsys):
    from musiq_ref.cli import compare as command

    monkeypatch.setattr(command, "EVERY", 0.0)
    monkeypatch.setattr(command, "to_plant", lambda fixture: ["BGR", "erf for tanh"])
    monkeypatch.setattr(command, "self_test", lambda fixture: self_test(fixture, ["BGR", "erf for tanh"]))
    assert main(["compare", str(folder), "--self-test"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("2 of 2 planted faults detected and named\n")
    first, second = said.err.splitlines()
    assert first.startswith("2 known faults are planted one by one")
    assert re.fullmatch(r"1 of 2, about \d+\.\d minutes left", second)


def test_a_wrong_shape_is_named():
    result = compare(FIXTURE, {"encoder/input": np.zeros((3, 7))})
    assert result.first is not None
    assert result.first.note == "encoder/input has shape (3, 7); it must be (1, 20, 48)"
    assert compare_port(FIXTURE, lambda f, tap: {"score": PLAIN["score"]}).passed
    assert set(PRESETS) == {"tiny", "small"}
