"""What `jaxinpaint weights` does: lists, imports and verifies pretrained weights.

The one place that uses the network, when `import --download` asks it to.
"""

import argparse
import pathlib
import sys
from typing import Self

import rich.console
import rich.progress
import rich.table

from jaxinpaint.core.manifest import DamagedCheckpointError, reason
from jaxinpaint.features import registry, store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the three actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="all weights, what needs them, which are here")
    bring = actions.add_parser("import", help="convert a public file into the store")
    bring.add_argument("file", nargs="?", metavar="FILE", help="torch or safetensors")
    bring.add_argument("--as", dest="name", required=True, metavar="NAME")
    bring.add_argument(
        "--download", action="store_true", help="get the public file first"
    )
    bring.add_argument("--replace", action="store_true", help="import once more")
    bring.add_argument(
        "--unverified",
        action="store_true",
        help="take a file with another SHA-256 than the published one",
    )
    check = actions.add_parser("verify", help="compare all digests of imported weights")
    check.add_argument("names", nargs="*", metavar="NAME", help="all imported if none")


def run(parsed: argparse.Namespace) -> int:
    """Does one action.

    Returns:
      0, or 1 where `verify` found weights damaged or missing.

    Raises:
      ValueError: wrong use, or a file that is refused.
      OSError: a file or the store cannot be read or written, or nothing came over
        the network.
      ImportError: `--download` without pooch.
    """
    if parsed.action == "list":
        return list_weights()
    if parsed.action == "verify":
        return verify_weights(parsed.names)
    return import_weights(parsed)


def list_weights() -> int:
    """Prints a table of the registry: boxed in a terminal, else aligned columns."""
    columns = ("name", "state", "needed by", "size", "licence", "source")
    rows = [
        (
            name,
            _state(name),
            ", ".join(entry.uses),
            _megabytes(entry.size),
            entry.licence,
            entry.urls[0],
        )
        for name, entry in registry.WEIGHTS.items()
    ]
    if sys.stdout.isatty():
        table = rich.table.Table()
        for column in columns:
            table.add_column(column, overflow="fold")  # an address stays whole
        for row in rows:
            table.add_row(*row)
        rich.console.Console().print(table)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = [cell.ljust(n) for cell, n in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
    print(f"store: {store.home() / 'weights'}")
    return 0


def verify_weights(names: list[str]) -> int:
    """Prints a line for each of these names, or for each that is imported."""
    chosen = names or [name for name in registry.WEIGHTS if _state(name) != "missing"]
    failed = False
    for name in chosen:
        try:
            record = store.verify(name)
            note = "as published" if record.verified else "not the published file"
            print(f"{name}: good; from {record.file} ({record.sha256}, {note})")
        except (DamagedCheckpointError, store.MissingWeightsError) as error:
            failed = True
            print(f"{name}: {error}")
    if not chosen:
        print(f"Nothing is imported in {store.home() / 'weights'}.")
    return int(failed)


def import_weights(parsed: argparse.Namespace) -> int:
    """Imports a file that is here, or downloads it first."""
    if parsed.download == (parsed.file is not None):
        raise ValueError("give a FILE to import, or --download and none.")
    if parsed.download and parsed.unverified:
        raise ValueError("a download is always verified; leave --unverified out.")
    if parsed.download:
        file = download(parsed.name, replace=parsed.replace)
    else:
        file = pathlib.Path(parsed.file)
    try:
        record = store.import_file(
            file, parsed.name, replace=parsed.replace, unverified=parsed.unverified
        )
    except ValueError:  # another file; a full disk is no reason to fetch it again
        if parsed.download:
            file.unlink()
        raise
    if parsed.download:
        file.unlink()
    note = "as published" if record.verified else "NOT the published file"
    print(f"{record.name}: imported {record.file} (SHA-256 {record.sha256}, {note})")
    return 0


def download(name: str, *, replace: bool) -> pathlib.Path:
    """Gets the public file of some weights from the first address that has it.

    Args:
      name: in the registry.
      replace: also where the weights are imported already.

    Returns:
      The file, in `store.home() / "downloads"`, for the caller to remove; a good one
      that a killed import left there is not downloaded again.

    Raises:
      ValueError: an unknown name, already imported, or not the published file.
      OSError: no address could be reached.
      ImportError: pooch is not installed.
    """
    entry = registry.find(name)
    store.expect_room(name, replace)
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "downloads need pooch: pip install 'jaxinpaint[weights]'."
        ) from error
    published = entry.sha256 or ""
    known = f"sha256:{published}" if len(published) == 64 else None
    failures = []
    for url in entry.urls:
        print(f"{url} ({_megabytes(entry.size)})", file=sys.stderr)
        try:
            with _Bar(entry.file) as bar:
                file = pooch.retrieve(
                    url,
                    known,
                    fname=entry.file,
                    path=store.home() / "downloads",
                    downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20),
                )
            return pathlib.Path(file)
        except OSError as error:  # requests' own errors are among them
            failures.append(f"{url}: {reason(error)}")
    raise OSError(
        f"{entry.file} could not be downloaded ({'; '.join(failures)}); get it by other "
        f"means and run `jaxinpaint weights import FILE --as {name}`."
    )


class _Bar:
    """A rich progress bar, for a terminal alone, in the form that pooch drives."""

    def __init__(self, file: str) -> None:
        self.total = 0  # set by pooch
        self._progress = rich.progress.Progress(
            *rich.progress.Progress.get_default_columns(),
            rich.progress.DownloadColumn(),
            console=rich.console.Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(file, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        """Leaves the full bar; leaving the context stops it."""


def _state(name: str) -> str:
    try:
        record = store.record_of(name)
    except DamagedCheckpointError:
        return "damaged"
    if record is None:
        return "missing"
    return "imported" if record.verified else "imported, unverified"


def _megabytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
