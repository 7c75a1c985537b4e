import collections
import logging
import pickle
import re
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.load import (
    ForeignFileError,
    read_safetensors,
    read_torch,
    read_weights,
)
from tests.features import foreign_bytes as fb

VALUES = np.arange(6, dtype="<f4") + 0.5
LAYOUTS = {"zip": fb.zip_file, "legacy": fb.legacy_file}


@pytest.fixture
def write(tmp_path):
    def write(data):
        path = tmp_path / "weights.bin"
        path.write_bytes(data)
        return path

    return write


def refused(read, path, said):
    with pytest.raises(ForeignFileError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: "), text
    assert re.search(said, text.removeprefix(str(path))), text
    assert text.endswith(".") and "\n" not in text and len(text) < 600, text
    return text


@pytest.mark.parametrize("layout", LAYOUTS)
class TestByHand:
    """Files put together here, so that no torch is needed."""

    def test_values_views_and_nesting(self, write, layout):
        body = fb.dictionary(
            whole=fb.tensor(),
            turned=fb.tensor(shape=(3, 2), strides=(1, 3)),
            part=fb.tensor(offset=1, shape=(2,), strides=(2,)),
            one=fb.tensor(offset=4, shape=(), strides=()),
            none=fb.tensor(shape=(0, 3), strides=(3, 1)),
            thin=fb.tensor(offset=5, shape=(1, 1), strides=(2**40, 77)),
            net=fb.dictionary(conv=fb.dictionary(weight=fb.tensor())),
            row=b"](" + fb.tensor() + fb.tensor(offset=3, shape=(1,), strides=(1,))
            + b"e",
        )  # fmt: skip
        path = write(LAYOUTS[layout](fb.program(body), {"0": VALUES.tobytes()}))
        got = read_weights(path)
        grid = VALUES.reshape(2, 3)
        want = {
            "whole": grid,
            "turned": grid.T,
            "part": VALUES[[1, 3]],
            "one": VALUES[4],
            "none": np.zeros((0, 3), np.float32),
            "thin": VALUES[5].reshape(1, 1),
            "net.conv.weight": grid,
            "row.0": grid,
            "row.1": VALUES[3:4],
        }
        assert list(got) == list(want)
        for key, array in want.items():
            assert got[key].shape == array.shape and got[key].dtype == np.float32
            np.testing.assert_array_equal(got[key], array)
            assert not got[key].flags.writeable
        assert np.shares_memory(got["whole"], got["turned"])

    def test_as_torch_wrote_before_0_4_and_from_python_2(self, write, layout):
        held = fb.storage(module="torch.cuda").replace(
            fb.text("storage"), b"U\x07storage"
        )
        old = fb.call(
            fb.name("torch._utils", "_rebuild_tensor"),
            held,
            fb.number(0),
            fb.tup(b"\x8a\x01\x02", fb.number(3)),
            fb.tup(fb.number(3), fb.number(1)),
        )
        state = fb.tup(b"\x88", b"\x89", fb.ORDERED)
        parameter = fb.call(fb.name("torch.nn.parameter", "Parameter"), old)
        pairs = b"](](U\x01a" + parameter + state + b"b" + b"e](U\x01b" + old + b"ee"
        body = fb.call(fb.name("collections", "OrderedDict"), pairs)
        path = write(LAYOUTS[layout](fb.program(body), {"0": VALUES.tobytes()}))
        got = read_weights(path)
        assert list(got) == ["a", "b"]
        for array in got.values():
            np.testing.assert_array_equal(array, VALUES.reshape(2, 3))

    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [
            ("FloatStorage", "<f4"),
            ("DoubleStorage", "<f8"),
            ("HalfStorage", "<f2"),
            ("BFloat16Storage", jnp.bfloat16),
            ("LongStorage", "<i8"),
            ("IntStorage", "<i4"),
            ("ShortStorage", "<i2"),
            ("CharStorage", "i1"),
            ("ByteStorage", "u1"),
            ("BoolStorage", "?"),
        ],
    )
    def test_dtypes(self, write, layout, kind, dtype):
        values = np.array([0, 1, 1, 0, 1, 1]).astype(dtype)
        body = fb.dictionary(a=fb.tensor(fb.storage(kind=kind)))
        more = {"width": values.itemsize} if layout == "legacy" else {}
        data = LAYOUTS[layout](fb.program(body), {"0": values.tobytes()}, **more)
        got = read_torch(write(data))["a"]
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values.reshape(2, 3))

    def test_what_is_no_tensor_is_named(self, write, layout, caplog):
        body = fb.dictionary(
            w=fb.tensor(), step=fb.number(3), best=b"]", note=fb.text("x"), none=b"N"
        )
        path = write(LAYOUTS[layout](fb.program(body), {"0": VALUES.tobytes()}))
        with caplog.at_level(logging.WARNING):
            assert list(read_torch(path)) == ["w"]
        assert caplog.messages == [
            f"{path}: left out what is no tensor: 'step', 'best', 'note', 'none'"
        ]

    def test_nothing_is_said_of_a_plain_state_dict(self, write, layout, caplog):
        body = fb.ORDERED + fb.text("w") + fb.tensor() + b"s"
        body += fb.dictionary(_metadata=fb.dictionary(version=fb.number(1))) + b"b"
        path = write(LAYOUTS[layout](fb.program(body), {"0": VALUES.tobytes()}))
        assert list(read_torch(path)) == ["w"] and not caplog.messages


def state():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5)
    )
    whole = torch.randn(5, 6, 7)
    return {
        "generator": network.state_dict(),
        "parameter": network[0].weight,
        "frozen": torch.nn.Parameter(torch.randn(3), requires_grad=False),
        "half": torch.randn(3, 4).half(),
        "bfloat16": torch.randn(3, 4).bfloat16(),
        "double": torch.randn(2, 3).double(),
        **{
            f"whole{bits}": torch.randint(-100, 100, (4,)).to(getattr(torch, bits))
            for bits in ("int8", "int16", "int32", "int64")
        },
        "bytes": torch.arange(250, 256).byte(),
        "bool": torch.randn(9) > 0,
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "shared": [whole, whole[1:3, ::2], whole.permute(2, 0, 1), whole[0, 0, 0]],
        "expanded": torch.randn(4).expand(1, 4),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(
            memory_format=torch.channels_last
        ),
        "empty": torch.zeros(0, 3),
    }


def flat(tree, name=""):
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def assert_bits(got, tensor):
    torch = pytest.importorskip("torch")
    plain = tensor.detach().contiguous()
    assert got.shape == tuple(plain.shape)
    assert str(got.dtype) == str(plain.dtype).removeprefix("torch.")
    kept = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert got.tobytes() == kept


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_come_back_bit_for_bit(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch")
    path = tmp_path / "any.name"
    torch.save(
        state(),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    got = read_weights(path)
    want = dict(flat(state()))
    assert list(got) == list(want) and len(got) == 28
    for name, tensor in want.items():
        assert_bits(got[name], tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_bytes_are_what_torch_reads(write, layout):
    torch = pytest.importorskip("torch")
    held = fb.storage(view=b"N" if layout == "legacy" else None)
    body = fb.dictionary(a=fb.tensor(held, shape=(3, 2), strides=(1, 3)))
    path = write(LAYOUTS[layout](fb.program(body), {"0": VALUES.tobytes()}))
    theirs = torch.load(path, weights_only=True)
    np.testing.assert_array_equal(read_torch(path)["a"], theirs["a"].numpy())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_whole_modules_and_training_states_are_refused(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "module.pth"
    kinds = {
        "module": torch.nn.ReLU(),
        "ordered by hand": collections.Counter(a=1),
        "complex": {"a": torch.ones(2, dtype=torch.complex64)},
        "set": {"a": {1, 2}},
        "size": {"a": torch.ones(2).shape},
        "numpy": {"a": np.float64(3)},
        "sparse": {"a": torch.eye(2).to_sparse()},
        "device": {"a": torch.device("cpu")},
    }
    for value in kinds.values():
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        refused(read_torch, path, "of the pickle .* save model.state_dict")
    torch.save(torch.ones(2), path, _use_new_zipfile_serialization=zipped)
    refused(read_torch, path, "holds a Tensor, not a dict")


def test_safetensors_by_hand(write):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "I8", "shape": [2], "data_offsets": [8, 10]},
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "c": {"dtype": "BF16", "shape": [], "data_offsets": [10, 12]},
        "d": {"dtype": "F64", "shape": [3, 0], "data_offsets": [12, 12]},
    }
    data = struct.pack("<ff", 1.5, -2) + b"\xff\x07" + b"\x80\x3f"
    got = read_weights(write(fb.safetensors_file(header, data)))
    assert list(got) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(got["a"], np.float32([[1.5, -2]]))
    np.testing.assert_array_equal(got["b"], np.int8([-1, 7]))
    assert got["c"] == 1 and got["c"].dtype == jnp.bfloat16 and got["c"].shape == ()
    assert got["d"].shape == (3, 0) and got["d"].dtype == np.float64
    assert not any(array.flags.writeable for array in got.values())


def test_files_of_safetensors_come_back_bit_for_bit(tmp_path):
    pytest.importorskip("torch")
    package = pytest.importorskip("safetensors.torch")
    want = {name: t.detach().contiguous().clone() for name, t in flat(state())}
    path = tmp_path / "x.safetensors"
    package.save_file(want, path, metadata={"step": "3"})
    got = read_weights(path)
    assert sorted(got) == sorted(want)
    for name, tensor in want.items():
        assert_bits(got[name], tensor)
    wide = np.arange(5, dtype=np.uint64) + 2**63
    package_numpy = pytest.importorskip("safetensors.numpy")
    package_numpy.save_file({"a": wide, "b": wide.astype(np.uint16)}, path)
    got = read_safetensors(path)
    np.testing.assert_array_equal(got["a"], wide)
    np.testing.assert_array_equal(got["b"], wide.astype(np.uint16))


def test_files_that_are_none_of_ours(write, tmp_path):
    page = write(b"<!DOCTYPE html><html></html>")
    refused(read_weights, page, r"neither .* begins with b'<!DOCTYPE'; get it again")
    refused(read_torch, page, "is no PyTorch file, it begins with b'<!DO'")
    refused(read_safetensors, page, "declares a header of [0-9]+ bytes in a file of 28")
    refused(read_weights, write(b""), "begins with b''")
    refused(read_weights, write(b"sys_info" + bytes(504)), "neither")
    refused(read_torch, write(b"sys_info" + bytes(504)), "tar of 2016")
    refused(read_torch, write(pickle.dumps({"a": 1}, 2)), "pickle that begins at byte")
    for read in (read_weights, read_torch, read_safetensors):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "absent.pth")


def test_a_log_line_cannot_write_to_the_terminal(write, caplog):
    body = fb.dictionary(w=fb.tensor()) + fb.text("\x1b[2J\n") + fb.number(1) + b"s"
    path = write(fb.zip_file(fb.program(body), {"0": VALUES.tobytes()}))
    read_torch(path)
    assert r"'\x1b[2J\n'" in caplog.messages[0] and "\x1b" not in caplog.messages[0]
