"""Writes a restored volume and what belongs to it; each appears whole or not at all."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data.pictures import write_whole
from jaxinpaint.data.volume_files import Volume, copy_files, digest, files_below
from jaxinpaint.evaluation.runs import Trained
from jaxinpaint.evaluation.volume_inputs import Job, result_names
from jaxinpaint.evaluation.volume_sections import Restorer, Store
from jaxinpaint.report.sheet import sheet
from jaxinpaint.training.workdir import environment, to_json

INVENTED = np.uint8(255)
SUMMARY = "repaired.json"


def write_results(
    job: Job,
    trained: Trained,
    volume: Volume,
    mask: Volume | None,
    restorer: Restorer,
    work: Path,
    each: Callable[[], None],
) -> dict[str, Any]:
    """Writes the restored volume, its layers and the summary, and moves them in place.

    Args:
      job: what was asked.
      trained: what restored.
      volume: that was restored.
      mask: of it, or None.
      restorer: that holds what became of every section.
      work: a folder beside the results, which is written to first.
      each: called often; may raise to end it, and nothing is in place then.

    Returns:
      The summary.

    Raises:
      RuntimeError: what was written does not read back as it was.
      OSError: a file cannot be written.
    """
    store, holes = restorer.store, restorer.holes
    entries = {z: store.entry(z) for z in sorted(holes.voxels)}
    done = {z for z, one in entries.items() if one and z not in restorer.failed}
    patches = lambda z: store.patch(z) if z in done else None
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    name = volume.written_name()
    source_digest = copy_files(volume.path, volume.files(), work / name, each)
    volume.apply(work / name, patches)
    changed, invented = compare(volume, work / name, patches, each)
    results = {name: digest(work / name, _written(volume, work / name), each)}
    layers = {"invented": np.dtype(np.uint8)}
    if any(entries[z]["scores"].get("disagreement_max") is not None for z in done):  # type: ignore[index]
        layers["disagreement"] = volume.dtype
    for word, dtype in layers.items():
        each()
        own = volume.layer_name(word)
        volume.write_layer(work / own, dtype, _plane(volume, store, done, word, each))
        results[own] = digest(work / own, files_below(work / own), each)
    if job.panel:
        (work / "panels").mkdir()
        for z in sorted(done):
            each()
            _draw(work / "panels", volume, restorer, z, entries[z] or {})
    sections = {}
    for z in sorted(holes.voxels):
        entry = entries[z] if z in done else None
        failed = {"state": "failed", "reason": restorer.failed.get(z, "")}
        sections[str(z)] = entry or failed
    masked = None
    if mask is not None:
        sha = digest(mask.path, mask.files(), each)
        masked = _told(mask) | {"polarity": job.polarity, "sha256": sha}
    summary = {
        "command": shlex.join(sys.argv),
        "source": _told(volume) | {"sha256": source_digest},
        "mask": masked,
        "results": [{"name": n, "sha256": sha} for n, sha in results.items()],
        "run": _run(job, trained),
        "restored": len(done),
        "failed": len(sections) - len(done),
        "invented_voxels": invented,
        "valid_values_changed": changed,
        "grey_of_1": restorer.scale.top,
        "sections": sections,
        "environment": environment(),
    }
    text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    write_whole(work / SUMMARY, text.encode())
    each()
    _move(work, job.output, result_names(volume))
    return summary


def compare(
    volume: Volume,
    target: Path,
    patches: Callable[[int], Any],
    each: Callable[[], None],
) -> tuple[int, int]:
    """Reads a written volume back and compares every voxel of it.

    Returns:
      How many valid values differ, which is 0, and how many voxels were invented.

    Raises:
      RuntimeError: a voxel is not what it should be; nothing is in place then.
    """
    invented = 0
    with volume.reopen(target) as back:
        if (back.shape, back.dtype) != (volume.shape, volume.dtype):
            raise RuntimeError(
                f"{volume.path}: what was written reads back as {back.dtype} "
                f"{list(back.shape)}."
            )
        for first, last in volume.blocks():
            each()
            want, got = volume.read(first, last), back.read(first, last)
            for z in range(first, last):
                patch = patches(z)
                if patch is not None:
                    invented += int(np.count_nonzero(patch.hole))
                    patch.paste(want[z - first])
            # NaN of a float volume has to stay NaN, so bytes are compared.
            kind = f"V{want.dtype.itemsize}"
            wrong = int(np.count_nonzero(want.view(kind) != got.view(kind)))
            if wrong:
                raise RuntimeError(
                    f"{volume.path}: {wrong} voxels of sections {first} to {last - 1} "
                    "do not read back as they should; nothing was written."
                )
    return 0, invented


def _written(volume: Volume, target: Path) -> list[Path]:
    return files_below(target) if target.is_dir() else volume.files()


def _plane(
    volume: Volume, store: Store, done: set[int], word: str, each: Callable[[], None]
) -> Callable[[int], np.ndarray | None]:
    """What a layer holds of each section."""

    def plane(z: int) -> np.ndarray | None:
        each()
        patch = store.patch(z) if z in done else None
        if patch is None or (word == "disagreement" and patch.disagreement is None):
            return None
        dtype = np.dtype(np.uint8) if word == "invented" else volume.dtype
        whole = np.zeros(volume.shape[1:3], dtype)
        values = INVENTED if word == "invented" else patch.disagreement
        whole[patch.box][patch.hole] = values
        return whole

    return plane


def _draw(
    folder: Path, volume: Volume, restorer: Restorer, z: int, entry: Mapping[str, Any]
) -> None:
    """The sheet of a restored section."""
    hole = restorer.holes.hole(z)
    shown = {"given": volume.section(z)}
    for name in ("previous", "following"):
        if entry[name] is not None:
            shown[f"{name} {entry[name]}"] = restorer.known(entry[name])
    shown["restored"] = restorer.known(z)
    images = {name: _eight_bits(image, restorer) for name, image in shown.items()}
    write_whole(folder / f"section_{z:06d}.png", sheet(images, hole, hole))


def _eight_bits(image: np.ndarray, restorer: Restorer) -> np.ndarray:
    if restorer.scale.top is None:
        return image
    share = (restorer.grey(image, np.ones(image.shape[:2], bool)) + 1.0) / 2.0
    return np.rint(share * 255.0).astype(np.uint8)


def _told(volume: Volume) -> dict[str, Any]:
    voxel = volume.voxel
    return {
        "path": str(volume.path),
        "container": volume.kind,
        "sections": volume.shape[0],
        "height": volume.shape[1],
        "width": volume.shape[2],
        "channels": volume.shape[3],
        "dtype": str(volume.dtype),
        "axis": volume.axis,
        "voxel_size": None if voxel is None else list(voxel.size),
        "voxel_unit": None if voxel is None else voxel.unit,
    }


def _run(job: Job, trained: Trained) -> dict[str, Any]:
    frozen = trained.frozen
    return {
        "workdir": str(job.workdir),
        "system": trained.config.system,
        "step": trained.run.step,
        "weights_sha256": tree_digest(trained.run.variables),
        "frozen_weights_sha256": tree_digest(frozen) if frozen else None,
        "config": to_json(trained.config),
    }


def _move(work: Path, output: Path, names: Sequence[str]) -> None:
    """Moves results in place, the summary last, which says that they are whole.

    Args:
      work: that holds them.
      output: that gets them; those of an earlier command go.
      names: of all that there may be.
    """
    (output / SUMMARY).unlink(missing_ok=True)
    for name in sorted(names, key=lambda one: one == SUMMARY):
        target = output / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        if (work / name).exists():
            os.replace(work / name, target)
        else:
            target.unlink(missing_ok=True)
