"""PyTorch's files without PyTorch: every tensor it can write, and nothing that a hostile file asks for."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiq_ref.checkpoint import CheckpointError, load_checkpoint
from musiq_ref.checkpoint.torch_file import read_torch_zip
from musiq_ref.checkpoint.torch_pickle import View, run_pickle
from musiq_ref.checkpoint.weights import flat_leaves

DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]


def read_zip(path):
    """Every tensor of a .pth."""
    with zipfile.ZipFile(path) as archive:
        found, take = read_torch_zip(archive)
        leaves = flat_leaves(found, View)
        return take({name: leaf for name, leaf in leaves.items() if isinstance(leaf, View)})


def read_back(torch, tmp_path, value, **options):
    torch.save(value, tmp_path / "a.pth", **options)
    return read_zip(tmp_path / "a.pth")


def assert_equal(array, tensor):
    tensor = tensor.detach()
    expected = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_data_type(torch, tmp_path, dtype):
    tensor = torch.arange(-6, 6).reshape(3, 4).to(getattr(torch, dtype))
    assert_equal(read_back(torch, tmp_path, {"a": tensor})["a"], tensor)


def test_every_bfloat16_and_float16_exactly(torch, tmp_path):
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    tensors = {"half": patterns.view(torch.float16), "brain": patterns.clone().view(torch.bfloat16)}
    found = read_back(torch, tmp_path, tensors)
    assert_equal(found["half"], tensors["half"])
    np.testing.assert_array_equal(found["brain"], tensors["brain"].float().numpy())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_views_of_one_storage(torch, tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4)))
    base = torch.arange(1 + int(np.prod([2 * n + 1 for n in shape])), dtype=torch.float32)[1:]
    view = base.reshape([2 * n + 1 for n in shape])
    for axis, n in enumerate(shape):
        step = data.draw(st.integers(1, 2))
        view = view.narrow(axis, data.draw(st.integers(0, 1)), 2 * n)[
            (slice(None),) * axis + (slice(0, n * step, step),)
        ]
    view = view.permute(data.draw(st.permutations(range(len(shape)))))
    found = read_back(torch, tmp_path_factory.mktemp("a"), {"view": view, "again": view, "base": base})
    assert_equal(found["view"], view)
    assert_equal(found["base"], base)
    assert not view.numel() or np.shares_memory(found["view"], found["base"])


def test_a_state_dict_with_everything(torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = model.state_dict()
    for value, prefix in (
        (state, ""),
        ({"params": state}, "params/"),
        ({"state_dict": OrderedDict(state), "epoch": 3, "loss": [0.5, None, ("x", True)]}, "state_dict/"),
    ):
        found = read_back(torch, tmp_path, value)
        assert list(found) == [f"{prefix}{name}" for name in state]
        for name, tensor in state.items():
            assert_equal(found[f"{prefix}{name}"], tensor)


def test_parameters_scalars_and_empty_tensors(torch, tmp_path):
    tensors = {
        "p": torch.nn.Parameter(torch.ones(2, 3)),
        "s": torch.tensor(2.5),
        "z": torch.zeros(0, 7),
        "n": torch.tensor([]),
    }
    found = read_back(torch, tmp_path, tensors)
    for name, tensor in tensors.items():
        assert_equal(found[name], tensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(torch, tmp_path, protocol):
    tensors = {f"layer{i}.weight": torch.full((i,), float(i)) for i in range(300)}
    found = read_back(torch, tmp_path, tensors, pickle_protocol=protocol)
    assert_equal(found["layer299.weight"], tensors["layer299.weight"])


def write_pth(path, program, storages=None, **extra):
    """A .pth by hand; an entry's compression is `extra["compression"]`."""
    with zipfile.ZipFile(path, "w", extra.pop("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("a/data.pkl", program)
        for name, data in {**extra, **{f"data/{k}": v for k, v in (storages or {}).items()}}.items():
            archive.writestr(f"a/{name}", data)


class Token:
    """Something that the pickler below writes as torch writes a global, a storage or a tensor."""

    def __init__(self, **parts):
        self.__dict__ = parts


def tensor_program(
    offset=0, size=(2, 3), stride=(3, 1), count=6, kind="FloatStorage", key="0", name="conv_root.weight"
):
    """The pickle of {name: tensor}, its parts as given."""
    buffer = io.BytesIO()

    class Writer(pickle._Pickler):
        def save(self, value, save_persistent_id=True):
            if not isinstance(value, Token):
                return super().save(value, save_persistent_id)
            if "name" in value.__dict__:
                self.write(b"c" + value.name.encode() + b"\n")
            elif "storage" in value.__dict__:
                super().save(("storage", Token(name=f"torch\n{kind}"), key, "cpu", count))
                self.write(pickle.BINPERSID)
            else:
                self.save(Token(name="torch._utils\n_rebuild_tensor_v2"))
                super().save((Token(storage=True), offset, size, stride, False, None))
                self.write(pickle.REDUCE)
            return None

    Writer(buffer, 2).dump({name: Token(tensor=True)})
    return buffer.getvalue()


def test_a_handwritten_tensor_and_big_endian(tmp_path):
    values = np.arange(6, dtype=np.float32)
    write_pth(tmp_path / "a", tensor_program(), {"0": values.tobytes()})
    np.testing.assert_array_equal(read_zip(tmp_path / "a")["conv_root.weight"], values.reshape(2, 3))
    write_pth(tmp_path / "b", tensor_program(), {"0": values.astype(">f4").tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(read_zip(tmp_path / "b")["conv_root.weight"], values.reshape(2, 3))
    bits = (values.view(np.uint32) >> 16).astype(">u2")
    write_pth(tmp_path / "c", tensor_program(kind="BFloat16Storage"), {"0": bits.tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(read_zip(tmp_path / "c")["conv_root.weight"], values.reshape(2, 3))


OUTSIDE = {
    "offset": {"offset": 1},
    "negative offset": {"offset": -1},
    "huge offset": {"offset": 2**70},
    "stride": {"stride": (4, 1)},
    "huge stride": {"stride": (2**62, 2**62)},
    "negative stride": {"offset": 5, "stride": (-3, -1)},
    "size": {"size": (3, 3)},
    "huge size": {"size": (2**40, 2**40)},
    "huge size, no stride": {"size": (10**6, 10**6), "stride": (0, 0)},
    "huge empty size": {"size": (0, 2**80)},
    "negative size": {"size": (-2, -3)},
    "short stride": {"stride": (1,)},
    "truth value": {"size": (True, 3)},
    "fraction": {"stride": (3.0, 1)},
    "many axes": {"size": (1,) * 65, "stride": (1,) * 65},
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_tensors_outside_their_storage(tmp_path, name):
    write_pth(tmp_path / "a", tensor_program(**OUTSIDE[name]), {"0": bytes(24)})
    with pytest.raises(CheckpointError, match="reaches outside its storage"):
        load_checkpoint(tmp_path / "a")


STORAGES = {
    "count": ({"count": 10**12}, "does not hold as many values"),
    "count of a list": ({"count": [6]}, "reaches outside"),
    "key": ({"key": "1"}, "no item named"),
    "path": ({"key": "../data.pkl"}, "no item named"),
    "number as key": ({"key": 0}, "would have to be made by torch.FloatStorage"),
    "odd bytes": ({"kind": "DoubleStorage", "size": (1, 3), "count": 3, "key": "odd"}, "damaged"),
    "unknown": ({"kind": "Float8Storage"}, r"would have to be made by torch.Float8Storage"),
    "a function": ({"kind": "load"}, r"would have to be made by torch.load"),
    "size of text": ({"size": "ab"}, "reaches outside"),
    "no size": ({"size": None}, "reaches outside"),
}


@pytest.mark.parametrize("name", STORAGES)
def test_false_storages(tmp_path, name):
    parts, message = STORAGES[name]
    write_pth(tmp_path / "a", tensor_program(**parts), {"0": bytes(24), "odd": bytes(23)})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a")


def test_zip_bombs(tmp_path):
    program, zeros = tensor_program(count=2**25), bytes(2**27)
    write_pth(tmp_path / "a", program, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"claims to unpack to 134,2\d+,\d+ bytes"):
        load_checkpoint(tmp_path / "a")
    write_pth(tmp_path / "b", tensor_program(), {"0": bytes(24)})
    content = bytearray((tmp_path / "b").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)  # claimed sizes in the zip's directory
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(CheckpointError, match="claims to unpack"):
        load_checkpoint(tmp_path / "b")


def executes(function, *arguments):
    """An object whose pickle calls function(*arguments)."""

    class Evil:
        def __reduce__(self):
            return function, arguments

    return Evil()


def text(value):
    """The instruction that puts a text on the stack."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


MARKER = text("marker")  # the text "marker", a folder that a working attack would make

ATTACKS = {
    "reduce": (b"cposix\nmkdir\n" + MARKER + b"\x85R.", "posix.mkdir"),
    "os.system": (b"cos\nsystem\n" + text("mkdir marker") + b"\x85R.", "os.system"),
    "eval": (b"cbuiltins\neval\n" + text("__import__('os').mkdir('marker')") + b"\x85R.", "builtins.eval"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + MARKER + b"\x85R.", "os.mkdir"),
    "stack global of a tuple": (b"\x80\x04)\x8c\x05mkdir\x93.", "something that is no text"),
    "getattr": (b"cbuiltins\ngetattr\ncos\nmkdir\n\x85R.", "builtins.getattr"),
    "dotted name": (
        b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.fromkeys.__get\x93.",
        "collections.OrderedDict.from",
    ),
    "dotted module": (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "_rebuild_tensor_v2.__globals__"),
    "torch.load": (b"ctorch\nload\n" + MARKER + b"\x85R.", "torch.load"),
    "inst": (b"(" + MARKER + b"ios\nmkdir\n.", "os.mkdir"),
    "obj": (b"(cos\nmkdir\n" + MARKER + b"o.", "os.mkdir"),
    "newobj": (b"cos\nmkdir\n" + MARKER + b"\x85\x81.", "os.mkdir"),
    "newobj_ex": (b"cos\nmkdir\n" + MARKER + b"\x85}\x92.", "os.mkdir"),
    "extension": (b"\x82\x01.", "EXT1"),
    "persid": (b"Pmarker\n.", "PERSID"),
    "build on a function": (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "_rebuild_tensor_v2"),
    "build with slots": (
        b"ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__defaults__") + b")s\x86b.",
        "_rebuild_tensor_v2",
    ),
    "call of a text": (MARKER + b")R.", "a value of type str"),
    "call of a storage type": (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage"),
    "parameter of a text": (b"ctorch._utils\n_rebuild_parameter\n" + MARKER + b"\x85R.", "torch._utils._rebuild_param"),
    "subclass of a call": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\nN" + MARKER + b"\x85tR.",
        "os.mkdir",
    ),
    "set": (b"\x80\x04\x8f.", "set"),
    "pickle.loads": (pickle.dumps(executes(pickle.loads, b"N.")), "_pickle.loads"),
    "numpy": (pickle.dumps(np.float64(1)), "numpy.*scalar"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, monkeypatch, name):
    program, message = ATTACKS[name]
    monkeypatch.chdir(tmp_path)
    write_pth(tmp_path / "a.pth", program)
    with pytest.raises(CheckpointError, match=f"it holds .*{message}.*, and nothing that a file asks for") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_pickles_beside_a_tensor_are_passed_over(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    weights = tensor_program()
    write_pth(tmp_path / "a.pth", weights[:-1] + text("extra") + ATTACKS[name][0][:-1] + b"s.", {"0": bytes(24)})
    assert list(read_zip(tmp_path / "a.pth")) == ["conv_root.weight"]
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_weight_that_would_have_to_be_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pth(tmp_path / "a.pth", b"}" + text("conv_root.weight") + ATTACKS["os.system"][0][:-1] + b"s.")
    with pytest.raises(CheckpointError, match=r"tensor conv_root.weight would have to be made by os.system"):
        load_checkpoint(tmp_path / "a.pth")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_the_attacks_would_work_on_an_ordinary_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("reduce", "os.system", "eval", "stack global", "inst"):
        pickle.loads(ATTACKS[name][0])
        assert os.listdir(tmp_path) == ["marker"], name
        os.rmdir("marker")


def test_an_attack_beside_real_tensors(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv_root.weight": torch.ones(2), "extra": executes(os.mkdir, "marker")}, "a.pth")
    assert list(read_zip(tmp_path / "a.pth")) == ["conv_root.weight"]
    assert os.listdir(tmp_path) == ["a.pth"]


def test_an_ordered_dict_of_python_2():
    pairs = b"ccollections\nOrderedDict\n](](" + text("a") + b"K\x03e](" + text("b") + b"\x88ee\x85R."
    assert run_pickle(pairs) == {"a": 3, "b": True}


DAMAGED = {
    "empty": b"",
    "no end": b"}",
    "nothing on the stack": b".",
    "no mark": b"}u.",
    "odd items": b"}(K\x01u.",
    "unknown memo": b"h\x05.",
    "unknown opcode": b"\xff.",
    "cut text": b"X\xff\xff\xff\x7fa",
    "not utf-8": b"X\x01\x00\x00\x00\xff.",
    "no list": b"}K\x01a.",
    "build on nothing": b"}b.",
    "odd persistent id": b")Q.",
    "assignment to a class": b"ccollections\nOrderedDict\nK\x01K\x02s.",
    "two types of one storage": b"".join(
        b"(" + text("storage") + b"ctorch\n" + kind + b"Storage\n" + text("0") + b"NK\x01tQ"
        for kind in (b"Byte", b"Half")
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles(tmp_path, name):
    write_pth(tmp_path / "a", DAMAGED[name])
    with pytest.raises(CheckpointError, match=r"its pickle|damaged"):
        load_checkpoint(tmp_path / "a")


NOT_STATE_DICTS = {
    "list": (b"].", "none of MUSIQ's tensors"),
    "mark": (b"(.", "it holds MARK, not a state dict"),
    "number": (b"}X\x01\x00\x00\x00aK\x01s.", "none of MUSIQ's tensors"),
    "only a number": (b"K\x01.", "it holds a value of type int, not a state dict"),
    "number as name": (b"}K\x01K\x01s.", "none of MUSIQ's tensors"),
    "huge number": (b"}\x8b\x10\x27\x00\x00" + b"\x7f" * 10000 + b"K\x01s.", "damaged"),
    "list in itself": (b"}X\x01\x00\x00\x00a]q\x00h\x00as.", "none of MUSIQ's tensors"),
    "doubled tuples": (b"}X\x01\x00\x00\x00a)" + b"q\x00h\x00\x86" * 200 + b"s.", "none of MUSIQ's tensors"),
    "tuple as key": (b"})K\x01s.", "none of MUSIQ's tensors"),
    "number as weight": (b"}X\x10\x00\x00\x00conv_root.weightK\x01s.", "none of MUSIQ's tensors"),
    "far too long": (b"}" + b"N0" * 1_100_000 + b".", "far longer than a checkpoint's"),
    "far too many": (b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(100_100)) + b"u.", "far more"),
}


@pytest.mark.parametrize("name", NOT_STATE_DICTS)
def test_what_is_no_state_dict(tmp_path, name):
    program, message = NOT_STATE_DICTS[name]
    write_pth(tmp_path / "a", program)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a")


def test_a_whole_model_is_refused(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"it holds torch.nn.modules.linear.Linear, not a state dict"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_random_programs_end_in_one_way_or_the_other(noise, start, stop):
    program = tensor_program()
    program = program[:start] + noise + program[start + stop :]
    try:
        found = run_pickle(program)
    except (CheckpointError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        found = error
    assert not callable(found)
