"""No false green: what a verdict covers, what was required, names that are no stage, arrays that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.cli import main
from musiq_ref.verify import build_fixture, compare, make_fixture
from musiq_ref.verify.adapters import compare_port, reference_port, single_step
from musiq_ref.verify.comparison.page import as_page
from musiq_ref.verify.ladder.fixture import fixture_image

FIXTURE = build_fixture()
ARRAYS = {name: stage.array for name, stage in FIXTURE.stages.items()}


def verdict(mine, **options):
    return str(compare(FIXTURE, mine, diagnose=False, **options)).splitlines()[-1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["score"],
            "1 of 243 stages compared, none differs; not compared: what comes before score, what comes after score;",
        ),
        (["mask", "patches", "score"], "not compared: what lies between patches and score, what comes after score"),
        (list(ARRAYS)[:10], "10 of 243 stages compared, none differs; not compared: what comes after patches"),
        (list(ARRAYS), "243 of 243 stages compared, none differs"),
    ],
)
def test_the_verdict_says_what_it_covers(names, said):
    line = verdict({name: ARRAYS[name] for name in names})
    assert line.startswith("PASSED: ")
    assert said in line
    assert line.endswith("differs") == (len(names) == len(ARRAYS))


@pytest.mark.parametrize(
    "mine",
    [
        {name.replace("/", "_"): a for name, a in ARRAYS.items()},
        {**ARRAYS, "encoder/block_00/norm_1": ARRAYS["encoder/block_00/norm1"]},
        {"score": ARRAYS["score"], "Score": ARRAYS["score"]},
    ],
)
def test_a_name_that_is_no_stage_is_an_error(mine):
    with pytest.raises(ValueError, match=r"is no stage of this fixture.*\(allow_unknown=True\); did you mean '"):
        compare(FIXTURE, mine)
    result = compare(FIXTURE, mine, diagnose=False, allow_unknown=True)
    assert result.passed
    assert any("is no stage of this fixture" in note for note in result.notes)


def test_stages_that_other_fixtures_have_may_be_given():
    fixture = build_fixture(image=fixture_image(40, 50), outputs=1)
    given = {"score": fixture.stages["score"].array, "probabilities": np.ones((1, 1)), "loss/emd": 1.0}
    result = compare(fixture, {**given, "notes": ["about the port"]}, diagnose=False)
    assert result.passed
    assert result.notes == ["about the port"]


@pytest.mark.parametrize("mine", [{}, {"score": None}])
def test_nothing_is_no_comparison(mine):
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(FIXTURE, mine)


def test_what_is_required():
    score = {"score": ARRAYS["score"]}
    assert compare(FIXTURE, score, require=["score"]).passed
    result = compare(FIXTURE, score, require=["encoder/*", "score"])
    assert not result.passed
    assert len(result.lacking) == 30
    assert "required and not given: encoder/input and 29 more" in str(result)
    assert "required and not given" in as_page(result)
    assert result.to_dict()["required_missing"] == result.lacking
    assert not compare_port(FIXTURE, reference_port, require=["dparams/*"]).passed
    assert not single_step(FIXTURE, reference_port, require=["dparams/*"]).passed
    with pytest.raises(ValueError, match=r"'encodr/norm', which is required; did you mean 'encoder/norm'"):
        compare(FIXTURE, score, require=["encodr/norm"])


def test_the_exit_codes(tmp_path, capsys):
    make_fixture(tmp_path / "reference", image=fixture_image(40, 50))
    score = tmp_path / "mine.npz"
    np.savez(score, score=np.load(tmp_path / "reference/stages/score.npy"))
    command = ["compare", str(tmp_path / "reference"), str(score)]
    assert main([*command, "--require", "score"]) == 0
    assert main([*command, "--require", "score", "encoder/*"]) == 1
    assert main([*command, "--require", "scores"]) == 2
    np.savez(score, score=np.load(score)["score"], encoder_norm=np.ones(3))
    assert main(command) == 2
    assert "did you mean 'encoder/norm'?" in capsys.readouterr().err
    assert main([*command, "--allow-unknown"]) == 0
    (tmp_path / "a.xml").write_text("<mine/>")
    assert main([*command, "--allow-unknown", "--junit", str(tmp_path / "a.xml")]) == 2
    assert main([*command, "--allow-unknown", "--junit", str(tmp_path / "a.xml"), "--force"]) == 0
    assert main([*command, "--allow-unknown", "--junit", str(tmp_path / "a.xml")]) == 0


def test_what_padded_tokens_hold_is_free():
    padded, wrong = FIXTURE.mask == 0, dict(ARRAYS)
    for name in ("patches", "hash_index", "scale_index"):
        wrong[name] = ARRAYS[name].copy()
        wrong[name][0, padded] = 1
    result = compare(FIXTURE, wrong)
    assert result.passed
    assert result.diagnosis is not None
    assert not result.diagnosis.findings
    assert [note.split()[0] for note in result.notes] == ["hash_index", "patches", "scale_index"]
    wrong["scale_index"][0, ~padded] = 1
    assert not compare(FIXTURE, wrong, diagnose=False).passed


BFLOAT16 = (np.array([1.5], np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.array(["5.5"]), "text"),
        (np.array([5.5 + 0j]), "no complex numbers"),
        (np.array([[1], [1, 2]], dtype=object), "Python objects"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dates"),
        (BFLOAT16, "bfloat16"),
        ([[1], [1, 2]], "is no array"),
    ],
)
def test_why_an_array_is_refused(array, why):
    first = compare(FIXTURE, {"score": array}, diagnose=False).first
    assert first is not None
    assert why in first.note


@pytest.mark.parametrize("array", [np.array([1.5], np.float16), BFLOAT16.view("V2"), np.array([1.5], np.float64)])
def test_narrow_numbers_are_read(array):
    first = compare(FIXTURE, {"score": array}, diagnose=False).first
    assert first is not None
    assert first.where["actual"] == 1.5
    notes = compare(FIXTURE, {"score": array}, diagnose=False).notes
    assert ["--precision" in note for note in notes] == ([] if array.dtype == np.float64 else [True])
