"""Configurations that cannot be are refused by name; those that can survive a round trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from strategies import EVERY, configs

import musiq_ref as mq


@given(configs(EVERY))
def test_round_trip(config):
    assert mq.MusiqConfig.from_dict(config.to_dict()) == config


def test_round_trip_through_json():
    config = mq.MusiqConfig.preset("large", outputs=10, conventions=mq.PYIQA)
    assert mq.MusiqConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 0}, "layers is 0; it must be a whole number of at least 1"),
        ({"width": 384.0}, r"width is 384\.0; it must be a whole number"),
        ({"outputs": True}, "outputs is True"),
        ({"heads": 5}, "width is 384, which does not split into 5 heads"),
        ({"patch_size": 30}, "patch_size is 30; choose a multiple of 4"),
        ({"longer_sides": (384, 224)}, "list each length once, in ascending order"),
        ({"longer_sides": (224, 224)}, "list each length once, in ascending order"),
        ({"longer_sides": (), "native": False}, "needs at least one scale"),
        ({"max_native_patches": -2}, "max_native_patches is -2; choose -1"),
        ({"longer_sides": (), "max_native_patches": 0}, "no token would be left"),
        ({"spatial": "fourier"}, "spatial is 'fourier'; choose 'learnable', 'sinusoidal' or 'none'"),
        ({"scale_embedding": "none"}, "scale_embedding is 'none'; choose True or False"),
        ({"stem": "conv"}, "stem is 'conv'; choose 'resnet' or 'linear'"),
        ({"conventions": "official"}, "pass OFFICIAL, PYIQA, PAPER or a Conventions"),
        ({"layers": 10**9}, "layers is 1000000000; it must be a whole number of at least 1 and at most 1,000"),
        ({"width": 10**40}, r"width is 10+…?; it must be a whole number of at least 1 and at most 65,536"),
        ({"heads": 10**5000}, "heads is too long to show; it must be a whole number"),
        ({"grid_size": float("nan")}, "grid_size is nan; it must be a whole number"),
        ({"mlp_width": [1152]}, r"mlp_width is \[1152\]; it must be a whole number"),
        ({"outputs": "1"}, "outputs is '1'; it must be a whole number"),
        (
            {"longer_sides": [8, 10**9]},
            "longer_sides is 1000000000; it must be a whole number of at least 1 and at most",
        ),
        ({"longer_sides": [[224]]}, r"longer_sides is \[224\]; it must be a whole number"),
        ({"longer_sides": None}, "longer_sides is None; pass a tuple of lengths"),
        ({"longer_sides": {"224": 1}}, "longer_sides is {'224': 1}; pass a tuple of lengths"),
        ({"longer_sides": range(1, 2000)}, "longer_sides has 1,999 lengths; choose at most 32 scales"),
        ({"max_native_patches": True}, "max_native_patches is True; choose -1"),
        ({"max_native_patches": 10**40}, "max_native_patches is 10*; choose -1"),
        ({"native": [1]}, r"native is \[1\]; choose True or False"),
        ({"attention": "linear"}, "attention is 'linear'; choose 'softmax', 'linformer' or 'performer'"),
        ({"attention": ["softmax"]}, r"attention is \['softmax'\]; choose"),
        ({"attention_rank": 0}, "attention_rank is 0; it must be a whole number of at least 1"),
        (
            {"attention_rank": 10**6},
            "attention_rank is 1000000; it must be a whole number of at least 1 and at most 16,",
        ),
        ({"attention_length": 2.5}, r"attention_length is 2\.5; it must be a whole number"),
        ({"attention_seed": -1}, "attention_seed is -1; choose a whole number of at least 0"),
        ({"attention_eps": -1e-6}, "attention_eps is -1e-06; it must be a number of at least 0 and below 1"),
        ({"attention_eps": float("nan")}, "attention_eps is nan; it must be a number of at least 0"),
        ({"attention_eps": "small"}, "attention_eps is 'small'; it must be a number of at least 0"),
        ({"attention_eps": False}, "attention_eps is False; it must be a number"),
        ({"attention_seed": 2**63}, "choose a whole number of at least 0, below 2\\*\\*63"),
        *(({n: np.array(["a", "b"])}, f"{n} is array") for n in ("attention", "spatial", "stem")),
        ({"attention_shared": 1}, "attention_shared is 1; choose True or False"),
    ],
)
def test_impossible_configurations(fields, message):
    with pytest.raises(ValueError, match=rf"^MusiqConfig\.{message}|^MusiqConfig\..*{message}"):
        mq.MusiqConfig(**fields)


def test_a_configuration_of_before_a_field_has_its_default():
    values = mq.MusiqConfig(outputs=10).to_dict()
    for name in ("scale_embedding", "stem"):
        del values[name]
    assert mq.MusiqConfig.from_dict(values) == mq.MusiqConfig(outputs=10)


def test_only_the_resnet_stem_needs_a_multiple_of_4():
    assert mq.MusiqConfig(stem="linear", patch_size=30).patch_size == 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gelu": "sigmoid"}, "gelu is 'sigmoid'; choose one of 'tanh', 'erf'"),
        ({"weight_std_ddof": 2}, "weight_std_ddof is 2; choose one of 0, 1"),
        ({"mask_value": 0.0}, r"mask_value is 0\.0; it must be -100 or below"),
        ({"mask_value": float("nan")}, "mask_value is nan"),
        ({"mask_value": -(10**400)}, "mask_value is -10+…; it must be -100 or below"),
        ({"mask_value": [1]}, r"mask_value is \[1\]"),
    ],
)
def test_impossible_conventions(fields, message):
    with pytest.raises(ValueError, match=message):
        mq.Conventions(**fields)


def test_unknown_names():
    with pytest.raises(ValueError, match="no preset is called 'huge'; choose one of small, medium, large, tiny"):
        mq.MusiqConfig.preset("huge")
    with pytest.raises(ValueError, match="MusiqConfig has no field 'depth'"):
        mq.MusiqConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="Conventions has no field 'colour'"):
        mq.MusiqConfig.from_dict({"conventions": {"colour": "red"}})
