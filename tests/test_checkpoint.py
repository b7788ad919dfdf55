"""Checkpoints: every layout there and back bit by bit, every kind of broken file refused in one sentence."""

import datetime
import json
import math
import os
import pickle
import zipfile
from dataclasses import fields

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musiq_ref.checkpoint import (
    CATALOGUE,
    CheckpointError,
    from_official,
    from_pyiqa,
    load_checkpoint,
    save_checkpoint,
    save_official,
    save_pyiqa,
    to_official,
    to_pyiqa,
)
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.checkpoint.native import METADATA_KEY, config_from_json, config_to_json
from musiq_ref.cli import main
from musiq_ref.config import OFFICIAL, PAPER, PYIQA, MusiqConfig
from musiq_ref.model.parameters import flatten, nest, parameter_shapes
from musiq_ref.outputs import OutputError, write_output

TINY = MusiqConfig.preset("tiny")
SMALLEST = {"layers": 1, "width": 6, "mlp_width": 5, "heads": 2, "patch_size": 4, "grid_size": 2}
SLOW_DISK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_params(config, seed=0, dtype="float32"):
    """Parameters whose every value is different from its neighbours, zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    leaves = {path: rng.standard_normal(shape).astype(dtype) for path, shape in parameter_shapes(config).items()}
    leaves["head/bias"][0] = -0.0
    return nest(leaves)


def assert_same(ours, theirs):
    """The same names, in the same order, with the same bits."""
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert list(ours) == list(theirs)
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype, path
        assert array.shape == theirs[path].shape, path
        assert array.tobytes() == theirs[path].tobytes(), path


@st.composite
def configs(draw):
    """Small models of every kind that has a different shape somewhere."""
    heads = draw(st.sampled_from([1, 2, 3]))
    return MusiqConfig(
        layers=draw(st.sampled_from([1, 2, 11])),
        width=heads * draw(st.sampled_from([1, 4, 5])),
        mlp_width=draw(st.sampled_from([1, 7])),
        heads=heads,
        outputs=draw(st.sampled_from([1, 2, 10])),
        patch_size=draw(st.sampled_from([4, 16, 48])),
        grid_size=draw(st.sampled_from([1, 7, 10])),
        longer_sides=draw(st.sampled_from([(), (224,), (224, 384), (96, 224, 384)])),
        spatial=draw(st.sampled_from(["learnable", "sinusoidal"])),
        conventions=draw(st.sampled_from([OFFICIAL, PYIQA, PAPER])),
        max_native_patches=draw(st.sampled_from([-1, 512])),
    )


DTYPES = st.sampled_from(["float16", "float32", "float64"])


@settings(max_examples=25, deadline=None)
@given(configs(), DTYPES)
def test_mappings_there_and_back(config, dtype):
    params = random_params(config, dtype=dtype)
    assert_same(from_official(to_official(params)), params)
    assert_same(from_pyiqa(to_pyiqa(params), heads=config.heads), params)


@SLOW_DISK
@given(config=configs(), dtype=DTYPES)
def test_native_file_there_and_back(tmp_path, config, dtype):
    params = random_params(config, dtype=dtype)
    save_checkpoint(tmp_path / "a.safetensors", params, config)
    loaded = load_checkpoint(tmp_path / "a.safetensors", dtype=None)
    assert loaded.config == config
    assert loaded.format == "native"
    assert_same(loaded.params, params)


@SLOW_DISK
@given(config=configs(), dtype=DTYPES)
def test_other_files_there_and_back(tmp_path, config, dtype):
    params = random_params(config, dtype=dtype)
    save_official(tmp_path / "a.npz", params)
    save_pyiqa(tmp_path / "a.safetensors", params)
    for name, kind in (("a.npz", "official"), ("a.safetensors", "pyiqa")):
        loaded = load_checkpoint(tmp_path / name, dtype=None, config=config)
        assert (loaded.format, loaded.config) == (kind, config)
        assert_same(loaded.params, params)


@SLOW_DISK
@given(config=configs(), dtype=DTYPES)
def test_pytorchs_files_are_read(torch, tmp_path, config, dtype):
    params = random_params(config, dtype=dtype)
    save_torch(torch, to_pyiqa(params), tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth", dtype=None, config=config)
    assert (loaded.format, loaded.config) == ("pyiqa", config)
    assert_same(loaded.params, params)


def save_torch(torch, tensors, path):
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def test_names_and_shapes_are_the_published_ones():
    official = {name: a.shape for name, a in to_official(random_params(TINY)).items()}
    block = "Transformer/encoderblock_1"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    assert len(official) == 56
    expected = {
        "conv_root/kernel": (7, 7, 3, 64),
        "gn_root/scale": (1, 1, 1, 64),
        "block1/unit1/conv_proj/kernel": (1, 1, 64, 256),
        "block1/unit1/gn3/bias": (1, 1, 1, 256),
        "embedding/kernel": (64 * 256, 48),
        "Transformer/posembed_input/pos_embedding": (1, 100, 48),
        "Transformer/scaleembed_input/scale_embedding": (1, 3, 48),
        "Transformer/cls": (1, 1, 48),
        f"{attention}/query/kernel": (48, 4, 12),
        f"{attention}/key/bias": (4, 12),
        f"{attention}/out/kernel": (4, 12, 48),
        f"{attention}/out/bias": (48,),
        f"{block}/MlpBlock_3/Dense_1/kernel": (96, 48),
        f"{block}/LayerNorm_2/scale": (48,),
        "head/kernel": (48, 1),
    }
    assert {name: official[name] for name in expected} == expected
    pyiqa = {name: a.shape for name, a in to_pyiqa(random_params(TINY.replace(outputs=10))).items()}
    encoder = "transformer_encoder"
    expected = {
        "conv_root.weight": (64, 3, 7, 7),
        "gn_root.weight": (64,),
        "block1.conv2.weight": (64, 64, 3, 3),
        "embedding.weight": (48, 64 * 256),
        f"{encoder}.posembed_input.position_emb": (1, 100, 48),
        f"{encoder}.scaleembed_input.scale_emb": (3, 48),
        f"{encoder}.cls": (1, 1, 48),
        f"{encoder}.transformer.encoderblock_0.attention.out.weight": (48, 48),
        f"{encoder}.transformer.encoderblock_0.mlp.fc2.weight": (48, 96),
        f"{encoder}.encoder_norm.weight": (48,),
        "head.0.weight": (10, 48),
    }
    assert {name: pyiqa[name] for name in expected} == expected


def test_pyiqa_linears_compute_what_ours_do(torch):
    params = random_params(TINY)
    theirs = {name: torch.from_numpy(a) for name, a in to_pyiqa(params).items()}
    attention = params["encoder"]["block_01"]["attention"]
    x = np.random.default_rng(1).standard_normal((5, 48)).astype("float32")
    prefix = "transformer_encoder.transformer.encoderblock_1.attention"
    query = torch.nn.functional.linear(
        torch.from_numpy(x), theirs[f"{prefix}.query.weight"], theirs[f"{prefix}.query.bias"]
    )
    ours = np.einsum("nd,dhe->nhe", x, attention["query"]["kernel"]) + attention["query"]["bias"]
    np.testing.assert_allclose(query.reshape(5, 4, 12).numpy(), ours, rtol=2e-4, atol=2e-4)
    out = torch.nn.functional.linear(torch.from_numpy(ours.reshape(5, 48)), theirs[f"{prefix}.out.weight"])
    expected = np.einsum("nhe,hed->nd", ours, attention["out"]["kernel"])
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-4, atol=2e-3)


def test_optimiser_state_is_ignored(tmp_path):
    params = random_params(TINY)
    state = {"opt/state/step": np.array(7), "opt/state/param_states/head/bias/momentum": np.ones(1)}
    prefixed = {f"opt/target/{name}": a for name, a in to_official(params).items()}
    np.savez(tmp_path / "with.npz", **prefixed, **state)
    np.savez(tmp_path / "without.npz", **to_official(params))
    assert_same(load_checkpoint(tmp_path / "with.npz").params, params)
    assert_same(load_checkpoint(tmp_path / "without.npz").params, params)


def test_the_official_file_is_written_with_the_prefix(tmp_path):
    save_official(tmp_path / "a.npz", random_params(TINY))
    with np.load(tmp_path / "a.npz") as arrays:
        assert all(name.startswith("opt/target/") for name in arrays.files)


@pytest.mark.parametrize(("sides", "outputs"), [((), 1), ((224, 384), 1), ((224, 384), 10)])
def test_inferred_configuration(tmp_path, sides, outputs):
    config = TINY.replace(longer_sides=sides, outputs=outputs, patch_size=16, grid_size=7)
    save_official(tmp_path / "a.npz", random_params(config))
    save_pyiqa(tmp_path / "b.bin", random_params(config))
    assert load_checkpoint(tmp_path / "a.npz").config == config
    assert load_checkpoint(tmp_path / "b.bin").config == config.replace(conventions=PYIQA)
    assert load_checkpoint(tmp_path / "b.bin", conventions=PAPER).config == config.replace(conventions=PAPER)


def test_a_pyiqa_head_is_found_under_either_name(tmp_path):
    params = random_params(TINY.replace(outputs=10))
    plain = {name.replace("head.0.", "head."): a for name, a in to_pyiqa(params).items()}
    safetensors.numpy.save_file(plain, tmp_path / "a.safetensors")
    assert_same(load_checkpoint(tmp_path / "a.safetensors").params, params)
    single = {name.replace("head.", "head.0."): a for name, a in to_pyiqa(random_params(TINY)).items()}
    assert from_pyiqa(single)["head"]["kernel"].shape == (48, 1)


def test_heads_of_a_pyiqa_file(tmp_path):
    config = MusiqConfig(**SMALLEST)
    save_pyiqa(tmp_path / "a.safetensors", random_params(config))
    with pytest.raises(CheckpointError, match="pass heads= or config="):
        load_checkpoint(tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors", heads=3).config.heads == 3
    with pytest.raises(CheckpointError, match="does not split into 5 heads"):
        load_checkpoint(tmp_path / "a.safetensors", heads=5)


def test_two_scales_are_ambiguous(tmp_path):
    config = TINY.replace(longer_sides=(224,))
    save_official(tmp_path / "a.npz", random_params(config))
    with pytest.raises(CheckpointError, match=r"2 scales.*pass longer_sides=.*config="):
        load_checkpoint(tmp_path / "a.npz")
    assert load_checkpoint(tmp_path / "a.npz", config=config).config is config


def test_a_missing_table_is_missing_unless_the_configuration_says_so(tmp_path):
    config = TINY.replace(spatial="sinusoidal", grid_size=5)
    save_official(tmp_path / "a.npz", random_params(config))
    with pytest.raises(CheckpointError, match=r"1 of its tensors missing \(Transformer/posembed_input"):
        load_checkpoint(tmp_path / "a.npz")
    assert load_checkpoint(tmp_path / "a.npz", config=config).config.grid_size == 5
    save_official(tmp_path / "b.npz", random_params(TINY))
    with pytest.raises(CheckpointError, match=r"1 unexpected \(Transformer/posembed_input"):
        load_checkpoint(tmp_path / "b.npz", config=config)


def broken_tensors(change):
    tensors = to_official(random_params(TINY))
    change(tensors)
    return tensors


BREAKS = {
    "missing": (lambda t: t.pop("gn_root/bias"), r"1 of its tensors missing \(gn_root/bias\)"),
    "block": (
        lambda t: [t.pop(name) for name in list(t) if "encoderblock_0" in name],
        r"16 of its tensors missing \(.*and 13 more\)",
    ),
    "unexpected": (lambda t: t.update({"bad\nname": np.ones(1)}), r"1 unexpected \(bad\\nname\)"),
    "misshapen": (
        lambda t: t.update({"conv_root/kernel": np.zeros((7, 7, 3, 63))}),
        r"conv_root/kernel is \(7, 7, 3, 63\), expected \(7, 7, 3, 64\)",
    ),
    "transposed": (lambda t: t.update({"embedding/kernel": t["embedding/kernel"].T}), "1 of its tensors misshapen"),
    "flat": (lambda t: t.update({"Transformer/cls": np.zeros(48)}), "1 of its tensors misshapen"),
    "empty": (lambda t: t.update({"Transformer/cls": np.zeros(0)}), "width is 0"),
    "integer": (lambda t: t.update({"head/bias": np.ones(1, int)}), r"head/bias is int64"),
    "complex": (lambda t: t.update({"head/bias": np.ones(1, complex)}), "head/bias is complex128"),
    "text": (lambda t: t.update({"head/bias": np.array(["1.0"])}), "head/bias is <U3"),
    "nan": (lambda t: t["gn_root/bias"].__setitem__((0, 0, 0, 3), np.nan), r"tensor gn_root/bias holds nan at \(3,\)"),
    "infinite": (lambda t: t["head/kernel"].fill(-np.inf), r"tensor head/kernel holds -inf at \(0, 0\)"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_every_tensor_is_checked(tmp_path, name):
    change, message = BREAKS[name]
    np.savez(tmp_path / "a.npz", **broken_tensors(change))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "a.npz")
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


def test_a_given_configuration_is_checked(tmp_path):
    save_official(tmp_path / "a.npz", random_params(TINY))
    with pytest.raises(CheckpointError, match=r"head/kernel is \(48, 1\), expected \(48, 10\)"):
        load_checkpoint(tmp_path / "a.npz", config=TINY.replace(outputs=10))
    with pytest.raises(CheckpointError, match="16 of its tensors missing"):
        load_checkpoint(tmp_path / "a.npz", config=TINY.replace(layers=3))


def test_values_beyond_the_range_of_the_wanted_type(tmp_path):
    params = random_params(TINY, dtype="float64")
    params["head"]["bias"][0] = 1e60
    save_official(tmp_path / "a.npz", params)
    with pytest.raises(CheckpointError, match="head/bias holds inf"):
        load_checkpoint(tmp_path / "a.npz", dtype="float32")
    assert load_checkpoint(tmp_path / "a.npz", dtype="float64").params["head"]["bias"][0] == 1e60
    with pytest.raises(CheckpointError, match="cannot be loaded as int32"):
        load_checkpoint(tmp_path / "a.npz", dtype="int32")


def test_big_endian_and_fortran_order(tmp_path):
    params = random_params(TINY)
    odd = {name: np.asfortranarray(a.astype(">f4")) for name, a in to_official(params).items()}
    np.savez(tmp_path / "a.npz", **odd)
    loaded = load_checkpoint(tmp_path / "a.npz", dtype=None).params
    assert_same(loaded, params)
    assert all(a.flags.c_contiguous and a.flags.writeable and a.dtype.isnative for _, a in flatten(loaded))
    save_checkpoint(tmp_path / "b.safetensors", from_official(odd), TINY)
    assert_same(load_checkpoint(tmp_path / "b.safetensors").params, params)


def test_views_are_saved_by_value(tmp_path):
    params = random_params(TINY)
    params["embedding"] = params.pop("patch_embedding")
    reordered = nest({path: a for path, a in flatten(params)})
    reordered["patch_embedding"] = reordered.pop("embedding")
    kernel = reordered["patch_embedding"]["kernel"]
    reordered["patch_embedding"]["kernel"] = np.asfortranarray(kernel)
    reordered["encoder"]["norm"]["scale"] = np.repeat(reordered["encoder"]["norm"]["scale"], 2)[::2]
    save_checkpoint(tmp_path / "a.safetensors", reordered, TINY)
    loaded = dict(flatten(load_checkpoint(tmp_path / "a.safetensors").params))
    for path, array in flatten(reordered):
        np.testing.assert_array_equal(loaded[path], array)


def test_bfloat16_safetensors_are_read_exactly(torch, tmp_path):
    import safetensors.torch

    params = random_params(TINY)
    halves = {name: torch.from_numpy(a).to(torch.bfloat16) for name, a in to_pyiqa(params).items()}
    safetensors.torch.save_file(halves, tmp_path / "a.safetensors")
    expected = from_pyiqa({name: a.to(torch.float32).numpy() for name, a in halves.items()})
    assert_same(load_checkpoint(tmp_path / "a.safetensors").params, expected)


def test_the_configuration_is_plain_json():
    text = config_to_json(TINY.replace(conventions=PAPER))
    assert json.loads(text, parse_constant=pytest.fail)["conventions"]["mask_value"] == "-inf"
    assert config_from_json(text).conventions.mask_value == -math.inf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"conventions": {}}',
        "[" * 100_000,
        config_to_json(TINY).replace("heads", "hats"),
        config_to_json(TINY).replace('"layers": 2', '"layers": 1000000000'),
        config_to_json(TINY).replace('"layers": 2', '"layers": 1' + "0" * 40),
        config_to_json(TINY).replace('"layers": 2', '"layers": 1' + "0" * 9000),
        config_to_json(TINY).replace("[224, 384]", "[8, 1000000000]"),
        config_to_json(TINY).replace("-10000000000.0", "-1" + "0" * 400),
    ],
)
def test_bad_metadata(tmp_path, text):
    tensors = dict(flatten(random_params(TINY)))
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", {METADATA_KEY: text})
    with pytest.raises(CheckpointError, match=r"configuration in its metadata cannot be read.*config="):
        load_checkpoint(tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors", config=TINY).config == TINY


def test_native_names_without_metadata(tmp_path):
    params = random_params(TINY)
    safetensors.numpy.save_file(dict(flatten(params)), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="hold no configuration; pass config="):
        load_checkpoint(tmp_path / "a.safetensors")
    assert_same(load_checkpoint(tmp_path / "a.safetensors", config=TINY).params, params)


def test_the_kind_is_told_by_content(tmp_path):
    params = random_params(TINY)
    save_official(tmp_path / "a.pth", params)
    save_checkpoint(tmp_path / "a.npz", params, TINY)
    found = [load_checkpoint(tmp_path / name).format for name in ("a.pth", "a.npz")]
    assert found == ["official", "native"]


def test_the_kind_of_pytorchs_files_is_told_by_content(torch, tmp_path):
    save_torch(torch, to_official(random_params(TINY)), tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors").format == "official"


def write_zip(path, name, data=b"x"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)


def grow(path, size, start=b"x"):
    """A file whose rest is a hole."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def write_script(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(name, "x")


NOT_CHECKPOINTS = {
    "missing": (lambda p: None, "no such file; check the path"),
    "folder": (lambda p: p.mkdir(), "a folder, not a file"),
    "empty": (lambda p: p.write_bytes(b""), "the file is empty"),
    "text": (lambda p: p.write_text("<html>not found</html>"), "not a checkpoint"),
    "short": (lambda p: p.write_bytes(b"PK"), "cut short"),
    "zip": (lambda p: write_zip(p, "a.txt"), "neither data.pkl nor .npy"),
    "other npz": (lambda p: write_zip(p, "a.npy"), "none of MUSIQ's tensors"),
    "pipe": (os.mkfifo, "no ordinary file"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "no ordinary file"),
    "sparse": (lambda p: grow(p, 2**33), "8,589,934,592 bytes"),
    "sparse zip": (lambda p: grow(p, 2**31, b"PK\3\4"), "cut short"),
    "bare pickle": (lambda p: p.write_bytes(pickle.dumps({"conv_root.weight": 1})), r"a bare pickle.*torch\.save"),
    "tar": (lambda p: grow(p, 512, b"\0" * 257 + b"ustar"), "a tar archive"),
    "msgpack": (lambda p: p.write_bytes(b"\x82\xa6params\x81"), r"msgpack, it seems.*np\.savez"),
    "large msgpack": (lambda p: p.write_bytes(b"\xdf\0\0\0\2\xa6params\x81"), r"msgpack, it seems.*np\.savez"),
    "picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60)), "a picture, not a checkpoint"),
    "like msgpack": (lambda p: p.write_bytes(b"\x82\x00\x01"), "not a checkpoint"),
    "array": (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00" + bytes(120)), "not a checkpoint"),
    "script": (lambda p: write_script(p), r"TorchScript.*torch\.jit\.load"),
    "safetensors header": (lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f{"), "cut short"),
    "safetensors json": (lambda p: p.write_bytes((9).to_bytes(8, "little") + b'{"a": nu}'), "cut short"),
    "other model": (lambda p: safetensors.numpy.save_file({"w": np.ones(2)}, p), "none of MUSIQ's tensors"),
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint(tmp_path, name):
    make, message = NOT_CHECKPOINTS[name]
    make(tmp_path / "file")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "file")
    assert str(caught.value).startswith(str(tmp_path / "file"))


@SLOW_DISK
@given(config=configs(), dtype=DTYPES)
def test_pytorchs_old_files_are_read(torch, tmp_path, config, dtype):
    params = random_params(config, dtype=dtype)
    tensors = {name: torch.from_numpy(array) for name, array in to_pyiqa(params).items()}
    other = {"optimizer": [torch.ones(3), datetime.date(2020, 1, 1)], "net": tensors}
    torch.save(other, tmp_path / "a", _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(tmp_path / "a", dtype=None, config=config)
    assert_same(loaded.params, params)
    assert loaded.notes == ("the weights are those under 'net/'", "left out: optimizer")


def test_object_arrays_are_not_unpickled(tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    np.savez(tmp_path / "a.npz", **{"conv_root/kernel": np.array([Evil()], dtype=object)})
    with pytest.raises(CheckpointError, match="allow_pickle=False"):
        load_checkpoint(tmp_path / "a.npz")
    assert not marker.exists()


@pytest.mark.parametrize("writer", ["official", "pyiqa", "native"])
def test_cut_files(tmp_path, writer):
    path, params = tmp_path / "a", random_params(MusiqConfig(**SMALLEST))
    if writer == "official":
        save_official(path, params)
    elif writer == "pyiqa":
        save_pyiqa(path, params)
    else:
        save_checkpoint(path, params, MusiqConfig(**SMALLEST))
    assert_cut_is_refused(path)


def test_pytorchs_cut_files(torch, tmp_path):
    save_torch(torch, to_pyiqa(random_params(MusiqConfig(**SMALLEST))), tmp_path / "a")
    assert_cut_is_refused(tmp_path / "a")


def assert_cut_is_refused(path):
    whole = path.read_bytes()
    for length in (1, 8, 9, 50, len(whole) // 3, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, heads=2)
        assert "\n" not in str(caught.value)


def test_npz_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv_root/kernel.npy", bytes(80 * 2**20))
    with pytest.raises(CheckpointError, match="claims to unpack to 83,886,080 bytes"):
        load_checkpoint(tmp_path / "a.npz")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    write_zip(tmp_path / "b.npz", "conv_root/kernel.npy", header.ljust(127) + b"\n" + bytes(64))
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(tmp_path / "b.npz")


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    path, params = tmp_path / "a.safetensors", random_params(TINY)
    with pytest.raises(CheckpointError, match=r"not written.*head/kernel is \(48, 1\), expected \(48, 10\)"):
        save_checkpoint(path, params, TINY.replace(outputs=10))
    params["head"]["bias"][0] = np.nan
    with pytest.raises(CheckpointError, match="tensor head/bias holds nan"):
        save_checkpoint(path, params, TINY)
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_tensors(torch, tmp_path):
    params = {**random_params(TINY), "class_token": torch.zeros(48)}
    with pytest.raises(CheckpointError, match="bring the parameters back to NumPy"):
        save_checkpoint(tmp_path / "a.safetensors", params, TINY)
    assert list(tmp_path.iterdir()) == []


def test_converting_what_is_not_musiq():
    with pytest.raises(CheckpointError, match="params hold decoder/bias"):
        to_official({"decoder": {"bias": np.zeros(3)}})
    with pytest.raises(CheckpointError, match="params hold stem/conv1/kernel of shape"):
        to_pyiqa({"stem": {"conv1": {"kernel": np.zeros(3)}}})
    with pytest.raises(CheckpointError, match="tensors missing"):
        from_pyiqa({})


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("old")

    def fail(part):
        part.write_text("half of the new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot be written .No space left on device."):
        write_output(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_text() == "old"
    for save in (lambda p: save_official(p, random_params(TINY)), lambda p: save_pyiqa(p, random_params(TINY))):
        with pytest.raises(CheckpointError, match=r"nowhere.*cannot be written"):
            save(tmp_path / "nowhere" / "a")
    with pytest.raises(CheckpointError, match=r"nowhere.*cannot be written"):
        save_checkpoint(tmp_path / "nowhere" / "a", random_params(TINY), TINY)


def test_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSIQ_REF_CACHE", str(tmp_path))
    for name, command in (("koniq", "download koniq$"), ("ava-pyiqa", "download ava --format pyiqa$")):
        with pytest.raises(CheckpointError, match=f"not downloaded yet.*run: musiq-ref {command}"):
            load_checkpoint(name)
    save_official(tmp_path / CATALOGUE["koniq"].file, random_params(TINY))
    assert load_checkpoint("koniq").path == tmp_path / "koniq_ckpt.npz"


def test_the_demo():
    demo = load_checkpoint("demo", dtype="float64", conventions=PAPER)
    assert (demo.format, demo.path, demo.config.conventions) == ("native", DEMO, PAPER)
    assert demo.params["head"]["kernel"].dtype == np.float64
    with pytest.raises(CheckpointError, match=r"demo\.safetensors"):
        load_checkpoint("demo", config=TINY)


def test_convert(tmp_path, capsys):
    params, config = random_params(TINY, dtype="float64"), TINY.replace(conventions=PYIQA)
    save_checkpoint(tmp_path / "a.safetensors", params, config)
    a, b, c, d = (str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c.npz", "d.safetensors"))
    assert main(["convert", a, b, "--to", "pyiqa"]) == 0
    assert main(["convert", b, c, "--json"]) == 0
    assert main(["convert", c, d]) == 0
    count = sum(array.size for _, array in flatten(params))
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert output.err == ""
    assert lines[0] == f"{b}: pyiqa layout, converted from native, {count:,} parameters"
    notes = [f"{c} loads with the conventions of official; --conventions pyiqa gives the scores of IN"]
    expected = {"path": c, "from": "pyiqa", "to": "official", "parameters": count, "notes": notes, "lost": []}
    assert json.loads(lines[1]) == expected
    assert_same(load_checkpoint(d, dtype=None).params, params)
    assert load_checkpoint(d).config == TINY


LOSSES = {
    "scales": (TINY.replace(longer_sides=(48, 96)), [], "longer_sides = [48, 96], and loads with [224, 384]"),
    "two scales": (TINY.replace(longer_sides=(224,)), [], "longer_sides = [224], without which it cannot be loaded"),
    "native": (TINY.replace(longer_sides=(96, 224, 384), native=False), [], "native = False, and loads with True"),
    "conventions": (TINY.replace(conventions=PYIQA), [], "conventions/gelu = erf, and loads with tanh"),
    "other conventions": (TINY, ["--to", "pyiqa"], "conventions/gelu = tanh, and loads with erf"),
    "limit": (TINY.replace(max_native_patches=512), [], "max_native_patches = 512, and loads with -1"),
    "heads": (TINY.replace(heads=8, conventions=PYIQA), ["--to", "pyiqa"], "heads = 8, and loads with 4"),
    "other heads": (
        TINY.replace(layers=1, conventions=PYIQA),
        ["--to", "pyiqa"],
        "heads = 4, without which it cannot be loaded",
    ),
    "grid": (TINY.replace(spatial="sinusoidal"), [], "all of its configuration"),
}


def test_convert_lists_all_that_is_lost(tmp_path, capsys):
    config = TINY.replace(layers=1, longer_sides=(48, 96), max_native_patches=64)
    save_checkpoint(tmp_path / "a.safetensors", random_params(config), config)
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--to", "pyiqa"]
    assert main([*command, "--force", "--json"]) == 0
    lost = json.loads(capsys.readouterr().out)["lost"]
    assert lost[0] == "heads = 4, without which it cannot be loaded"
    assert lost[1:3] == [
        "longer_sides = [48, 96], and loads with [224, 384]",
        "max_native_patches = 64, and loads with -1",
    ]
    others = {f.name for f in fields(OFFICIAL) if getattr(OFFICIAL, f.name) != getattr(PYIQA, f.name)}
    assert {text.partition(" = ")[0] for text in lost[3:]} == {f"conventions/{name}" for name in others}


@pytest.mark.parametrize("name", LOSSES)
def test_convert_does_not_lose_configuration_unless_it_may(tmp_path, capsys, name):
    config, options, message = LOSSES[name]
    save_checkpoint(tmp_path / "a.safetensors", random_params(config), config)
    target = tmp_path / ("b.safetensors" if options else "b.npz")
    command = ["convert", str(tmp_path / "a.safetensors"), str(target), *options]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{target}: not written, for it would not hold " in error
    assert message in error
    assert "--force" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert main([*command, "--force", "--json"]) == 0
    assert message in " ".join(json.loads(capsys.readouterr().out)["lost"])


def test_convert_says_what_it_left_out(tmp_path, capsys):
    tensors = {f"target/{name}": array for name, array in to_official(random_params(TINY)).items()}
    np.savez(tmp_path / "a.npz", **tensors, **{"state/step": np.array(7)})
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.safetensors")]) == 0
    assert capsys.readouterr().err == "note: the weights are those under 'target/'\nnote: left out: state\n"


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("b.pth", [], ".pth is read but not written; name a .safetensors file"),
        ("b.bin", [], "no layout goes with that extension"),
        ("b.npz", ["--to", "native"], "the native layout is written as .safetensors"),
        ("a.npz", [], "is one of the files to read"),
        ("a.npz", ["--force"], "is one of the files to read"),
        ("other.npz", [], "already exists; add --force"),
        ("none/b.npz", [], "cannot be written"),
    ],
)
def test_convert_refuses(tmp_path, capsys, target, options, message):
    save_official(tmp_path / "a.npz", random_params(TINY))
    (tmp_path / "other.npz").write_text("old")
    before = (tmp_path / "a.npz").read_bytes()
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / target), *options]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == before
    assert (tmp_path / "other.npz").read_text() == "old"


def test_convert_of_an_unreadable_file_and_with_force(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "no.npz"), str(tmp_path / "b.npz")]) == 2
    assert "no such file" in capsys.readouterr().err
    save_official(tmp_path / "a.npz", random_params(TINY))
    (tmp_path / "b.safetensors").write_text("old")
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.safetensors"), "--force"]) == 0
    assert load_checkpoint(tmp_path / "b.safetensors").format == "native"
