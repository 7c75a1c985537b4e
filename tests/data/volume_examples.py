"""Volumes in every container, written and read by libraries of others or by hand."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SHAPE = (6, 20, 30)
SIZE = (40.0, 4.0, 4.0)  # nm


def content(seed=0, dtype="uint8", shape=SHAPE):
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def write_tiff(path: Path, array, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        resolution=(1 / SIZE[2], 1 / SIZE[1]),
        metadata={"spacing": SIZE[0], "unit": "nm", "axes": "ZYX"},
        **more,
    )
    return path


def read_tiff(path: Path):
    return tifffile.imread(path)


def write_folder(path: Path, array):
    path.mkdir(parents=True)
    for z, section in enumerate(array):
        Image.fromarray(section).save(path / f"s{z:02d}.png")
    return path


def read_folder(path: Path):
    return np.stack([np.array(Image.open(p)) for p in sorted(path.glob("*.png"))])


def write_zarr(path: Path, array, *, version=3, levels=(), leading=0, chunks=(4, 8, 8)):
    """An OME-Zarr volume, 0.5 (zarr 3) or 0.4 (zarr 2), written by zarr."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=version)
    names = [*"tc"[2 - leading :], *"zyx"]
    axes = [
        {"name": n, "type": "space", "unit": "nanometer"}
        if n in "zyx"
        else {"name": n, "type": {"t": "time", "c": "channel"}[n]}
        for n in names
    ]
    datasets = []
    for n, (own, factor) in enumerate([(array, (1, 1, 1)), *levels]):
        whole = own.reshape((1,) * leading + own.shape)
        made = group.create_array(
            str(n),
            shape=whole.shape,
            chunks=(1,) * leading + tuple(chunks),
            dtype=own.dtype,
        )
        made[:] = whole
        scale = [1.0] * leading + [a * b for a, b in zip(SIZE, factor, strict=True)]
        parts = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(n), "coordinateTransformations": parts})
    one = {"axes": axes, "datasets": datasets, "name": "cells"}
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [one]}
    else:
        group.attrs["multiscales"] = [{**one, "version": "0.4"}]
    group.attrs["of a microscope"] = {"kV": 3}
    return path


def read_zarr(path: Path, array="0"):
    import zarr

    own = np.asarray(zarr.open_group(path, mode="r")[array])
    return own.reshape(own.shape[-3:])


def write_hdf5(path: Path, array, dataset="volumes/raw"):
    import h5py

    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            dataset, data=array, chunks=(4, 8, 8), compression="gzip"
        )
        made.attrs["resolution"] = SIZE
        file.create_dataset("volumes/labels/neuron_ids", data=array.astype("u8"))
    return path


def read_hdf5(path: Path, dataset="volumes/raw"):
    import h5py

    with h5py.File(path, "r") as file:
        return file[dataset][:]


def write_n5(path: Path, array, block=(8, 8, 4)):
    """By the letter of the format: big-endian gzip blocks, x fastest, in x/y/z."""
    folder = path / "raw"
    folder.mkdir(parents=True)
    (path / "attributes.json").write_text(json.dumps({"n5": "2.0.0"}))
    head = {
        "dimensions": list(array.shape[::-1]),
        "blockSize": list(block),
        "dataType": str(array.dtype),
        "compression": {"type": "gzip", "level": -1, "useZlib": False},
        "pixelResolution": {"dimensions": list(SIZE[::-1]), "unit": "nm"},
    }
    (folder / "attributes.json").write_text(json.dumps(head))
    for place, part in _blocks(array, block):
        own = folder / "/".join(map(str, place))
        own.parent.mkdir(parents=True, exist_ok=True)
        size = part.shape[::-1]
        data = gzip.compress(part.astype(part.dtype.newbyteorder(">")).tobytes())
        own.write_bytes(struct.pack(">HHIII", 0, 3, *size) + data)
    return path


def read_n5(path: Path):
    folder = path / "raw" if (path / "raw").is_dir() else path
    head = json.loads((folder / "attributes.json").read_text())
    array = np.zeros(head["dimensions"][::-1], head["dataType"])
    for place, part in _blocks(array, head["blockSize"]):
        own = folder / "/".join(map(str, place))
        if own.exists():
            content = own.read_bytes()
            _, rank, *size = struct.unpack(">HHIII", content[:16])
            assert rank == 3
            raw = gzip.decompress(content[16:])
            flat = np.frombuffer(raw, np.dtype(head["dataType"]).newbyteorder(">"))
            depth, height, width = part.shape
            part[:] = flat.reshape(size[::-1])[:depth, :height, :width]
    return array


def write_precomputed(path: Path, array, block=(8, 8, 4), offset=(0, 0, 0)):
    """By the letter of the format: raw chunks named after their bounds, x fastest."""
    scale = {
        "chunk_sizes": [list(block)],
        "encoding": "raw",
        "key": "4_4_40",
        "resolution": list(SIZE[::-1]),
        "size": list(array.shape[::-1]),
        "voxel_offset": list(offset),
    }
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "data_type": str(array.dtype),
        "num_channels": 1,
        "scales": [scale],
        "type": "image",
    }
    (path / "4_4_40").mkdir(parents=True)
    (path / "info").write_text(json.dumps(info))
    for name, part in _chunks(array, block, offset):
        (path / "4_4_40" / name).write_bytes(part.tobytes())
    return path


def read_precomputed(path: Path):
    (scale,) = json.loads((path / "info").read_text())["scales"]
    info = json.loads((path / "info").read_text())
    array = np.zeros(scale["size"][::-1], info["data_type"])
    for name, part in _chunks(array, scale["chunk_sizes"][0], scale["voxel_offset"]):
        own = path / scale["key"] / name
        if own.exists():
            raw = own.read_bytes()
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            part[:] = np.frombuffer(raw, info["data_type"]).reshape(part.shape)
    return array


def _blocks(array, block):
    """Place (x, y, z) of each block, and a view of it, z first."""
    counts = [-(-n // b) for n, b in zip(array.shape[::-1], block, strict=True)]
    for place in np.ndindex(*counts):
        cut = [slice(i * b, (i + 1) * b) for i, b in zip(place, block, strict=True)]
        yield place, array[tuple(cut[::-1])]


def _chunks(array, block, offset):
    for place, part in _blocks(array, block):
        first = [o + i * b for o, i, b in zip(offset, place, block, strict=True)]
        ends = [f"{a}-{a + n}" for a, n in zip(first, part.shape[::-1], strict=True)]
        yield "_".join(ends), part


def write_nifti(path: Path, array, mark=False):
    """From [Z, Y, X]; with an affine, codes and a note that nobody else would write."""
    import nibabel

    affine = np.array(
        [[-0.5, 0, 0, 11], [0, 0.5, 0, -7], [0, 0, 3, 2], [0, 0, 0, 1]], float
    )
    image = nibabel.Nifti1Image(array.T, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"a mask" if mark else b"of a scanner"
    image.header.set_sform(affine, 4)
    nibabel.save(image, path)
    return path


def read_nifti(path: Path):
    import nibabel

    return np.asarray(nibabel.load(path).dataobj.get_unscaled()).T
