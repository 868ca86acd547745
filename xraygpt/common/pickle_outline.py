"""What a pickle of weights would build, worked out before anything is built.

torch's `weights_only` reader runs no code, but it lets a few bytes ask for a lot: `bytearray(n)`, copies of a list that the file refers to
again and again, tensors that are larger than their storage. Here the instructions are followed without calling anything, and only those
are allowed with which torch.save writes dense tensors, numbers, strings, dictionaries, lists and tuples.
"""

import math
import pickletools
from dataclasses import dataclass
from typing import IO, Any

MAX_PICKLE_BYTES = 32 << 20
"""Of the instructions, without the tensors' numbers. A language model of 7 billion parameters has 50 kB of them."""
MAX_INSTRUCTIONS = 1_000_000
"""Each can cost some 200 bytes. A tensor takes about 30, the random state of one rank about 1,300."""
MAX_COPIED = 1_000_000
"""Pairs in dictionaries as Python 2 wrote them, counted in each."""
MAX_DIMENSIONS = 16

_ITEM_BYTES = {
    "torch BoolStorage": 1,
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch ShortStorage": 2,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch IntStorage": 4,
    "torch FloatStorage": 4,
    "torch LongStorage": 8,
    "torch DoubleStorage": 8,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
}
_FUNCTIONS = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
}
_OTHER_TENSORS = {
    "torch._utils _rebuild_meta_tensor_no_storage": "a tensor without numbers (of the meta device)",
    "torch._utils _rebuild_nested_tensor": "a nested tensor",
    "torch._utils _rebuild_qtensor": "a quantised tensor",
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_tensor_v3": "a tensor of a type that weights are not stored in",
    "torch._utils _rebuild_wrapper_subclass": "a tensor of another library's kind",
    "torch._tensor _rebuild_from_type_v2": "a tensor of another library's kind",
}
_SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORE, _FETCH = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}


class RefusedPickleError(ValueError):
    """A pickle asks for what weights do not need. The message ends the sentence "… is refused: it"."""


@dataclass(frozen=True)
class Storage:
    """The numbers of one or several tensors."""

    numel: int
    item_bytes: int

    @property
    def num_bytes(self) -> int:
        """What a reader would make room for."""
        return self.numel * self.item_bytes


class TensorOutline:
    """Stands where a tensor would be."""


class _Function(str):
    """The name of what a pickle refers to, never the thing itself."""


class _OrderedDict(dict[Any, Any]):
    """Stands for an OrderedDict, the one kind of dictionary that has attributes."""


def outline(stream: IO[bytes]) -> tuple[Any, dict[str, Storage]]:
    """Follow the next pickle in a stream, of at most `MAX_PICKLE_BYTES`.

    Returns:
        The value, with a `TensorOutline` for each tensor; and by their keys the storages that it refers to.

    Raises:
        RefusedPickleError: it holds, or asks for, what weights do not need.
        ValueError, IndexError, KeyError: it is damaged.
    """
    machine = _Machine()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number >= MAX_INSTRUCTIONS:
            raise RefusedPickleError(f"has more than {MAX_INSTRUCTIONS:,} instructions, as no weights have")
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.stack.pop(), machine.storages


class _Machine:
    """The stack machine that a pickle is a program for, with the instructions that torch's `weights_only` reader knows."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.num_copied = 0

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _STORE:
            self.memo[argument] = self.stack[-1]
        elif name in _FETCH:
            self.stack.append(self.memo[argument])
        elif name in _SINGLE:
            self.stack.append(_SINGLE[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name != "PROTO":
            self._step_of_structure(name, argument)

    def _step_of_structure(self, name: str, argument: Any) -> None:
        if name == "MARK":
            self.outer.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = self._since_mark()
            self.stack.append(tuple(items))
        elif name == "APPEND":
            item = self.stack.pop()
            self._top(list).append(item)
        elif name == "APPENDS":
            items = self._since_mark()
            self._top(list).extend(items)
        elif name == "SETITEM":
            value, key = self.stack.pop(), self.stack.pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "GLOBAL":
            self.stack.append(_known(argument))
        elif name == "BINPERSID":
            self.stack.append(self._storage(self.stack.pop()))
        elif name == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            if function == "collections OrderedDict" and isinstance(function, _Function):
                self._ordered(arguments)
            else:
                self.stack.append(_call(function, arguments))
        elif name == "BUILD":
            state = self.stack.pop()
            if type(self.stack[-1]) is not _OrderedDict or not isinstance(state, dict) or state.keys() - {"_metadata"}:
                raise RefusedPickleError("sets attributes of an object, as no weights do")
        else:
            raise RefusedPickleError(f"has the pickle instruction {name}, which torch.save does not write")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("too few values")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise RefusedPickleError(f"puts values into a {type(self.stack[-1]).__name__} that is no {kind.__name__}")
        return self.stack[-1]

    def _ordered(self, arguments: Any) -> None:
        """An empty dictionary, or, as Python 2 wrote it, one of [name, value] pairs. Those are copied, and so each copy is counted."""
        pairs: Any = arguments[0] if isinstance(arguments, tuple) and len(arguments) == 1 else [] if arguments == () else None
        self.num_copied += len(pairs) if isinstance(pairs, list) else MAX_COPIED + 1
        if self.num_copied > MAX_COPIED or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise RefusedPickleError("builds dictionaries in a way that torch.save does not")
        self.stack.append(_OrderedDict())
        self._set([each for pair in pairs for each in pair])

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hashes of other keys can be made to collide, and those of nested tuples take ages.
            if not isinstance(key, str) and not (isinstance(key, int) and -(2**63) <= key < 2**64):
                raise RefusedPickleError(f"has a dictionary with a key of type {type(key).__name__}; expected names or numbers")
            target[key] = value

    def _storage(self, reference: Any) -> Storage:
        """('storage', type, key, device, number of elements), and None in torch's older format."""
        kinds = (str, _Function, str, str, int)
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or any(reference[5:]):
            raise RefusedPickleError("refers to something outside the pickle that is no storage")
        if not all(isinstance(value, kind) for value, kind in zip(reference, kinds, strict=False)) or reference[0] != "storage":
            raise RefusedPickleError("refers to something outside the pickle that is no storage")
        _, kind, key, _, numel = reference[:5]
        if kind not in _ITEM_BYTES or numel < 0:
            raise RefusedPickleError(f"has a storage of {numel} elements of {kind!r}")
        storage = Storage(numel, _ITEM_BYTES[kind])
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedPickleError(f"has two sizes for the storage {key!r:.60}")
        return storage


def _known(name: str) -> _Function:
    if name in _OTHER_TENSORS:
        raise RefusedPickleError(f"holds {_OTHER_TENSORS[name]}; weights must be dense tensors with their numbers")
    if name not in _FUNCTIONS and name not in _ITEM_BYTES:
        raise RefusedPickleError(
            f"holds more than tensors and plain values ({name.replace(' ', '.')!r:.100}), and reading that could run code. Ask its author "
            "for safetensors, or for a file with parameters alone"
        )
    return _Function(name)


def _call(function: Any, arguments: Any) -> Any:
    """What the call of an allowed function would return.

    Raises:
        RefusedPickleError: the arguments are not those that torch.save writes.
    """
    if not isinstance(function, _Function) or function not in _FUNCTIONS or not isinstance(arguments, tuple):
        raise RefusedPickleError("calls something that builds no tensor")
    if function == "torch._utils _rebuild_parameter":
        if not arguments or not isinstance(arguments[0], TensorOutline):
            raise RefusedPickleError("has a parameter that is no tensor")
        _require_plain(arguments[1:])
        return arguments[0]
    if len(arguments) < 4:
        raise RefusedPickleError("has a tensor without a storage, or of no possible size")
    _require_plain(arguments[4:])
    return _tensor(*arguments[:4])


def _require_plain(arguments: tuple[Any, ...]) -> None:
    """After a tensor's numbers come whether it has a gradient, no hooks, and no metadata."""
    if len(arguments) > 3 or any(not isinstance(value, bool) and value for value in arguments):
        raise RefusedPickleError("has a tensor with hooks or metadata, as weights do not")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> TensorOutline:
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    if not isinstance(storage, Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise RefusedPickleError("has a tensor without a storage, or of no possible size")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise RefusedPickleError(f"has a tensor of {len(size)} dimensions and {len(stride)} strides; at most {MAX_DIMENSIONS} are expected")
    if math.prod(size) > storage.numel:
        raise RefusedPickleError("holds a tensor that repeats its numbers, and a copy of which could fill the memory")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.numel:
        raise RefusedPickleError("holds a tensor that reaches beyond its storage")
    return TensorOutline()
