"""Checkpoints as people have them: nests, prefixes, things beside the weights; what was left out is said."""

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy

from musiq_ref import MusiqConfig, init_params
from musiq_ref.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    save_official,
    save_pyiqa,
    to_official,
    to_pyiqa,
)
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.checkpoint.weights import slashed
from musiq_ref.model.parameters import flatten, parameter_shapes

CONFIG = MusiqConfig(layers=1, width=8, mlp_width=8, heads=2, patch_size=8, grid_size=4)
PARAMS = init_params(CONFIG, seed=1)
WEIGHTS = to_pyiqa(PARAMS)
OTHERS = {name: array + 1 for name, array in WEIGHTS.items()}


class Tensors(pickle._Pickler):
    """Writes arrays as torch.save writes tensors, by name: no PyTorch is needed."""

    def __init__(self, file, protocol, shared=None):
        super().__init__(file, protocol)
        self.arrays = []
        self.shared = shared

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.ndim:
            return super().save(value, save_persistent_id)
        if self.shared is None or not self.arrays:
            self.arrays.append(value if self.shared is None else self.shared)
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        super().save("storage")
        self.write(b"ctorch\nFloatStorage\n")
        for part in (str(len(self.arrays) - 1), "cpu", self.arrays[-1].size):
            super().save(part)
        self.write(b"tQ")
        for part in (
            0,
            value.shape,
            tuple(step // 4 for step in np.empty(value.shape, np.float32).strides),
            False,
            None,
        ):
            super().save(part)
        self.write(b"tR")
        return None


def save_pth(path, value, protocol=2, compression=zipfile.ZIP_STORED, shared=None):
    program = io.BytesIO()
    writer = Tensors(program, protocol, shared)
    writer.dump(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", program.getvalue())
        for i, array in enumerate(writer.arrays):
            archive.writestr(f"a/data/{i}", array.tobytes())


def prefixed(prefix, tensors=WEIGHTS):
    return {prefix + name: array for name, array in tensors.items()}


def assert_loads(path, *notes, **options):
    loaded = load_checkpoint(path, **{"heads": 2, **options})
    for (name, ours), (_, array) in zip(flatten(PARAMS), flatten(loaded.params), strict=True):
        np.testing.assert_array_equal(array, ours, err_msg=name)
    assert loaded.notes == notes
    return loaded


NESTS = {
    "plain": (WEIGHTS, []),
    "ordered": (OrderedDict(WEIGHTS), []),
    "module": (prefixed("module."), ["module."]),
    "compiled": (prefixed("_orig_mod."), ["_orig_mod."]),
    "both": (prefixed("module._orig_mod."), ["module._orig_mod."]),
    "metric": ({**prefixed("net."), "dummy_param": np.zeros((0,), np.float32)}, ["net.", "left out: dummy_param"]),
    "averaged model": (prefixed("module.") | {"n_averaged": 3}, ["module.", "left out: n_averaged"]),
    "odd prefix": (prefixed("a.b/c.d."), ["a.b/c.d."]),
    "params": ({"params": WEIGHTS}, ["params/"]),
    "state_dict": ({"state_dict": WEIGHTS, "epoch": 3}, ["state_dict/", "left out: epoch"]),
    "model": ({"epoch": 3, "model": WEIGHTS, "loss": 0.5}, ["model/", "left out: epoch, loss"]),
    "two levels": ({"a": {"b": prefixed("module.")}, "c": {}}, ["a/b/module."]),
    "tuple": ((3, WEIGHTS), ["1/"]),
    "lightning": (
        {
            "epoch": 1,
            "state_dict": prefixed("net.") | {"loss.weight": np.ones(3, np.float32)},
            "optimizer_states": [{"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": [{"lr": 0.1}]}],
            "callbacks": {"best": pathlib.PurePosixPath("/a/b")},
        },
        ["state_dict/net.", "left out: epoch, state_dict/loss.weight, callbacks and 1 more"],
    ),
    "average second": (
        {"params_ema": OTHERS, "params": WEIGHTS},
        ["params/", "another MUSIQ, 'params_ema/', was left out"],
    ),
    "average alone": ({"params_ema": WEIGHTS}, ["params_ema/"]),
    "teacher": (
        prefixed("teacher.", OTHERS) | prefixed("student."),
        ["student.", "another MUSIQ, 'teacher.', was left out"],
    ),
}


def sentences(notes):
    return [note if " " in note else f"the weights are those under {note!r}" for note in notes]


@pytest.mark.parametrize("name", NESTS)
def test_nests_and_prefixes(tmp_path, name):
    value, notes = NESTS[name]
    save_pth(tmp_path / "a.pth", value)
    assert_loads(tmp_path / "a.pth", *sentences(notes))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    save_pth(tmp_path / "a.pth", {"model": WEIGHTS, "extra": list(BESIDE.values())}, protocol)
    assert_loads(tmp_path / "a.pth", "the weights are those under 'model/'", "left out: extra")


class Colour(enum.Enum):
    RED = 1


class Custom:
    """Whatever a training script has, with a state and a call of its own."""

    def __init__(self):
        self.state = {"a": [1, 2], 3: Colour.RED}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("marker",)


BESIDE = {
    "number": np.float64(0.5),
    "array": np.arange(3),
    "texts": np.array(["a"], dtype=object),
    "counter": collections.Counter("aab"),
    "namespace": argparse.Namespace(lr=0.1),
    "time": datetime.datetime(2020, 1, 2),
    "set": {1, 2},
    "frozen": frozenset([3]),
    "default": collections.defaultdict(list, {"a": [1]}),
    "slice": slice(1, 2),
    "complex": 1 + 2j,
    "long": -(2**5000),
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"abc"),
    "nothing": None,
    "partial": functools.partial(print, 1, end=""),
    "path": pathlib.PurePosixPath("/a/b"),
    "enum": Colour.RED,
    "class": Custom,
    "object": Custom(),
    "function": os.system,
    "exception": ValueError("a"),
    "range": range(3),
    "deque": collections.deque([1, 2], 3),
    "generator": np.random.default_rng(1),
    "dtype": np.dtype("f4"),
    "keys": {(1, "a"): 2, 3.5: 4, None: 5, b"x": 6, frozenset([1]): 7},
    "evil": Evil(),
    "nested": [[{"a": ({"b": Custom()},)}]],
}


@pytest.mark.parametrize("protocol", [1, 2, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_plain_objects_beside_the_weights_are_passed_over(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    save_pth("a.pth", {"first": BESIDE[name], "state_dict": WEIGHTS, "last": BESIDE[name]}, protocol)
    loaded = load_checkpoint("a.pth", heads=2)
    assert loaded.notes[0] == "the weights are those under 'state_dict/'"
    np.testing.assert_array_equal(loaded.params["head"]["kernel"], PARAMS["head"]["kernel"])
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_weight_in_another_form_is_refused_by_name(tmp_path):
    save_pth(tmp_path / "a.pth", {**WEIGHTS, "gn_root.bias": np.zeros(64)})
    with pytest.raises(
        CheckpointError, match=r"gn_root.bias would have to be made by numpy.*_reconstruct, and nothing"
    ):
        load_checkpoint(tmp_path / "a.pth", heads=2)


def test_torchs_own_objects(torch, tmp_path):
    model, state = torch.nn.Linear(2, 1), {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    odd = {"size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float32, "model": model}
    odd |= {"complex": torch.ones(2, dtype=torch.complex64), "sparse": torch.eye(2).to_sparse()}
    odd |= {"optimizer": optimizer.state_dict()}
    marked = torch.nn.Parameter(state["gn_root.bias"])
    marked.remark = "a tensor with an attribute"
    state["gn_root.bias"] = marked
    for new in (True, False):
        torch.save({"net": state, **odd}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        loaded = assert_loads(
            tmp_path / "a.pth", "the weights are those under 'net/'", "left out: size, device, dtype and 4 more"
        )
        assert loaded.format == "pyiqa"


def test_a_zip_that_was_packed_again(tmp_path):
    save_pth(tmp_path / "a.pth", WEIGHTS, compression=zipfile.ZIP_DEFLATED)
    assert_loads(tmp_path / "a.pth")


def test_tensors_that_share_their_values_do_not_become_gigabytes(tmp_path):
    big = MusiqConfig(layers=200, width=384, mlp_width=384, heads=6, patch_size=8)
    values = {
        PYIQA_LAYOUT.name(path): np.broadcast_to(np.float32(0), shape) for path, shape in parameter_shapes(big).items()
    }
    save_pth(tmp_path / "a.pth", values, shared=np.zeros(64 * 64 * 256, np.float32))
    assert (tmp_path / "a.pth").stat().st_size < 6e6
    with pytest.raises(CheckpointError, match=r"share their values so that 4,194,304 bytes become [0-9,]+; re-save"):
        load_checkpoint(tmp_path / "a.pth", heads=2)


FLAX = ["params/", "target/", "opt/target/", "a/b/params/"]


@pytest.mark.parametrize("prefix", FLAX)
def test_flax_names(tmp_path, prefix):
    official = prefixed(prefix, to_official(PARAMS))
    moments = prefixed("opt_state/0/mu/", to_official(PARAMS)) | prefixed("opt_state/0/nu/", to_official(PARAMS))
    np.savez(tmp_path / "a.npz", **moments, **official, **{"step": np.array(3)})
    notes = [] if prefix == "opt/target/" else [f"the weights are those under {prefix!r}"]
    assert_loads(tmp_path / "a.npz", *notes, "left out: opt_state, step")


STRAYS = [np.array(3), np.array([3]), np.array(0.5), np.array("a"), np.array(["a", "b"])]
STRAYS += [np.array({"a": 1}, dtype=object), np.array([None, {}, "a"], dtype=object)]


@pytest.mark.parametrize("stray", STRAYS)
def test_strays_in_an_npz(tmp_path, stray):
    np.savez(tmp_path / "a.npz", **to_official(PARAMS), epoch=stray)
    assert_loads(tmp_path / "a.npz", "left out: epoch")


def test_bfloat16_in_an_npz(tmp_path):
    halves = {name: (a.view(np.uint32) >> 16).astype(np.uint16) for name, a in to_official(PARAMS).items()}
    np.savez(tmp_path / "a.npz", **{name: bits.view("V2") for name, bits in halves.items()})
    loaded = dict(flatten(load_checkpoint(tmp_path / "a.npz").params))
    for name, array in flatten(PARAMS):
        np.testing.assert_array_equal(loaded[name].view(np.uint32), array.view(np.uint32) >> 16 << 16)


def test_prefixes_in_safetensors(tmp_path):
    safetensors.numpy.save_file(prefixed("module.net."), tmp_path / "a.safetensors")
    assert_loads(tmp_path / "a.safetensors", "the weights are those under 'module.net.'")
    native = {f"ema/{name}": array for name, array in flatten(PARAMS)}
    safetensors.numpy.save_file(native, tmp_path / "b.safetensors")
    assert_loads(tmp_path / "b.safetensors", "the weights are those under 'ema/'", config=CONFIG)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["opt/target/head/bias.npy", "opt/target/head/bias"])
def test_members_that_are_there_twice(tmp_path, other):
    save_official(tmp_path / "a.npz", PARAMS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(other, archive.read("opt/target/head/bias.npy"))
    with pytest.raises(CheckpointError, match="holds opt/target/head/bias twice"):
        load_checkpoint(tmp_path / "a.npz")


HEADERS = {
    "open string": b"{'descr': '<f4\n(",
    "open bracket": b"{'descr': '<f4', ((((",
    "indented": b"   {'descr'\n: 1\n  2\n",
    "no dict": b"3",
    "other keys": b"{'a': 1}",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "no type": b"{'descr': 'banana', 'fortran_order': False, 'shape': (1,), }",
    "a type of lists": b"{'descr': [['a']], 'fortran_order': False, 'shape': (1,), }",
    "huge": b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,), }",
    "huger": b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "text": b"{'descr': '<f4', 'fortran_order': False, 'shape': 'ab', }",
    "deep": b"(" * 5000,
    "number": b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",), }",
    "escape": b"{'descr': '\\q', 'fortran_order': False, 'shape': (1,), }",
    "not ascii": b"{'descr': '\xff'}",
    "call": b"__import__('os').mkdir('marker')",
}


@pytest.mark.parametrize("name", HEADERS)
def test_wrong_headers_of_arrays(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    header = HEADERS[name]
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("conv_root/kernel.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(CheckpointError, match=r"^a\.npz: cut short, damaged") as caught:
        load_checkpoint("a.npz")
    assert "\n" not in str(caught.value)
    assert os.listdir() == ["a.npz"]


PIECES = [b"cos\nmkdir\nX\x06\x00\x00\x00marker\x85R", b"(", b"0", b"}", b'"', b"PK\1\2"]


def mutated(content, rng):
    """Some bytes flipped, cut, doubled or exchanged, most of them near the start or the end."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = min(int(rng.integers(4000)), len(content) - 1)
        at = at if rng.random() < 0.5 else len(content) - 1 - at
        length = int(rng.choice([1, 4, 30]))
        match rng.integers(5):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                content[at : at + length] = rng.bytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case _:
                content[at:at] = PIECES[rng.integers(len(PIECES))]
    return bytes(content) or b"x"


@pytest.mark.parametrize(
    "kind", ["native", "official", "pyiqa", "torch", pytest.param("stream", marks=pytest.mark.frameworks("torch"))]
)
def test_mutated_files_are_refused_or_harmless(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "native":
        save_checkpoint("a", PARAMS, CONFIG)
    elif kind == "official":
        save_official("a", PARAMS)
    elif kind == "pyiqa":
        save_pyiqa("a", PARAMS)
    elif kind == "torch":
        save_pth("a", {"net": WEIGHTS, "beside": list(BESIDE.values())})
    else:
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
        torch.save({"net": tensors, "beside": [Custom()]}, "a", _use_new_zipfile_serialization=False)
    whole, rng = pathlib.Path("a").read_bytes(), np.random.default_rng(3)
    for _ in range(300):
        content = mutated(whole, rng)
        pathlib.Path("a").write_bytes(content)
        message = None
        try:
            load_checkpoint("a", heads=2)
        except CheckpointError as error:
            message = str(error)
        assert message is None or (message.startswith("a: ") and "\n" not in message)
        assert kind != "native" or content == whole or message
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("prefix", ["", "params.", "opt.target."])
def test_names_of_flax_joined_by_dots(prefix, tmp_path):
    dotted = {prefix + name.replace("/", "."): array for name, array in to_official(PARAMS).items()}
    np.savez(tmp_path / "a.npz", **dotted)
    safetensors.numpy.save_file(dotted, tmp_path / "a.safetensors")
    for file in ("a.npz", "a.safetensors"):
        loaded = load_checkpoint(tmp_path / file)
        assert loaded.format == "official"
        for (_, array), (_, ours) in zip(flatten(loaded.params), flatten(PARAMS), strict=True):
            np.testing.assert_array_equal(array, ours)


def test_names_that_dots_tell_apart_stay_as_they_are():
    names = {"a.conv_root.kernel": 1, "a/conv_root/kernel": 2}
    assert slashed(names) == names


def test_a_tensor_alone_is_called_so(torch, tmp_path):
    torch.save(torch.ones(3), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds a single tensor, not a state dict"):
        load_checkpoint(tmp_path / "a.pth")


def test_all_that_may_read_one_file_may_read_the_others(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", PARAMS, CONFIG)
    save_pyiqa(tmp_path / "b.safetensors", PARAMS)
    save_official(tmp_path / "c.npz", PARAMS)
    (tmp_path / "d").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
