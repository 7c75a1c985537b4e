"""Reads the pickles of PyTorch files as data: nothing they name is looked up or run.

A pickle is a program for a stack machine. Python's own machine imports and calls what
a pickle names, its C form trusts sizes and memo numbers, and both must be fenced op by
op. This one is small instead: `pickletools.genops` splits the program into ops, each
argument bounded by the bytes at hand, and of the ops only those that torch writes for
tensors in dicts, lists and tuples are known. A global is a string compared with the
names below; there is no import, no getattr and no call of anything a file chooses.

Known: protocols 2 to 5, and strings and OrderedDicts as Python 2 wrote them. Refused
among others: INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1/2/4, PERSID, DUP, POP, BYTEARRAY8.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxinpaint.features.foreign_file import (
    MAX_HEADER,
    ForeignFileError,
    refuse_shape,
)

MAX_OPS = 1_000_000  # about 40 make one tensor


class Storage(NamedTuple):
    """The flat memory that tensors look into: `size` elements under `key`."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A tensor as declared; offset and strides in elements, all inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A global that a pickle names: "module name"."""

    text: str


_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
STORAGES = {
    f"{module} {name}": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in _DTYPES.items()
}


def read_pickle(file: io.BytesIO, where: str, storages: dict[str, Storage]) -> Any:
    """Reads one pickle and leaves the file behind its STOP.

    Args:
      file: at the pickle's first byte.
      where: the file, for the message.
      storages: what the pickle declares is added here, by key.

    Returns:
      None, bool, int, float, str, bytes, `Tensor`, `Storage`, `Name`, and tuple, list
      or dict of these; an OrderedDict is a dict. Dicts and lists may be shared, or
      hold themselves.

    Raises:
      ForeignFileError: it is damaged, too long, or does anything else than that.
    """
    machine = _Machine(where, storages)
    start = file.tell()
    ops = pickletools.genops(file)
    for count in range(MAX_OPS):
        try:
            op, value, position = next(ops)
        except Exception as error:  # of a damaged argument; they have several types
            raise ForeignFileError(
                f"{where}: the pickle that begins at byte {start} is damaged "
                f"({error}) or longer than {MAX_HEADER} bytes; get the file again."
            ) from error
        machine.at = f"{where}: {op.name} at byte {position} of the pickle"
        if op.name == "STOP":
            return machine.result()
        if op.name not in _OPS or (op.name == "PROTO") != (count == 0):
            raise machine.refusal("is not what torch writes for tensors")
        if op.name == "PROTO" and value not in (2, 3, 4, 5):
            raise machine.refusal(f"asks for protocol {value}, known are 2 to 5,")
        _OPS[op.name](machine, value)
    raise ForeignFileError(f"{where}: the pickle has more than {MAX_OPS} operations.")


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, where: str, storages: dict[str, Storage]) -> None:
        self.at = where
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def refusal(self, reason: str) -> ForeignFileError:
        return ForeignFileError(
            f"{self.at} {reason}; only tensors in dicts and lists are read, so save "
            "model.state_dict() alone, from a source you trust."
        )

    def result(self) -> Any:
        if len(self.stack) != 1 or self.below:
            raise self.refusal("leaves more or less than one value")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self.refusal("finds the stack empty")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        if not self.stack or type(self.stack[-1]) not in kinds:
            raise self.refusal("does not fit the value it works on")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise self.refusal("finds no mark")
        values, self.stack = self.stack, self.below.pop()
        return values

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def put(self, number: int) -> None:
        if not self.stack:
            raise self.refusal("finds the stack empty")
        self.memo[number] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise self.refusal(f"asks for memo {number}, which nothing was put into")
        self.push(self.memo[number])

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def append(self, _: None) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self, _: None) -> None:
        values = self.pop_mark()
        self.top(list).extend(values)

    def set_item(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.fill(self.top(dict), [key, value])

    def set_items(self, _: None) -> None:
        values = self.pop_mark()
        self.fill(self.top(dict), values)

    def fill(self, target: dict, flat: list[Any]) -> None:
        if len(flat) % 2:
            raise self.refusal("has a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Small numbers alone: large ones can be chosen to share one hash.
            small = type(key) is int and 0 <= key < 2**31
            if type(key) is not str and not small:
                raise self.refusal("has a key that is neither text nor a small number")
            if key in target:
                raise self.refusal(f"gives the key {key!r:.200} twice")
            target[key] = value

    def name(self, text: str) -> None:
        if text not in _CALLS and text not in STORAGES:
            raise self.refusal(f"names {text[:200]!r}")
        self.push(Name(text))

    def stack_name(self, _: None) -> None:
        words = [self.pop(), self.pop()][::-1]
        if any(type(word) is not str for word in words):
            raise self.refusal("names what is no text")
        self.name(" ".join(words))

    def reduce(self, _: None) -> None:
        arguments, called = self.pop(), self.pop()
        if type(called) is not Name or called.text not in _CALLS:
            raise self.refusal("calls what may not be called")
        if type(arguments) is not tuple:
            raise self.refusal("has no tuple of arguments")
        self.push(_CALLS[called.text](self, arguments))

    def build(self, _: None) -> None:
        # Attributes: `_metadata` of a state dict, `requires_grad` and hooks of a
        # parameter before torch 0.4. Read, and dropped.
        state = self.pop()
        kind = type(self.top(dict, Tensor))
        if type(state) is not (dict if kind is dict else tuple):
            raise self.refusal("sets something other than attributes")

    def ordered_dict(self, arguments: tuple) -> dict:
        made: dict = {}
        pairs = arguments[0] if len(arguments) == 1 else []
        if len(arguments) > 1 or type(pairs) is not list:
            raise self.refusal("makes an OrderedDict of something else than pairs")
        for pair in pairs:  # as Python 2 wrote them
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise self.refusal("makes an OrderedDict of something else than pairs")
            self.fill(made, list(pair))
        return made

    def tensor(self, arguments: tuple) -> Tensor:
        """Of `_rebuild_tensor` (4 arguments) or `_rebuild_tensor_v2` (6 or 7)."""
        if len(arguments) not in (4, 6, 7) or type(arguments[0]) is not Storage:
            raise self.refusal("makes a tensor of something else than a storage")
        if len(arguments) == 7 and arguments[6]:
            raise self.refusal("makes a conjugated or negated tensor")
        storage, offset, shape, strides = arguments[:4]
        refuse_shape(self.at, shape)
        if type(offset) is not int or not 0 <= offset < 2**63:
            raise self.refusal("has an offset that is no whole number")
        if type(strides) is not tuple or len(strides) != len(shape):
            raise self.refusal("has not one stride for each axis")
        if any(type(n) is not int or not 0 <= n < 2**63 for n in strides):
            raise self.refusal("has a stride that is no whole number")
        size, last = 1, offset
        for n, stride in zip(shape, strides, strict=True):
            size *= n
            last += (n - 1) * stride
        if size == 0:
            return Tensor(storage, 0, tuple(shape), (0,) * len(shape))
        if size > storage.size or last >= storage.size:
            raise self.refusal(
                f"makes a tensor {list(shape)} larger than its storage of "
                f"{storage.size} elements"
            )
        # The stride of an axis of length 1 means nothing and can be any number.
        used = (s if n > 1 else 1 for n, s in zip(shape, strides, strict=True))
        return Tensor(storage, offset, tuple(shape), tuple(used))

    def parameter(self, arguments: tuple) -> Tensor:
        if not 1 <= len(arguments) <= 3 or type(arguments[0]) is not Tensor:
            raise self.refusal("makes a parameter of something else than a tensor")
        return arguments[0]

    def storage(self, _: None) -> None:
        """("storage", type, key, device, count), and in legacy files a view or None."""
        asked = self.pop()
        wrong = (
            type(asked) is not tuple
            or len(asked) not in (5, 6)
            or any(type(asked[i]) is not str for i in (0, 2, 3))
            or asked[0] != "storage"
            or type(asked[1]) is not Name
            or asked[1].text not in STORAGES
            or type(asked[4]) is not int
            or not 0 <= asked[4] < 2**60
        )
        if wrong:
            raise self.refusal("asks for something else than a storage")
        if len(asked) == 6 and asked[5] is not None:
            raise self.refusal("asks for a view of a storage, as torch wrote in 2017")
        key = asked[2]
        if not (key.isascii() and key.isalnum() and len(key) <= 64):
            raise self.refusal(f"asks for a storage named {key[:200]!r}")
        storage = Storage(key, STORAGES[asked[1].text], asked[4])
        if self.storages.setdefault(key, storage) != storage:
            raise self.refusal(f"declares storage {key} twice and not alike")
        self.push(storage)


_CALLS: dict[str, Callable[[_Machine, tuple], Any]] = {
    "collections OrderedDict": _Machine.ordered_dict,
    "torch._utils _rebuild_tensor": _Machine.tensor,
    "torch._utils _rebuild_tensor_v2": _Machine.tensor,
    "torch._utils _rebuild_parameter": _Machine.parameter,
    "torch.nn.parameter Parameter": _Machine.parameter,
}

_OPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
_OPS |= dict.fromkeys(
    "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINSTRING BINSTRING SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8".split(),
    _Machine.push,
)
