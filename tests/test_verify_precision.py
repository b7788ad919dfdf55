"""Ports that multiply in fewer bits: right ones pass, one fault of a percent is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from musiq_ref.cli import main
from musiq_ref.verify import build_fixture, compare, make_fixture
from musiq_ref.verify.comparison.suite import compare_suite
from musiq_ref.verify.ladder.precision import UNIT, at_precision, round_to, rounded_run
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.ladder.suite import build_case
from musiq_ref.verify.ladder.tolerance import FEW

FIXTURE = build_fixture()
MANY = [
    name
    for name, stage in FIXTURE.stages.items()
    if stage.array.dtype.kind == "f" and stage.array.size >= FEW and not name.startswith((*BACK, "loss/"))
]


@pytest.mark.parametrize("precision", UNIT)
def test_right_ports_pass_in_their_precision_and_not_in_float32(precision):
    fixture = at_precision(FIXTURE, precision)
    for seed in range(20, 24):
        result = compare(fixture, rounded_run(FIXTURE, precision, seed), diagnose=False)
        assert result.passed, str(result)
        assert f"judged as {precision}" in str(result)
    assert not compare(FIXTURE, rounded_run(FIXTURE, precision), diagnose=False).passed


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32"])
def test_a_fault_of_a_percent_is_found(precision):
    fixture, run = at_precision(FIXTURE, precision, back=False), rounded_run(FIXTURE, precision, 30, back=False)
    assert len(MANY) > 50
    for name in MANY:
        if precision == "bfloat16" and name.endswith("attention/logits"):
            continue  # sums of few products: rounding moves even their gain by a percent
        first = compare(fixture, {**run, name: run[name] * np.float32(1.01)}, diagnose=False).first
        assert first is not None, name
        assert first.name == name


def test_int8_hides_a_percent():
    """The guide says so; when it no longer holds, it can promise more."""
    fixture, run = at_precision(FIXTURE, "int8"), rounded_run(FIXTURE, "int8", 30)
    assert compare(fixture, {"encoder/norm": run["encoder/norm"] * np.float32(1.01)}, diagnose=False).passed
    assert not any(name.startswith(BACK) for name in fixture.stages)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_rounding_is_the_formats_own(precision, torch):
    size = np.float32(10.0) ** np.arange(-3, 5).repeat(500)
    values = np.random.default_rng(0).normal(size=4000).astype(np.float32) * size
    theirs = torch.from_numpy(values).to(getattr(torch, precision)).float().numpy()
    largest = 65504 if precision == "float16" else np.inf
    np.testing.assert_array_equal(round_to(values, precision), theirs.clip(-largest, largest))


@pytest.mark.parametrize("gradients", [False, True])
def test_a_float16_port_in_pytorch_passes(torch, gradients):
    from ports import torch_musiq_port

    from musiq_ref.verify.adapters import compare_port

    fixture = build_fixture(conventions="pyiqa")
    port = torch_musiq_port(fixture.config, torch.float16, gradients)
    result = compare_port(fixture, port, precision="float16", diagnose=False)
    assert result.passed, str(result)
    assert not compare_port(fixture, port, diagnose=False).passed


def test_the_command(tmp_path, capsys):
    make_fixture(tmp_path / "reference")
    run: dict[str, Any] = rounded_run(FIXTURE, "float16", 5, back=False)
    np.savez(tmp_path / "half.npz", **run)
    command = ["compare", str(tmp_path / "reference"), str(tmp_path / "half.npz"), "--no-diagnosis"]
    assert main([*command, "--precision", "float16"]) == 0
    assert "judged as float16" in capsys.readouterr().out
    assert main(command) == 1
    with pytest.raises(ValueError, match="did you mean 'float16'"):
        compare(FIXTURE, {"score": 1.0}, precision="flaot16")


def test_a_suite_says_in_which_precision_it_was_judged():
    fixture = build_case("one_patch")
    score = {"score": fixture.stages["score"].array}
    result = compare_suite({"one_patch": fixture}, {"one_patch": score}, precision="int8", diagnose=False)
    assert str(result).endswith("; judged as int8, which hides faults of some percent")
    assert result.to_dict()["verdict"] == str(result).splitlines()[-1]


def test_the_diagnosis_promises_no_more_than_so_few_bits_show():
    found = compare(FIXTURE, rounded_run(FIXTURE, "float16", 6, back=False), precision="float16").diagnosis
    assert found is not None
    assert found.findings == []
    assert found.conventions["GELU"] == "as the reference, as far as float16 tells"
