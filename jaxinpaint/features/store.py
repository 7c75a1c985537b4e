"""The store of pretrained weights: imported once, verified at every use.

`home()/weights/NAME/` holds `state`, the whole network's variables as arrays, and
`manifest.json` (`core/manifest.py`): the SHA-256 of every array, and of the public
file that they came from. It appears by one rename, so it is whole or absent. Which
names there are, and how their files look, says `registry.WEIGHTS`.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import jaxinpaint
from jaxinpaint.core import arrays, manifest
from jaxinpaint.core.manifest import DamagedCheckpointError
from jaxinpaint.core.system import Tree
from jaxinpaint.features import registry
from jaxinpaint.features.convert import Layer, convert
from jaxinpaint.features.load import read_weights

_STEP = 0  # of the manifest, which is made for steps


class MissingWeightsError(FileNotFoundError):
    """Weights that nobody has imported yet; names the command that does."""


class Pretrained(NamedTuple):
    """Variables of one pretrained network.

    Attributes:
      variables: Linen collections, "params" and where the network has them
        "batch_stats": what `network.apply` takes.
      name: the name in the registry; of random weights "NAME random:SEED".
      sha256: of the public file; of random weights of all their arrays.
    """

    variables: Mapping[str, Tree]
    name: str
    sha256: str


class Record(NamedTuple):
    """What the store knows of weights that it holds.

    Attributes:
      name: in the registry.
      file: name of the file that was imported.
      sha256: of that file.
      verified: whether that is the published digest.
      layers: SHA-256 of the table that mapped its names to ours.
      licence: as the registry had it.
      version: of this package.
      date: of the import, ISO 8601 in UTC.
    """

    name: str
    file: str
    sha256: str
    verified: bool
    layers: str
    licence: str
    version: str
    date: str


def home() -> pathlib.Path:
    """Where this package keeps what it stores: the only directory it writes to.

    Returns:
      JAXINPAINT_HOME, else jaxinpaint in XDG_CACHE_HOME, else ~/.cache/jaxinpaint.
    """
    if own := os.environ.get("JAXINPAINT_HOME"):
        return pathlib.Path(own).expanduser().absolute()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification: ignore what is relative
        cache = pathlib.Path.home() / ".cache"
    return cache / "jaxinpaint"


def load(
    name: str, source: str, network: nn.Module, image: jax.ShapeDtypeStruct
) -> Pretrained:
    """Loads the variables of a network, or of the part that it builds.

    Args:
      name: in the registry.
      source: "imported", the store's copy, or "random:SEED", a fresh initialisation
        for tests and dry runs, which is logged as a warning.
      network: the Linen module, possibly truncated; the leaves that it makes are
        read, compared by shape and dtype and verified by their digests.
      image: [B, H, W, 1 or 3] that the network could be given; only its shape counts.

    Returns:
      The variables, on the default device.

    Raises:
      MissingWeightsError: nothing was imported under this name.
      DamagedCheckpointError: the store's copy is not what was imported.
      ValueError: an unknown name or source, or a network with other leaves.
    """
    entry = registry.find(name)
    if source == "imported":
        return _imported(name, entry, network, image)
    if seed := re.fullmatch(r"random:(\d{1,9})", source):
        logging.warning(
            "%s: random weights (%s) in place of %s; only for tests and dry runs of %s",
            *(name, source, entry.what, ", ".join(entry.uses)),
        )
        init = jax.jit(network.init)
        blank = jnp.zeros(image.shape, image.dtype)
        variables = init(jax.random.key(int(seed[1])), blank)
        table = manifest.leaf_table(_host(variables))
        return Pretrained(variables, f"{name} {source}", _digest(table))
    raise ValueError(
        f"Weights of {name}: the source is {source!r}; it is 'imported' or "
        "'random:SEED' with a whole number, as in 'random:0'."
    )


def import_file(
    file: str | os.PathLike, name: str, *, replace: bool, unverified: bool
) -> Record:
    """Converts a public weight file and puts it into the store.

    Args:
      file: torch or safetensors, told apart by content.
      name: in the registry; says what network the file is of.
      replace: takes the place of weights imported before.
      unverified: takes a file that is not the published one too; the manifest and
        every later `load` say so.

    Returns:
      What the store now holds.

    Raises:
      ValueError: an unknown name, not the published file, not this network's names
        or shapes, not finite, already imported, another import is running.
      ForeignFileError: not a weight file, or not a safe one.
      OSError: cannot be read, or the store cannot be written.
    """
    entry = registry.find(name)
    file = pathlib.Path(file)
    with _importing() as folder:
        expect_room(name, replace)
        sha256 = digest_of(file)
        verified = _expect_published(file, sha256, name, entry, unverified)
        layers, leaves = _converted(file, name, entry)
        record = Record(
            name=name,
            file=file.name,
            sha256=sha256,
            verified=verified,
            layers=_digest([list(layer) for layer in layers]),
            licence=entry.licence,
            version=jaxinpaint.__version__,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        _write(folder / name, record, leaves)
    return record


def expect_room(name: str, replace: bool) -> None:
    """Refuses to import a second time unless that was asked for.

    Raises:
      ValueError: an unknown name, or already imported and not `replace`.
    """
    registry.find(name)
    target = _folder() / name
    if target.exists() and not replace:
        raise ValueError(
            f"{name} is already in {target}; say --replace to import it again."
        )


def record_of(name: str) -> Record | None:
    """What the store holds under a name; None where nothing was imported.

    Raises:
      ValueError: an unknown name.
      DamagedCheckpointError: the manifest is not what was written.
    """
    content = _content(name)
    return None if content is None else Record(**content["meta"])


def verify(name: str) -> Record:
    """Reads all that the store holds under a name and compares every digest.

    Raises:
      MissingWeightsError: nothing was imported under this name.
      DamagedCheckpointError: the store's copy is not what was imported.
      ValueError: an unknown name.
    """
    record, table = _held(name)
    asked = {path: _struct(facts) for path, facts in table.items()}
    _read(_folder() / name, table, asked)
    return record


def digest_of(file: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder() -> pathlib.Path:
    return home() / "weights"


def _content(name: str) -> dict[str, Any] | None:
    """The manifest of what the store holds under a name, if it holds anything."""
    registry.find(name)  # only its names become paths
    folder = _folder() / name
    if not folder.is_dir():
        return None
    with _damage_of(folder):
        return manifest.read(folder / "manifest.json", _STEP)


def _held(name: str) -> tuple[Record, manifest.Table]:
    entry, content = registry.find(name), _content(name)
    if content is None:
        raise MissingWeightsError(
            f"The weights {name} ({entry.what}) are not in {_folder()}: get "
            f"{entry.file} and run `jaxinpaint weights import FILE --as {name}`, or let "
            f"`jaxinpaint weights import --download --as {name}` get it; for a dry run "
            "ask for random weights, as in random:0."
        )
    return Record(**content["meta"]), content["leaves"]


def _imported(
    name: str, entry: registry.Entry, network: nn.Module, image: jax.ShapeDtypeStruct
) -> Pretrained:
    record, table = _held(name)
    if not record.verified:
        logging.warning(
            "%s: imported from %s (SHA-256 %s), which is not the published file",
            *(name, record.file, record.sha256),
        )
    template = jax.eval_shape(network.init, jax.random.key(0), image)
    asked = manifest.by_path(template)
    saved = {path: facts for path, facts in table.items() if path in asked}
    if wrong := manifest.differences(saved, asked):
        raise ValueError(
            f"The weights {name} do not fit the network asked for at "
            f"{manifest.listed(wrong)}; they are those of {entry.what}."
        )
    host = _read(_folder() / name, saved, asked)
    leaves = [jnp.asarray(host[path]) for path in asked]
    variables = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return Pretrained(variables, name, record.sha256)


@contextlib.contextmanager
def _importing() -> Iterator[pathlib.Path]:
    """The store's folder, made if absent, without what a killed import left.

    One import at a time; the kernel frees the lock at any end.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "import.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another import into {folder} is running; wait for its end."
            ) from None
        for left in folder.glob(".import-*"):
            shutil.rmtree(left)
        yield folder


def _expect_published(
    file: pathlib.Path, sha256: str, name: str, entry: registry.Entry, unverified: bool
) -> bool:
    if entry.sha256 is not None and sha256.startswith(entry.sha256):
        return True
    if unverified:
        return False
    if entry.sha256 is None:
        raise ValueError(
            f"{file}: no SHA-256 of {entry.file} is published; say --unverified to "
            "trust it nevertheless."
        )
    others = [
        k for k, v in registry.WEIGHTS.items() if sha256.startswith(v.sha256 or "-")
    ]
    known = f", that of {others[0]}" if others else ""
    raise ValueError(
        f"{file} is not the published {entry.file} of {name}: its SHA-256 is "
        f"{sha256}{known}, not {entry.sha256}; get it from {entry.urls[0]}, or say "
        "--unverified to trust it nevertheless."
    )


def _converted(
    file: pathlib.Path, name: str, entry: registry.Entry
) -> tuple[tuple[Layer, ...], dict[str, np.ndarray]]:
    """The file's tensors under our paths, compared with the whole network."""
    tensors = read_weights(file)
    layers = tuple(entry.layers(tensors))
    try:
        variables = convert(tensors, layers, entry.ignored)
    except ValueError as error:
        raise ValueError(
            f"{file} does not hold the weights {name} ({entry.what}): {error}"
        ) from error
    leaves = _host(variables)
    table = {
        path: {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        for path, leaf in leaves.items()
    }
    if wrong := manifest.differences(table, manifest.by_path(entry.shapes())):
        raise ValueError(
            f"{file} does not hold the weights {name} ({entry.what}); they differ at "
            f"{manifest.listed(wrong)}."
        )
    if bad := [path for path, leaf in leaves.items() if not np.isfinite(leaf).all()]:
        raise ValueError(f"{file}: NaN or infinity in {manifest.listed(bad)}.")
    return layers, leaves


def _write(target: pathlib.Path, record: Record, leaves: manifest.Leaves) -> None:
    """Writes beside `target`, reads back, and renames."""
    table = manifest.leaf_table(leaves)
    made = manifest.make(f"Weights {record.name}", _STEP, record._asdict(), {}, table)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=".import-", dir=target.parent))
    try:
        new, old = aside / "new", aside / "old"
        new.mkdir()
        arrays.write(new / "state", leaves)
        (new / "manifest.json").write_text(json.dumps(made, indent=1))
        _read(new, table, leaves)
        if os.path.lexists(target):
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if os.path.lexists(old):
                old.rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read(
    folder: pathlib.Path, saved: manifest.Table, asked: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    with _damage_of(folder), manifest.damage_of(folder):
        host = arrays.read(folder / "state", asked, partial=True)
        manifest.refuse_damage(str(folder), saved, host)
    return host


@contextlib.contextmanager
def _damage_of(folder: pathlib.Path) -> Iterator[None]:
    """Adds the remedy to an error that tells of damage."""
    try:
        yield
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(
            f"{error} Import it again: `jaxinpaint weights import FILE --as "
            f"{folder.name} --replace`."
        ) from error


def _host(variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    named = manifest.by_path(variables)
    return {path: np.asarray(leaf) for path, leaf in named.items()}


def _struct(facts: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(facts["shape"]), jnp.dtype(facts["dtype"]))


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
