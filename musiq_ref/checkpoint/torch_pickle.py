"""PyTorch's .pth files without PyTorch, and without trusting them.

A .pth file is a zip: `data.pkl` describes the tensors, `data/0`, `data/1`, … hold their numbers. A pickle is a program
for a stack machine that may call any Python function, so loading an unknown one is running an unknown program. Here
the program is run by a machine of our own that knows only the instructions which build dicts, lists, tuples, strings,
numbers and tensors. A name such as `torch._utils._rebuild_tensor_v2` stays a mere name: nothing is ever imported.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.checkpoint.layout import CheckpointError, Tensors, printable

STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",  # widened to float32
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
"""{type of a storage: NumPy's letter for its elements}"""

ORDERED_DICT = "collections.OrderedDict"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
KNOWN_NAMES = {ORDERED_DICT, TENSOR, PARAMETER, *STORAGES}

WRAPPERS = ("params", "state_dict")
"""Keys under which training programs put the state dict."""

MARK = object()


class Name(NamedTuple):
    """A global that the pickle mentions, as text."""

    text: str


def read_torch(archive: zipfile.ZipFile, file_size: int) -> Tensors:
    """The state dict in an opened .pth: {name: read-only array}; bfloat16 as float32.

    Raises CheckpointError for whatever is not a plain state dict, naming it. `file_size`, in bytes, bounds what the
    entries may claim: PyTorch never compresses them, so together they are smaller than the file.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise CheckpointError("it has compressed or encrypted entries, which PyTorch never writes; delete it")
    if sum(entry.file_size for entry in entries) > file_size:
        raise CheckpointError("its entries claim more bytes than the file has; delete it")
    pickles = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
    folder = pickles[0].removesuffix("data.pkl")
    names = set(archive.namelist())
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
    storages: dict[tuple[str, str], np.ndarray] = {}

    def storage(persistent_id: Any) -> np.ndarray:
        """The numbers that a persistent id ("storage", type, key, device, count) stands for, shape (count,)."""
        _, kind, key, _, count = persistent_id
        if not isinstance(kind, Name) or kind.text not in STORAGES or not isinstance(key, str):
            raise CheckpointError("a tensor in it has no storage of a known type; re-save it as float32")
        if (kind.text, key) not in storages:
            data = archive.read(f"{folder}data/{key}")
            values = np.frombuffer(data, (">" if order == b"big" else "<") + STORAGES[kind.text])
            if type(count) is not int or count != values.size:
                raise CheckpointError(f"storage {printable(key)} does not hold as many values as it claims; delete it")
            values = widen(values) if kind.text == "torch.BFloat16Storage" else values
            values.flags.writeable = False
            storages[kind.text, key] = values
        return storages[kind.text, key]

    try:
        found = run_pickle(archive.read(pickles[0]), storage)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError, zipfile.BadZipFile) as error:
        reason = printable(str(error))
        raise CheckpointError(f"its pickle is damaged ({reason}); download or export it again") from None
    return state_dict(found)


def state_dict(found: Any) -> Tensors:
    """The {name: tensor} in what a pickle built, out of a {"params": …} or {"state_dict": …} around it."""
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict):
        raise CheckpointError(f"it holds a {type(found).__name__}, not a state dict; save model.state_dict()")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(
                f"its entry {printable(name)} is a {type(value).__name__}, not a tensor; save model.state_dict() alone"
            )
    return found


def rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """The tensor of shape `size` whose element (i, j, …) is storage[offset + i·stride[0] + j·stride[1] + …].

    No copy is made. Raises CheckpointError unless every element lies in the storage, and there are no more of them than
    values in it.

    >>> rebuild_tensor(np.arange(6.0), 1, (2, 2), (1, 2))
    array([[1., 3.],
           [2., 4.]])
    """
    numbers = (offset, *size, *stride)
    fits = isinstance(storage, np.ndarray) and len(size) == len(stride) <= 32
    fits = fits and all(type(n) is int and 0 <= n < 2**60 for n in numbers)
    if fits and math.prod(size):
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        fits = math.prod(size) <= storage.size and last < storage.size
    if not fits:
        raise CheckpointError("a tensor in it reaches outside its storage; re-save it with .contiguous(), or delete it")
    if not math.prod(size):
        return np.zeros(size, storage.dtype)
    width = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, offset * width, tuple(step * width for step in stride))


def call(function: Any, arguments: Any) -> Any:
    """The three calls a state dict is made of; the function is a mere name."""
    if not isinstance(function, Name) or type(arguments) is not tuple:
        raise refused("a call", type(function).__name__)
    if function.text == ORDERED_DICT and not arguments:
        return {}
    if function.text == TENSOR:
        return rebuild_tensor(*arguments[:4])
    if function.text == PARAMETER and isinstance(arguments[0], np.ndarray):
        return arguments[0]
    raise refused("a call", function.text)


def refused(what: str, name: object) -> CheckpointError:
    """The sentence for a pickle that wants more than tensors."""
    return CheckpointError(
        f"refused, because its pickle asks for {what} ({printable(name)}) and only tensors, dicts, lists, tuples, "
        f"strings and numbers are read; save model.state_dict() alone, and load this file nowhere unless you trust it"
    )


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: MARK,
}
"""{instruction: what it pushes}, of those without an argument"""

PUSH_ARGUMENT = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
PUSH_ARGUMENT |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}


def run_pickle(program: bytes, storage: Callable[[Any], np.ndarray]) -> Any:
    """What a pickle builds.

    program: its bytes
    storage: looks up the numbers of a tensor

    Raises CheckpointError, naming it, for any instruction or global beyond those that a state dict needs.

    >>> import pickle
    >>> run_pickle(pickle.dumps({"epoch": 3}, protocol=2), storage=lambda key: key)
    {'epoch': 3}
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            case name if name in PUSH_ARGUMENT:
                stack.append(argument)
            case "TUPLE":
                stack.append(tuple(since_mark(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND" | "APPENDS" as name:
                items = [stack.pop()] if name == "APPEND" else since_mark(stack)
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS" as name:
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark(stack)
                fill(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(known_name(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(known_name(module, name))
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(call(stack.pop(), arguments))
            case "BUILD" if type(stack[-2]) is dict:
                stack.pop()  # attributes of an OrderedDict, such as a state dict's _metadata
            case "STOP":
                return stack.pop()
            case other:
                raise refused("an instruction", f"{other} {argument}" if isinstance(argument, str) else other)
    raise CheckpointError("its pickle has no end; download or export it again")


def since_mark(stack: list[Any]) -> list[Any]:
    """Pops everything above the topmost mark, and the mark."""
    items = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def known_name(module: Any, name: Any) -> Name:
    """A global, one of those that a state dict needs."""
    text = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "not even text"
    if text not in KNOWN_NAMES:
        raise refused("a global", text)
    return Name(text)


def fill(target: Any, items: list[Any]) -> None:
    """Puts key, value, key, value, … into a dict that the program made."""
    if type(target) is not dict or not all(isinstance(key, str | int) for key in items[::2]):
        raise refused("an assignment", type(target).__name__)
    target.update(zip(items[::2], items[1::2], strict=True))
