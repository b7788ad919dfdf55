"""Files and fixtures of models without an embedding, with a linear stem, or with other attention."""

from __future__ import annotations

import json

import numpy as np
import pytest
from op_table import random_params
from safetensors.numpy import load_file, save_file
from test_model import SMALL, random_tokens
from test_variants import KINDS, VARIANTS, every_kind, every_variant, paired

import musiq_ref as mq
from musiq_ref.checkpoint import save_official, save_pyiqa, to_official, to_pyiqa
from musiq_ref.cli import main
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import compare, deterministic_image, deterministic_params
from musiq_ref.verify.ladder.fixture import build_fixture, write_fixture
from musiq_ref.verify.ladder.stages import run_stages


def saved(tmp_path, **changes):
    """A small model in a native file: configuration, parameters, path."""
    config, path = mq.MusiqConfig.preset("tiny", **changes), tmp_path / "a.safetensors"
    params = deterministic_params(config, 1)
    mq.save_checkpoint(path, params, config)
    return config, params, path


@every_variant
def test_the_native_file_holds_it_and_inference_scores_it(name, tmp_path):
    (config, params, path), image = saved(tmp_path, **VARIANTS[name]), deterministic_image(1, 50, 70)
    loaded = mq.load_checkpoint(path)
    assert loaded.config == config
    assert all(np.array_equal(before, after) for _, before, after in paired(params, loaded.params))
    logits, _ = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
    near = 2e-7 if name in KINDS else 1e-6  # without an embedding a score is near 0, the difference of larger numbers
    assert mq.score([image], loaded)[0].value == pytest.approx(float(logits[0, 0]), rel=2e-6, abs=near)


@every_kind
def test_a_fixture_carries_the_fields_and_is_its_own_port(kind, tmp_path):
    (config, _, path), image = saved(tmp_path, **KINDS[kind], longer_sides=(40,)), deterministic_image(2, 40, 50)
    fixture, folder = build_fixture(checkpoint=path, image=image), tmp_path / "fixture"
    assert fixture.config == config
    write_fixture(folder, fixture)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: manifest["config"][name] for name in KINDS[kind]} == KINDS[kind]
    stages = run_stages(map_params(np.float32, fixture.params), image, config)
    assert compare(folder, stages, diagnose=False).passed
    if config.attention == "performer":
        other = run_stages(fixture.params, image, config.replace(attention_seed=9))
        first = compare(folder, other, diagnose=False).first
        assert first
        assert first.name == "encoder/block_00/attention/query_features"


@every_kind
def test_other_formats_refuse_other_attention(kind, tmp_path, capsys):
    config, params, path = saved(tmp_path, **KINDS[kind])
    assert main(["convert", str(path), str(tmp_path / "a.npz")]) == 2
    performer = config.attention == "performer"
    says = "attention = performer, and loads with softmax" if performer else "attention/E"
    assert says in capsys.readouterr().err
    if not performer:
        with pytest.raises(mq.CheckpointError, match="keep this model in the native layout"):
            to_official(params)
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention": "softmax"}, "2 unexpected|4 unexpected"),
        ({"attention_shared": True}, "unexpected"),
        ({"attention_rank": 4}, "misshapen"),
    ],
)
def test_a_linformers_matrices_are_loaded_strictly(change, says, tmp_path):
    config, _, path = saved(tmp_path, **KINDS["linformer"])
    with pytest.raises(mq.CheckpointError, match=says):
        mq.load_checkpoint(path, config=config.replace(**change))
    with pytest.raises(mq.CheckpointError, match=r"missing \(.*attention/E"):
        mq.load_checkpoint("demo", config=mq.load_checkpoint("demo").config.replace(attention="linformer"))


def test_files_from_before_there_was_a_choice_are_softmax(tmp_path):
    config, _, path = saved(tmp_path)
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("attention")}
    metadata = {"format": "musiq_ref", "musiq_ref_config": json.dumps(values)}
    save_file(load_file(path), tmp_path / "old.safetensors", metadata=metadata)
    assert mq.load_checkpoint(tmp_path / "old.safetensors").config == config


@pytest.mark.parametrize(("change", "part"), [({"stem": "linear"}, "stem"), ({"scale_embedding": False}, "scale_")])
def test_what_other_layouts_cannot_say_is_refused(change, part, tmp_path):
    params = mq.init_params(mq.MusiqConfig.preset("tiny", **change))
    for convert in (to_official, to_pyiqa):
        with pytest.raises(mq.CheckpointError, match=rf"have no {part}.*keep this model in the native layout"):
            convert(params)
    for save in (save_official, save_pyiqa):
        with pytest.raises(mq.CheckpointError, match=rf"have no {part}"):
            save(tmp_path / "a.npz", params)
    assert not list(tmp_path.iterdir())


def test_parameters_and_files_of_the_whole_model_do_not_fit(tmp_path):
    params, tokens = random_params(SMALL), mq.batch([random_tokens(SMALL, 6, 3)])
    for change, message in (
        ({"spatial": "none"}, "spatial_embedding/table is unexpected"),
        ({"scale_embedding": False}, "scale_embedding/table is unexpected"),
        ({"stem": "linear"}, r"patch_embedding/kernel has shape \(1024, 48\); this configuration needs \(192, 48\)"),
    ):
        with pytest.raises(ValueError, match=message):
            mq.forward(params, tokens, SMALL.replace(**change))
        with pytest.raises(mq.CheckpointError, match="not written"):
            mq.save_checkpoint(tmp_path / "a.safetensors", params, SMALL.replace(**change))
