import itertools
import json
import pickle
import random
import re
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxinpaint.features import torch_file
from jaxinpaint.features.foreign_file import MAX_HEADER
from jaxinpaint.features.load import ForeignFileError, read_weights
from tests.features import foreign_bytes as fb
from tests.features.foreign_bytes import name, number, program, text, tup

LAYOUTS = {"zip": fb.zip_file, "legacy": fb.legacy_file}
VALUES = np.arange(6, dtype="<f4").tobytes()
both = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(data):
        path = tmp_path / "weights.bin"
        path.write_bytes(data)
        return path

    return write


def refused(path, said=""):
    with pytest.raises(ForeignFileError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: "), message
    assert re.search(said, message.removeprefix(str(path))), message
    assert message.endswith(".") and "\n" not in message and len(message) < 900
    return message


def pickled(layout, body):
    """A file whose dict is `body`, of the newest protocol, which knows every op."""
    return LAYOUTS[layout](program(body, 5), {"0": VALUES})


# Payloads: each makes the file or folder SENTINEL when Python's own machine runs it.

SENTINEL = text("SENTINEL")
CODE = text("open('SENTINEL', 'w').close()")
CALLS = {
    "mkdir": ("os", "mkdir", SENTINEL),
    "makedirs": ("os", "makedirs", SENTINEL),
    "mknod": ("os", "mknod", SENTINEL),
    "posix": ("posix", "mkdir", SENTINEL),
    "system": ("os", "system", text("touch SENTINEL")),
    "exec": ("builtins", "exec", CODE),
    "eval": ("builtins", "eval", CODE),
    "call": ("subprocess", "call", b"](" + text("touch") + SENTINEL + b"e"),
    "copy": ("shutil", "copy", text("weights.bin"), SENTINEL),
}


def by_reduce(module, attribute, *arguments):
    return fb.call(name(module, attribute), *arguments)


def by_stack_global(module, attribute, *arguments):
    return text(module) + text(attribute) + b"\x93" + tup(*arguments) + b"R"


def by_inst(module, attribute, *arguments):
    called = b"i" + module.encode() + b"\n" + attribute.encode() + b"\n"
    return b"(" + b"".join(arguments) + called


def by_obj(module, attribute, *arguments):
    return b"(" + name(module, attribute) + b"".join(arguments) + b"o"


def by_newobj(module, attribute, *arguments):
    return name(module, attribute) + tup(*arguments) + b"\x81"


FORMS = (by_reduce, by_stack_global, by_inst, by_obj)
RUN = by_reduce(*CALLS["exec"])
RUNNING = {
    f"{form.__name__} {key}": form(*call)
    for form, (key, call) in itertools.product(FORMS, CALLS.items())
} | {
    "memo": name("builtins", "exec") + b"q\x07" + b"0h\x07" + tup(CODE) + b"R",
    "in a list": b"](" + RUN + b"e",
    "as a value": fb.dictionary(w=text("x"), a=RUN),
    "as a key": b"}" + RUN + b"Ns",
    "in a tuple": tup(b"N", tup(RUN)),
    "dropped": RUN + b"0}",
    "under a mark": b"(" + RUN + b"1}",
    "after getattr": fb.call(name("builtins", "getattr"), name("os", "path"), text("os"))
    + b"0" + by_reduce(*CALLS["mkdir"]),
    "of a dotted name": by_stack_global("os", "path.os.mkdir", SENTINEL),
    "of partial": fb.call(
        fb.call(name("functools", "partial"), name("os", "mkdir"), SENTINEL)
    ),
    "of map": fb.call(
        name("builtins", "list"),
        fb.call(name("builtins", "map"), name("os", "mkdir"), b"]" + SENTINEL + b"a"),
    ),
    "as arguments": fb.call(name("collections", "OrderedDict"), b"](" + RUN + b"0e"),
    "as a state": fb.ORDERED + fb.dictionary(a=RUN) + b"b",
    "by a string": b"S'x'\n0" + RUN,
    "by unicode": b"Vx\n0" + RUN,
    "dup": RUN + b"20",
    "bytearray": b"\x96" + (3).to_bytes(8, "little") + b"abc0" + RUN,
    "frozenset": b"(" + RUN + b"\x91",
    "set": b"\x8f(" + RUN + b"\x90",
    "old list": b"(" + RUN + b"l",
    "old dict": b"(" + text("a") + RUN + b"d",
}  # fmt: skip


@pytest.mark.parametrize("key", RUNNING)
def test_payloads_run_nowhere_but_in_pickle(write, tmp_path, key):
    sentinel = tmp_path / "SENTINEL"
    for layout in LAYOUTS:
        refused(write(pickled(layout, RUNNING[key])), "byte [0-9]+ of the pickle")
        assert not sentinel.exists()
    pickle.loads(program(RUNNING[key], 5))  # the payload is a real one
    assert sentinel.exists()


HOSTILE = {
    **{f"{key} newobj": by_newobj(*call) for key, call in CALLS.items()},
    "newobj_ex": name("io", "FileIO") + tup(SENTINEL, text("w")) + b"}\x92",
    "ext1": b"\x82\x01" + tup(SENTINEL) + b"R",
    "ext2": b"\x83\x01\x00" + tup(SENTINEL) + b"R",
    "ext4": b"\x84\x01\x00\x00\x00" + tup(SENTINEL) + b"R",
    "build of a class": name("io", "FileIO") + fb.dictionary(a=SENTINEL) + b"b",
    "build of a name": name("collections", "OrderedDict") + b"}b",
    "build of a number": number(1) + b"}b",
    "build with slots": fb.ORDERED + tup(b"N", b"}") + b"b",
    "build of a storage": fb.storage() + tup() + b"b",
    "newobj of an allowed name": name("collections", "OrderedDict") + b")\x81",
    "reduce of a storage": fb.call(name("torch", "FloatStorage"), number(9)),
    "reduce of text": fb.call(text("os.system"), SENTINEL),
    "reduce of a tensor": fb.call(fb.tensor(), SENTINEL),
    "reduce of a list": name("collections", "OrderedDict") + b"]R",
    "hooks": fb.call(
        name("torch._utils", "_rebuild_tensor_v2"), fb.storage(), number(0), tup(),
        tup(), b"\x89", RUN,
    ),
    "torch.load": fb.call(name("torch", "load"), SENTINEL),
    "torch.hub": fb.call(name("torch.hub", "load"), SENTINEL),
    "_import_dotted_name": fb.call(
        name("torch._utils", "_import_dotted_name"), text("os.system")
    ),
    "rebuild by type": fb.call(
        name("torch._tensor", "_rebuild_from_type_v2"), name("os", "mkdir"),
        name("torch", "Tensor"), tup(SENTINEL), b"}",
    ),
    "numpy": fb.call(
        name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"),
        tup(number(0)), text("b"),
    ),
    "a space in a name": name("torch._utils _rebuild_tensor_v2", "x"),
    "a dotted allowed name": name("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "a storage of no type": name("torch", "storage"),
    "names of numbers": number(1) + number(2) + b"\x93",
    "persid": b"Pstorage\n",
    "buffers": b"\x97",
    "read only buffer": b"]\x98",
    "a module": tup(text("module"), text("os"), text("x"), text("y")) + b"Q",
    "a storage of text": tup(*[text("storage")] * 5) + b"Q",
    "a storage of a call": tup(
        text("storage"), name("collections", "OrderedDict"), text("0"), text("cpu"),
        number(1),
    ) + b"Q",
    "a path as key": fb.tensor(fb.storage("../../data.pkl")),
    "an empty key": fb.tensor(fb.storage("")),
    "a key with NUL": fb.tensor(fb.storage("0\0")),
    "a key of other digits": fb.tensor(fb.storage("\u0661")),
    "a long key": fb.tensor(fb.storage("0" * 65)),
    "two sizes": tup(fb.tensor(), fb.tensor(fb.storage(size=5))),
    "two types": tup(fb.tensor(), fb.tensor(fb.storage(kind="IntStorage"))),
    "a negative size": fb.tensor(fb.storage(size=-6)),
    "a huge size": fb.tensor(fb.storage(size=2**62)),
    "a view of a storage": fb.tensor(
        fb.storage(view=tup(text("1"), number(0), number(3)))
    ),
    "a tensor of text": fb.tensor(text("0")),
    "a negative offset": fb.tensor(offset=-1),
    "an offset behind": fb.tensor(offset=1),
    "a huge offset": fb.tensor(offset=2**200, shape=(), strides=()),
    "a negative shape": fb.tensor(shape=(-2, -3)),
    "a negative stride": fb.tensor(offset=5, strides=(-3, -1)),
    "a stride behind": fb.tensor(strides=(4, 1)),
    "a huge stride": fb.tensor(strides=(2**62, 1)),
    "a stride beyond numbers": fb.tensor(shape=(1, 1), strides=(2**300, 1)),
    "too few strides": fb.tensor(strides=(1,)),
    "a huge shape of no stride": fb.tensor(shape=(2**39,), strides=(0,)),
    "a shape beyond limits": fb.tensor(shape=(2**31, 2**31, 0), strides=(0, 0, 0)),
    "a shape beyond numbers": fb.tensor(shape=(2**300,), strides=(0,)),
    "too many axes": fb.tensor(shape=(1,) * 33, strides=(1,) * 33),
    "a shape of text": fb.call(
        name("torch._utils", "_rebuild_tensor"), fb.storage(), number(0), text("ab"),
        tup(number(1), number(1)),
    ),
    "a true offset": fb.call(
        name("torch._utils", "_rebuild_tensor"), fb.storage(), b"\x88", tup(), tup()
    ),
    "a conjugated tensor": fb.call(
        name("torch._utils", "_rebuild_tensor_v2"), fb.storage(), number(0), tup(),
        tup(), b"\x89", fb.ORDERED, fb.dictionary(conj=b"\x88"),
    ),
    "a parameter of text": fb.call(
        name("torch._utils", "_rebuild_parameter"), text("x"), b"\x88", fb.ORDERED
    ),
    "memo never put": b"h\x05",
    "memo far away": b"j\xff\xff\xff\xff",
    "put of nothing": b"q\x00",
    "append to a tuple": b")Na",
    "append to a tensor": fb.tensor() + b"Na",
    "items of a list": b"]" + text("a") + b"Ns",
    "items of a tensor": fb.tensor() + b"(" + text("a") + b"Nu",
    "items of nothing": b"(" + text("a") + b"Nu",
    "half an item": b"}(" + text("a") + b"u",
    "a key of floats": b"}G" + bytes(8) + b"Ns",
    "a key of a dict": b"}}Ns",
    "a key twice": b"}(" + text("a") + b"N" + text("a") + b"Nu",
    "a large number as key": b"}" + number(2**61 - 1) + b"Ns",
    "pairs of three": fb.call(
        name("collections", "OrderedDict"), b"](](NNNee"
    ),
    "two values": b"}}",
    "no value": b"",
    "an open mark": b"(}",
    "no mark": b"t",
    "three of two": b"NN\x87",
    "a second proto": b"\x80\x02}",
    "protocol 6": b"\x80\x06}",
    "int as text": b"I1\n",
    "long as text": b"L1L\n",
    "float as text": b"F1\n",
    "LONG4": b"\x8b\x04\x00\x00\x00abcd",
    "get as text": b"Np0\ng0\n",
}  # fmt: skip
DAMAGED = {
    "text beyond the end": b"X\xff\xff\xff\xffab",
    "text of 2^62 bytes": b"\x8d" + (2**62).to_bytes(8, "little") + b"ab",
    "bytes of 2^62 bytes": b"\x8e" + (2**62).to_bytes(8, "little") + b"ab",
    "LONG4 beyond the end": b"\x8b\xff\xff\xff\x7fab",
    "LONG4 of a negative length": b"\x8b\xff\xff\xff\xffab",
    "bad UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "a name without end": b"cos",
    "no stop": b"}]",
    "an unknown op": b"\xff",
}


@both
@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_pickles_are_refused(write, tmp_path, layout, key):
    path = write(pickled(layout, HOSTILE[key]))
    refused(path, "byte [0-9]+ of the pickle")
    path = write(pickled(layout, fb.dictionary(w=fb.tensor(), a=HOSTILE[key])))
    refused(path, "byte [0-9]+ of the pickle")
    assert [file.name for file in tmp_path.iterdir()] == ["weights.bin"]


@both
@pytest.mark.parametrize("key", DAMAGED)
def test_damaged_pickles_are_refused(write, layout, key):
    refused(write(pickled(layout, DAMAGED[key])), "the pickle")


@both
def test_the_same_file_with_a_plain_dict_is_read(write, layout):
    body = fb.dictionary(w=fb.tensor(), a=SENTINEL)
    assert read_weights(write(pickled(layout, body)))["w"].tobytes() == VALUES


def peak_of(path, said):
    tracemalloc.start()
    begin = time.perf_counter()
    refused(path, said)
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 30, seconds
    return peak


def tripling(levels):
    """Dicts that each hold the one before three times: 3^levels leaves."""
    thrice = fb.dictionary(a=b"h\x01", b=b"h\x01", c=b"h\x01") + b"q\x01"
    rows = fb.dictionary(a=b"N") + b"q\x01" + thrice * levels
    return b"}" + text("rows") + b"](" + rows + b"es"


BOMBS = {
    "memo": (b"}\x94" * 50_000, "leaves more"),
    "depth": (b"}" + (text("a") + b"}") * 20 + b"s" * 20, "deep"),
    "tuples": (b"N" + b"\x85" * 50_000, "holds a tuple"),
    "lists": (b"]" * 50_000 + b"a" * 49_999, "holds a list"),
    "tuples in a dict": (b"}" + text("a") + b"N" + b"\x85" * 50_000 + b"s", "deep"),
    "tripling": (tripling(13), "more than 20000 values"),
    "in itself": (b"}q\x00" + text("a") + b"h\x00s", "deep"),
    "in itself twice": (
        b"}q\x00(" + text("a") + b"h\x00" + text("b") + b"h\x00u", "deep"
    ),
    "a long name": (fb.dictionary(**{"a" * 1025: fb.dictionary(b=b"N")}), "longer"),
    "many values": (b"}" + text("a") + b"](" + b"N" * 20_001 + b"es", "20000 values"),
}  # fmt: skip


@pytest.mark.parametrize("key", BOMBS)
def test_bombs_cost_little(write, key):
    body, said = BOMBS[key]
    assert peak_of(write(fb.zip_file(program(body, 5), {})), said) < 50e6


def test_a_pickle_of_a_million_operations_ends(write):
    path = write(fb.zip_file(program(b"N" * 1_000_001), {}))
    refused(path, "more than 1000000 operations")


def test_zips_that_are_not_torchs(write, monkeypatch):
    monkeypatch.setattr(torch_file, "_MAX_MEMBERS", 50)
    good = program(fb.dictionary(w=fb.tensor()))
    cases = {
        "compressed": fb.zip_file(good, {"0": VALUES}, method=zipfile.ZIP_DEFLATED),
        "0 data.pkl": fb.zip_file(good, {}).replace(b"data.pkl", b"data.txt"),
        "2 data.pkl": fb.zip_file(good, {"0": VALUES}, extra=[("y/data.pkl", good)]),
        "storage 0 declares 24 bytes and has no": fb.zip_file(good, {"1": VALUES}),
        "storage 0 declares 24 bytes and has 20": fb.zip_file(good, {"0": VALUES[4:]}),
        "storage 0 declares 24 bytes and has 28": fb.zip_file(good, {"0": VALUES + b"...."}),
        "goes on": fb.zip_file(good + good, {"0": VALUES}),
        "big endian": fb.zip_file(good, {"0": VALUES}).replace(b"little", b"bigbig"),
        "damaged zip": fb.zip_file(good, {"0": VALUES})[:-30],
        "Bad CRC-32": fb.zip_file(good, {"0": VALUES}).replace(VALUES, bytes(24)),
        "more than [0-9]+ or two of one name": fb.zip_file(
            good, {"0": VALUES}, extra=[(f"x/data/n{i}", b"") for i in range(50)]
        ),
        "exceeds": fb.zip_file(
            program(text("a" * MAX_HEADER)), {"0": VALUES}
        ),
    }  # fmt: skip
    for said, data in cases.items():
        # The checksum is tested apart: here an altered name fails by its own check.
        if said == "big endian":
            crcs = [
                zipfile.crc32(word).to_bytes(4, "little")
                for word in (b"little", b"bigbig")
            ]
            data = data.replace(*crcs)
        refused(write(data), said)


def test_two_members_of_one_name(write):
    good = program(fb.dictionary(w=fb.tensor()))
    data = fb.zip_file(good, {"0": VALUES, "1": VALUES})
    refused(write(data.replace(b"x/data/1", b"x/data/0")), "two of one name")


def test_members_that_overlap(write):
    """Many entries of the directory point to one storage of 1 MB."""
    size = 2**20
    body = b"".join(
        text(str(i)) + fb.tensor(fb.storage(str(i), size // 4), 0, (1,), (1,))
        for i in range(200)
    )
    data = fb.zip_file(program(b"}(" + body + b"u"), {"0": bytes(size)})
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    entry = data.rindex(b"PK\x01\x02", 0, end)
    copies = [
        data[entry:end].replace(b"x/data/0", f"x/data/{i}".encode())
        for i in range(1, 200)
    ]
    copies = [
        one[:28] + (len(f"x/data/{i}")).to_bytes(2, "little") + one[30:]
        for i, one in enumerate(copies, 1)
    ]
    directory = data[start:end] + b"".join(copies)
    tail = bytearray(data[end:])
    for at in (8, 10):
        tail[at : at + 2] = (203).to_bytes(2, "little")
    tail[12:16] = len(directory).to_bytes(4, "little")
    path = write(data[:start] + directory + bytes(tail))
    assert len(zipfile.ZipFile(path).infolist()) == 203
    assert peak_of(path, "its members overlap") < 10e6


def test_a_directory_that_is_too_large(write):
    entry = b"PK\x01\x02" + bytes(42)
    count = MAX_HEADER // len(entry) + 1
    directory = entry * count
    end = b"PK\x05\x06" + bytes(8) + len(directory).to_bytes(4, "little")
    path = write(b"PK\x03\x04" + directory + end + (4).to_bytes(4, "little") + bytes(2))
    assert peak_of(path, "directory exceeds") < 40e6


def test_legacy_files_that_are_not_torchs(write):
    good = program(fb.dictionary(w=fb.tensor()))
    plain = fb.legacy_file(good, {"0": VALUES})
    system = fb.SYSTEM | {"little_endian": False}
    cases = [
        ("not one that torch.save wrote", fb.legacy_file(good, {}, magic=1)),
        ("big endian", fb.legacy_file(good, {"0": VALUES}, system=system)),
        ("big endian", fb.legacy_file(good, {"0": VALUES}, system=[])),
        ("not those its tensors need", fb.legacy_file(good, {"1": VALUES})),
        ("not those its tensors need", fb.legacy_file(good, {}, keys=[])),
        ("not those", fb.legacy_file(good, {"0": VALUES}, keys=["0", "0"])),
        ("not those", fb.legacy_file(good, {0: VALUES})),
        ("not those", fb.legacy_file(good, {"0": VALUES}, keys="0")),
        ("declares 6 elements and is cut", fb.legacy_file(good, {"0": VALUES[4:]})),
        ("declares 6 elements and is cut", fb.legacy_file(good, {"0": VALUES * 2})),
        ("declares 6 elements and is cut", plain[:-1]),
        ("declares 6 elements and is cut", plain[:-25]),
        ("3 bytes follow", plain + b"abc"),
        ("the pickle", plain[:40]),
    ]
    for said, data in cases:
        refused(write(data), said)


@both
def test_two_tensors_of_one_joined_name(write, layout):
    inner = fb.dictionary(b=fb.tensor())
    body = fb.dictionary(**{"a.b": fb.tensor(), "a": inner})
    refused(write(pickled(layout, body)), "two tensors are named 'a.b'")


@both
def test_a_bool_is_0_or_1(write, layout):
    body = program(fb.dictionary(w=fb.tensor(fb.storage(kind="BoolStorage"))))
    more = {"width": 1} if layout == "legacy" else {}
    data = LAYOUTS[layout](body, {"0": b"\0\1\1\2\0\1"}, **more)
    refused(write(data), "storage 0: holds a bool other than 0 and 1")


def entry(dtype="F32", shape=(2,), begin=0, end=8, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def test_safetensors_that_lie(write):
    good = {"a": entry()}
    data = bytes(8)
    text_of = json.dumps(good).encode()
    big = 100 * 10**6 + 1
    cases = [
        ("overlap", {"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)),
        ("overlap", {"a": entry(), "b": entry()}, data),
        ("leave a hole", {"a": entry(begin=4, end=12)}, bytes(12)),
        ("leave a hole", {"a": entry(), "b": entry(begin=9, end=17)}, bytes(17)),
        ("ends behind the file", good, data[1:]),
        ("ends behind the file", {"a": entry(shape=[2**38], end=2**40)}, data),
        ("bytes follow", good, data + b"x"),
        ("bytes follow", {}, b"x"),
        ("do not fit float32", {"a": entry(shape=[3])}, data),
        ("do not fit float64", {"a": entry("F64")}, data),
        ("do not fit int8", {"a": entry("I8", [2**20, 2**20])}, data),
        ("no two growing offsets", {"a": entry(begin=8, end=0)}, data),
        ("no two growing offsets", {"a": entry(begin=-8, end=0)}, data),
        ("no two growing offsets", {"a": entry() | {"data_offsets": [0]}}, data),
        ("no two growing offsets", {"a": entry() | {"data_offsets": "08"}}, data),
        ("no two growing offsets", {"a": entry() | {"data_offsets": [0, 8.0]}}, data),
        ("no two growing offsets", {"a": entry() | {"data_offsets": [False, 8]}}, data),
        ("'a': the shape", {"a": entry(shape=[-1, -2])}, data),
        ("'a': the shape", {"a": entry(shape=[2.0])}, data),
        ("'a': the shape", {"a": entry(shape=[True])}, data),
        ("'a': the shape", {"a": entry(shape="2")}, data),
        ("'a': the shape", {"a": entry(shape=[1] * 33)}, data),
        ("'a': the shape", {"a": entry(shape=[2**62, 2**62, 0], end=0)}, b""),
        ("'a' is 'F8_E4M3'; convert it", {"a": entry("F8_E4M3")}, data),
        ("'a' is \\['F32'\\]; convert it", {"a": entry(["F32"])}, data),
        ("'a' has not the fields", {"a": entry(more=1)}, data),
        ("'a' has not the fields", {"a": {"dtype": "F32"}}, data),
        ("'a' has not the fields", {"a": [1]}, data),
        ("holds a bool other", {"a": entry("BOOL", [8])}, b"\2" * 8),
        ("twice", text_of[:-1] + b", " + text_of[1:], data),
        ("twice", text_of[:-1] + b', "\\u0061"' + text_of[4:], data),
        ("twice", b'{"a": {"dtype": "F32", "dtype": "F32"}}', data),
        ("damaged", b'{"a": \xff}', data),
        ("damaged", b'{"a"', data),
        ("damaged", b'{"a": ' + b"[" * 200_000, data),
        ("damaged", b'{"a": ' + b"9" * 5000 + b"}", data),
    ]
    for said, header, values in cases:
        refused(write(fb.safetensors_file(header, values)), said)
    lengths = [len(text_of) + 9, 0, big, 2**63, 2**64 - 1]
    for length in lengths:
        refused(write(fb.safetensors_file(good, data, length)))
    many = {f"{i}": entry(shape=[0], end=0) for i in range(20_001)}
    refused(write(fb.safetensors_file(many, b"")), "at most 20000 tensors")
    assert read_weights(write(fb.safetensors_file(good, data)))["a"].shape == (2,)


def test_safetensors_headers_above_the_limit(write):
    path = write(b"")
    with open(path, "wb") as file:  # sparse: nothing is written but the ends
        length = 100 * 10**6 + 1
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(length + 8)
    assert peak_of(path, "declares a header of 100000001 bytes") < 1e6
    assert peak_of(write(fb.safetensors_file(b'{"a":' + b"[]," * 2**21, b"")), "") < 1e9


def mutants(data, count, seed):
    """Seeded: flips, bytes, cuts, doubled and dropped pieces, large numbers."""
    draw = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            at = draw.randrange(len(mutant))
            other = draw.randrange(at, min(at + 64, len(mutant))) + 1
            match draw.randrange(7):
                case 0:
                    mutant[at] ^= 1 << draw.randrange(8)
                case 1:
                    mutant[at] = draw.randrange(256)
                case 2:
                    mutant[at : at + 4] = draw.choice(
                        (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4))
                    )
                case 3:
                    del mutant[at:other]
                case 4:
                    mutant[at:at] = mutant[at:other]
                case 5:
                    mutant[at:other] = draw.randbytes(other - at)
                case 6 if draw.randrange(4) == 0:
                    del mutant[max(at, 1) :]
        yield bytes(mutant)


def small_files():
    body = fb.ORDERED + b"(" + text("conv.weight") + fb.tensor() + text("conv.bias")
    body += fb.tensor(fb.storage("1", 3, "HalfStorage"), 1, (2,), (1,)) + b"u"
    body = fb.dictionary(generator=body, step=number(3), order=tup(text("a"), b"N"))
    held = {"0": VALUES, "1": VALUES[:6]}
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry(),
        "b": entry("BF16", [2, 2], 8, 16),
        "c": entry("BOOL", [3], 16, 19),
    }
    legacy = fb.legacy_file(program(body), held, keys=["0"])
    half = b"".join([(3).to_bytes(8, "little"), VALUES[:6]])
    both_keys = legacy.replace(pickle.dumps(["0"], 2), pickle.dumps(["0", "1"], 2))
    return {
        "zip": fb.zip_file(program(body), held),
        "legacy": both_keys + half,
        "safetensors": fb.safetensors_file(header, bytes(19)),
    }


@pytest.mark.parametrize("count", [700, pytest.param(3500, marks=pytest.mark.slow)])
def test_mutants_end_in_one_error(write, tmp_path, count):
    files = small_files()
    seen = {"read": 0, "refused": 0}
    path = write(b"")
    for data in files.values():
        assert len(read_weights(write(data))) >= 2
    tracemalloc.start()
    for seed, data in enumerate(files.values()):
        for mutant in mutants(data, count, seed):
            path.write_bytes(mutant)
            try:
                tensors = read_weights(path)
            except ForeignFileError as error:
                assert str(error).startswith(str(path))
                seen["refused"] += 1
            else:
                assert sum(array.nbytes for array in tensors.values()) < 10_000
                seen["read"] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert sum(seen.values()) == 3 * count
    assert seen["refused"] > 2 * count and seen["read"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["weights.bin"]
