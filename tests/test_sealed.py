"""Sealed files: equal contents make equal bytes, and no changed bit is loaded."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from musiq_ref.checkpoint import CheckpointError
from musiq_ref.checkpoint.sealed import METHOD, SEAL, read_sealed, write_sealed

TENSORS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "big/endian": np.arange(4, dtype=">f4"),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "number": np.array(7),
    "none": np.zeros((0, 3), np.float32),
    "truths": np.array([True, False]),
}
METADATA = {"what": "a test", "and": "ünïcode"}


def test_there_and_back(tmp_path):
    write_sealed(tmp_path / "a", TENSORS, METADATA)
    tensors, metadata = read_sealed(tmp_path / "a")
    assert metadata == METADATA
    assert set(tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], array, strict=array.dtype.isnative)


def test_another_reader_reads_it(tmp_path):
    write_sealed(tmp_path / "a", TENSORS, METADATA)
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata().items() >= METADATA.items()
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_equal_contents_make_equal_bytes(tmp_path):
    write_sealed(tmp_path / "a", TENSORS, METADATA)
    write_sealed(tmp_path / "b", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_flipped_bit_is_read(tmp_path):
    write_sealed(tmp_path / "a", TENSORS, METADATA)
    whole = (tmp_path / "a").read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a").write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"cut short|changed after it was written"):
            read_sealed(tmp_path / "a")


@pytest.mark.parametrize("gone", [SEAL, METHOD])
def test_half_a_seal_is_refused(tmp_path, gone):
    write_sealed(tmp_path / "a", TENSORS, METADATA)
    (tmp_path / "a").write_bytes(
        (tmp_path / "a").read_bytes().replace(f'"{gone}"'.encode(), b'"' + b"x" * len(gone) + b'"')
    )
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_sealed(tmp_path / "a")


def test_a_seal_of_another_method_is_refused(tmp_path):
    write_sealed(tmp_path / "a", TENSORS, {METHOD: "md5"})
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_sealed(tmp_path / "a")


def test_files_without_a_seal_are_read(tmp_path):
    safetensors.numpy.save_file({"half": TENSORS["half"]}, tmp_path / "a", METADATA)
    tensors, metadata = read_sealed(tmp_path / "a")
    assert metadata == METADATA
    np.testing.assert_array_equal(tensors["half"], TENSORS["half"])


def entry(start, stop, **changes):
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop], **changes}


WRONG = {
    "overlap": json.dumps({"a": entry(0, 8), "b": entry(4, 16)}),
    "hole": json.dumps({"a": entry(0, 4), "b": entry(8, 16)}),
    "too short": json.dumps({"a": entry(0, 12)}),
    "too long": json.dumps({"a": entry(0, 20)}),
    "huge": json.dumps({"a": entry(0, 16, shape=[2**62, 2**62])}),
    "negative": json.dumps({"a": entry(0, 16, shape=[-4])}),
    "metadata of numbers": json.dumps({"__metadata__": {"a": 5}, "a": entry(0, 16)}),
    "metadata of a list": json.dumps({"__metadata__": ["a"], "a": entry(0, 16)}),
    "metadata of text": json.dumps({"__metadata__": "a", "a": entry(0, 16)}),
    "twice": f'{{"a": {json.dumps(entry(0, 16))}, "a": {json.dumps(entry(0, 16))}}}',
    "metadata twice": f'{{"__metadata__": {{"x": "1", "x": "2"}}, "a": {json.dumps(entry(0, 16))}}}',
    "deep": "[" * 100_000,
    "a list": "[]",
    "unknown type": json.dumps({"a": entry(0, 16, dtype="F8_E5M2", shape=[16])}),
    "no type": json.dumps({"a": {"shape": [4], "data_offsets": [0, 16]}}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_headers(tmp_path, name):
    header = WRONG[name].encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(CheckpointError, match=r"cut short|data type F8_E5M2") as caught:
        read_sealed(tmp_path / "a")
    assert "\n" not in str(caught.value)
