"""What a pickle of weights may ask for. Every bad case is a stand-in of a few bytes, and none of them is given to torch."""

import io
import pickle
import pickletools
from collections import Counter
from typing import Any

import pytest
import torch

from xraygpt.common import pickle_outline
from xraygpt.common.pickle_outline import RefusedPickleError, Storage, TensorOutline, outline

FLOAT = b"ctorch\nFloatStorage\n"


def string(text: str) -> bytes:
    """The instruction that puts a text on the stack."""
    return pickle.BINUNICODE + len(text).to_bytes(4, "little") + text.encode()


def storage(numel: int, *, key: str = "0", kind: bytes = FLOAT) -> bytes:
    """The instructions that refer to a storage, as torch.save writes them."""
    return b"(" + string("storage") + kind + string(key) + string("cpu") + b"J" + numel.to_bytes(4, "little") + b"tQ"


def tensor(size: str, stride: str, *, offset: int = 0, of: bytes = storage(6), hooks: bytes = b"ccollections\nOrderedDict\n)R") -> bytes:
    """The instructions that build a tensor; `size` and `stride` in hexadecimal, a byte a dimension."""
    sizes = [b"(" + b"".join(b"K" + bytes([length]) for length in bytes.fromhex(each)) + b"t" for each in (size, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + b"K" + bytes([offset]) + sizes[0] + sizes[1] + b"\x89" + hooks + b"tR"


def followed(instructions: bytes) -> Any:
    return outline(io.BytesIO(b"\x80\x02" + instructions + b"."))[0]


def saved(value: Any, **options: Any) -> bytes:
    """The pickle that torch.save writes, without its zip."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return torch.PyTorchFileReader(io.BytesIO(stream.getvalue())).get_record("data.pkl")


def test_what_a_training_saves_is_followed() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(6)
    state = {
        "model": model.state_dict(),
        "parameters": dict(model.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "rng": [(3, tuple(range(2**32 - 5, 2**32)), None)],
        "views": [shared, shared[2:4], shared.view(2, 3).T, torch.zeros(0, 5), torch.tensor(2.0)],
        1: {"a": 1e300, "b": -7, "c": 10**40, "d": float("nan"), "e": "ä\ud800", "f": None, "g": True},
    }
    value, storages = outline(io.BytesIO(saved(state)))
    assert value.keys() == state.keys()
    assert isinstance(value["model"]["weight"], TensorOutline)
    assert value["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert value[1]["c"] == 10**40
    assert Storage(6, 8) in storages.values() and Storage(6, 4) in storages.values()


def counted(value: object) -> bytes:
    """A pickle of Python, for what torch's reader knows but weights do not need."""
    return pickle.dumps(value, protocol=2)[2:-1]


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"cbuiltins\nbytearray\nK\x0a\x85R", "bytearray.*could run code"),
        (b"c__builtin__\nbytearray\nK\x0a\x85R", "bytearray.*could run code"),
        (counted(Counter("aab")), "Counter.*could run code"),
        (counted({1, 2}), "set.*could run code"),
        (counted(b"ab"), "encode.*could run code"),
        (b"ctorch\nSize\n(K\x01K\x02t\x85R", "Size.*could run code"),
        (b"ctorch\nTensor\n)\x81", "Tensor.*could run code"),
        (b"cos\nmkdir\n", "mkdir.*could run code"),
        (b"ccollections\nOrderedDict\n]K\x01a\x85R", "in a way that torch.save does not"),
        (b"ccollections\nOrderedDict\n}\x85R", "in a way that torch.save does not"),
        (b"ccollections\nOrderedDict\nK\x05R", "in a way that torch.save does not"),
        (b"ccollections\nOrderedDict\n)R}" + string("items") + b"K\x01sb", "attributes of an object"),
        (b"}" + b"}b", "attributes of an object"),
        (b"}K\x01K\x02\x86K\x01s", "a key of type tuple"),
        (b"}G" + bytes(8) + b"K\x01s", "a key of type float"),
        (b"}\x8a\x09" + b"\xff" * 8 + b"\x7fK\x01s", "a key of type int"),
        (b"K\x01K\x02a", "puts values into a int"),
        (b"\x8f", "instruction EMPTY_SET"),
        (b"\x95" + (1).to_bytes(8, "little"), "instruction FRAME"),
        (b"ctorch._utils\n_rebuild_qtensor\n", "a quantised tensor"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n", "a sparse tensor"),
        (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", "a tensor without numbers"),
        (b"ctorch._utils\n_rebuild_nested_tensor\n", "a nested tensor"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n", "another library's kind"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "no possible size"),
        (tensor("03", "01", of=b"K\x01"), "without a storage"),
        (tensor("07", "01"), "repeats its numbers"),
        (tensor("0202", "0000", of=storage(1)), "repeats its numbers"),
        (tensor("03", "01", offset=4), "beyond its storage"),
        (tensor("03", "03"), "beyond its storage"),
        (tensor("0302", "01"), "2 dimensions and 1 strides"),
        (tensor("01" * 17, "01" * 17), "17 dimensions"),
        (tensor("03", "01", hooks=b"}K\x01K\x02s"), "hooks"),
        (storage(2) + storage(3), "two sizes for the storage '0'"),
        (storage(2, kind=b"ccollections\nOrderedDict\n"), "a storage of 2 elements"),
        (b"K\x07Q", "no storage"),
        (b"K\x01(tR", "calls something"),
    ],
)
def test_what_no_weights_need_is_refused(instructions: bytes, message: str) -> None:
    with pytest.raises(RefusedPickleError, match=message):
        followed(instructions)


def test_views_of_a_storage_are_no_repetition() -> None:
    assert isinstance(followed(tensor("0203", "0301")), TensorOutline)
    assert isinstance(followed(tensor("0302", "0103")), TensorOutline)
    assert isinstance(followed(tensor("00", "01")), TensorOutline)
    assert isinstance(followed(tensor("02", "02", offset=3)), TensorOutline)


def test_a_dictionary_of_python_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs are copied by each call, however often a file refers to them."""
    pairs = b"](]" + string("a") + b"aK\x01a]" + string("b") + b"aK\x02ae"
    assert followed(b"ccollections\nOrderedDict\n" + pairs + b"\x85R") == {"a": 1, "b": 2}
    again = b"ccollections\nOrderedDict\nh\x00\x85Ra"
    whole = b"]" + pairs + b"q\x00a" + again * 5
    assert len(followed(whole)) == 6
    monkeypatch.setattr(pickle_outline, "MAX_COPIED", 9)
    with pytest.raises(RefusedPickleError, match="in a way that torch"):
        followed(whole)


@pytest.mark.parametrize("damaged", [b"", b"\x80\x02.", b"\x80\x02K", b"\x80\x02h\x05.", b"\x80\x02t.", b"\x80\x02}K\x01s.", b"\xff\xff"])
def test_damage_is_an_error(damaged: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        outline(io.BytesIO(damaged))


def test_instructions_are_counted_before_they_build_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_outline, "MAX_INSTRUCTIONS", 100)
    assert followed(b"]" + b"]a" * 40) == [[]] * 40
    with pytest.raises(RefusedPickleError, match="more than 100 instructions"):
        followed(b"]" + b"]a" * 60)


def test_every_instruction_of_torch_save_is_known() -> None:
    """What torch.save writes for plain values in all sizes; an instruction that is missing here would refuse a good file."""
    values = [None, True, 1, 300, 70_000, -1, 2**40, 1.5, "a", "b" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, 2], {}]
    written = saved([*values, {"a": 1}, {"a": 1, "b": 2}, [[str(i)] for i in range(300)]])
    assert {"LONG_BINPUT", "APPENDS", "SETITEMS", "SETITEM", "TUPLE"} <= {opcode.name for opcode, _, _ in pickletools.genops(written)}
    assert outline(io.BytesIO(written))[0][: len(values)] == values
