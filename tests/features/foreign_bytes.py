"""Weight files put together byte by byte, as torch and safetensors lay them out."""

import io
import json
import pickle
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


def zip_file(pickled, storages, name="x", method=zipfile.ZIP_STORED, extra=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(f"{name}/data.pkl", pickled)
        archive.writestr(f"{name}/byteorder", "little")
        archive.writestr(f"{name}/version", "3\n")
        for key, data in storages.items():
            archive.writestr(f"{name}/data/{key}", data)
        for member, data in extra:
            archive.writestr(member, data)
    return out.getvalue()


def legacy_file(pickled, storages, width=4, keys=None, system=SYSTEM, magic=MAGIC):
    heads = [pickle.dumps(value, 2) for value in (magic, 1001, system)]
    keys = sorted(storages) if keys is None else keys
    parts = [*heads, pickled, pickle.dumps(keys, 2)]
    for key in keys:
        data = storages[key]
        parts += [(len(data) // width).to_bytes(8, "little"), data]
    return b"".join(parts)


def safetensors_file(header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + data


# Ops of protocol 2, one value each.


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tup(*values):
    return b"(" + b"".join(values) + b"t"


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(called, *arguments):
    return called + tup(*arguments) + b"R"


def dictionary(**values):
    items = b"".join(text(key) + value for key, value in values.items())
    return b"}(" + items + b"u"


def storage(key="0", size=6, kind="FloatStorage", module="torch", view=None):
    """A storage as the pickle asks for it; `view` makes the six items of old files."""
    parts = [text("storage"), name(module, kind), text(key), text("cpu"), number(size)]
    return tup(*parts, *([] if view is None else [view])) + b"Q"


ORDERED = call(name("collections", "OrderedDict"))


def tensor(held=None, offset=0, shape=(2, 3), strides=(3, 1)):
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage() if held is None else held,
        number(offset),
        tup(*map(number, shape)),
        tup(*map(number, strides)),
        b"\x89",
        ORDERED,
    )


def program(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + b"."
