"""The pickles in PyTorch's files, without PyTorch, and without trusting them.

A pickle is a program for a stack machine that may call any Python function, so loading an unknown one is running an
unknown program. Here the program is run by a machine of our own that can build dicts, lists, tuples, strings, numbers
and notes of where a tensor's values are. A name such as `torch._utils._rebuild_tensor_v2` stays a mere name, and what
another name would be called for becomes an inert `Opaque`: nothing is ever imported, called or looked into.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from musiq_ref.checkpoint.layout import CheckpointError

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
    "torch.ComplexFloatStorage": "c8",
    "torch.ComplexDoubleStorage": "c16",
    "torch.QInt8Storage": "i1",
    "torch.QUInt8Storage": "u1",
    "torch.QInt32Storage": "i4",
}
"""{type of a storage: NumPy's letter for its elements}"""

DICTS = {"collections.OrderedDict", "collections.defaultdict"}
TENSORS = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"}
PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"

MOST_INSTRUCTIONS = 2_000_000


class Name(NamedTuple):
    """A global that the pickle mentions, as text."""

    text: str


class Opaque(NamedTuple):
    """What only running a program would make; `text` is the name that it was to be made by."""

    text: str


class Storage(NamedTuple):
    """A run of `length` numbers somewhere else in the file."""

    kind: str
    key: str
    length: int


class View(NamedTuple):
    """A tensor: element (i, j, …) is number offset + i·stride[0] + j·stride[1] + … of its storage; unchecked."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any


MARK = Opaque("MARK")

CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Opaque("set"),
    "NEXT_BUFFER": lambda: Opaque("buffer"),
    "MARK": lambda: MARK,
}
"""{instruction: what it pushes}, of those without an argument"""

PUSH_ARGUMENT = {"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
PUSH_ARGUMENT |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
PUSH_ARGUMENT |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}


def run_pickle(program: bytes | BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """What a pickle builds.

    program: its bytes, or a file that is read up to the pickle's end
    storages: is filled with those that the pickle mentions, by their keys

    Raises CheckpointError, ValueError, TypeError, LookupError or RecursionError for what is no pickle.

    >>> import collections, pickle
    >>> run_pickle(pickle.dumps({"epoch": 3, "seen": collections.Counter("aab")}))
    {'epoch': 3, 'seen': Opaque(text='collections.Counter')}
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    storages = {} if storages is None else storages
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if count > MOST_INSTRUCTIONS:
            raise CheckpointError("its pickle is far longer than a checkpoint's; save model.state_dict() alone")
        match opcode.name:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "STOP":
                return stack.pop()
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            case name if name in PUSH_ARGUMENT:
                stack.append(argument)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(Name(str(argument).replace(" ", ".", 1)))
            case "PERSID" | "EXT1" | "EXT2" | "EXT4":
                stack.append(Opaque(opcode.name))
            case "BINPERSID":
                stack.append(persistent(stack.pop(), storages))
            case "BUILD":  # attributes, such as a state dict's _metadata
                stack[-2:] = [stack[-2]]
            case "STACK_GLOBAL" | "REDUCE" | "NEWOBJ":
                stack[-2:] = [BINARY[opcode.name](*stack[-2:])]
            case "NEWOBJ_EX":
                stack[-3:] = [call(*stack[-3:-1])]
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                extend(stack[-2], [stack.pop()])
            case "SETITEM":
                fill(stack[-3], [stack.pop(-2), stack.pop()])
            case name:
                above_mark(name, argument, stack)
    raise CheckpointError("its pickle has no end; download or export it again")


def above_mark(name: str, argument: Any, stack: list[Any]) -> None:
    """An instruction that takes everything above the topmost mark, and the mark."""
    items: list[Any] = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    items.reverse()
    match name:
        case "TUPLE":
            stack.append(tuple(items))
        case "LIST":
            stack.append(items)
        case "DICT":
            stack.append(fill({}, items))
        case "APPENDS":
            extend(stack[-1], items)
        case "SETITEMS":
            fill(stack[-1], items)
        case "FROZENSET":
            stack.append(Opaque("frozenset"))
        case "INST":
            stack.append(call(Name(str(argument).replace(" ", ".", 1)), tuple(items)))
        case "OBJ":
            stack.append(call(items[0], tuple(items[1:])))
        case "ADDITEMS" | "POP_MARK":
            pass
        case _:
            raise ValueError(f"unknown instruction {name}")


def described(value: Any) -> str:
    """What a value of the machine is called in a message.

    >>> described(Opaque("posix.mkdir")), described([1])
    ('posix.mkdir', 'a value of type list')
    """
    if isinstance(value, View):
        return "a single tensor"
    return value.text if isinstance(value, Name | Opaque) else f"a value of type {type(value).__name__}"


def global_name(module: Any, name: Any) -> Name:
    """A global of two texts."""
    return Name(
        f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "something that is no text"
    )


def call(function: Any, arguments: Any) -> Any:
    """The calls that a state dict is made of, done here; any other one is Opaque."""
    if not isinstance(function, Name) or type(arguments) is not tuple:
        return Opaque(described(function))
    if function.text in DICTS:
        pairs = arguments[0] if arguments and type(arguments[0]) is list else []  # Python 2 put the items there
        return fill({}, [part for pair in pairs if len(pair) == 2 for part in pair])
    if function.text in TENSORS and len(arguments) >= 4:
        return View(*arguments[:4]) if isinstance(arguments[0], Storage) else Opaque(described(arguments[0]))
    if function.text in PARAMETERS and arguments and isinstance(arguments[0], View | Opaque):
        return arguments[0]
    if function.text == SUBCLASS and len(arguments) >= 3:
        return call(arguments[0], arguments[2])
    return Opaque(function.text)


BINARY: dict[str, Callable[[Any, Any], Any]] = {"STACK_GLOBAL": global_name, "REDUCE": call, "NEWOBJ": call}
"""{instruction: what it makes of the two topmost values}"""


def persistent(key: Any, storages: dict[str, Storage]) -> Storage | Opaque:
    """What ("storage", type, key, device, count) stands for; Opaque for a type or a form that is not known."""
    if type(key) is not tuple or len(key) < 5:
        return Opaque("a persistent object")
    _, kind, key, _, count, *view = key
    if not isinstance(kind, Name) or kind.text not in STORAGES or not isinstance(key, str) or any(view):
        return Opaque(described(kind))
    storage = Storage(kind.text, key, count)
    if storages.setdefault(key, storage) != storage:
        raise ValueError("two storages of one name")
    return storage


def extend(target: Any, items: list[Any]) -> None:
    """Appends to a list that the program made; what is appended to something Opaque is dropped."""
    if not isinstance(target, Opaque):
        list.extend(target, items)


def fill(target: Any, items: list[Any]) -> Any:
    """Puts key, value, key, value, … into a dict that the program made; keys but strings and integers are dropped."""
    pairs = zip(items[::2], items[1::2], strict=True)
    if not isinstance(target, Opaque):
        dict.update(target, {key: value for key, value in pairs if isinstance(key, str | int)})
    return target
