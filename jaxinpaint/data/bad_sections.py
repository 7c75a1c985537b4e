"""Lists of bad sections, and the order in which runs of them are restored."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple


class Repair(NamedTuple):
    """One section to be restored, and the nearest known one on either side.

    Attributes:
      section: its position.
      previous: position of the nearest known section before it; None if there is none,
        or if none is read.
      following: likewise after it.
      round: 1 where both were sound from the start, 2 where they were restored in
        round 1, and so on inwards.
    """

    section: int
    previous: int | None
    following: int | None
    round: int

    @property
    def alpha(self) -> float:
        """Its place between the two, 0 at previous and 1 at following."""
        assert self.previous is not None and self.following is not None
        return (self.section - self.previous) / (self.following - self.previous)


def parse(text: str, count: int) -> list[int]:
    """Reads a list of positions such as "12,40-42", or a text file that holds one.

    In a file, positions and ranges may also stand on lines of their own, and what
    follows a # is passed over.

    Args:
      text: the list, or the path of a file.
      count: sections of the stack; positions are 0 to count - 1.

    Returns:
      The positions, sorted, each once.

    Raises:
      ValueError: no list, or a position that the stack does not have.
    """
    where = "--bad-sections"
    if not re.fullmatch(r"[\d\s,-]*", text):
        path = Path(text)
        if not path.is_file():
            raise ValueError(
                f"{where} is {text!r}; give positions from 0 on such as 12,40-42, or a "
                "text file that holds them."
            )
        where = str(path)
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is no text file: {error}") from error
        text = ",".join(line.partition("#")[0] for line in lines)
    found: set[int] = set()
    for word in filter(None, re.split(r"[\s,]+", text)):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, last = (int(n or match[1]) for n in match.groups()) if match else (1, 0)
        if first > last:
            raise ValueError(
                f"{where}: {word!r} is no position and no range such as 40-42."
            )
        if last >= count:
            raise ValueError(
                f"{where}: there is no section {last}; the volume has {count}, from 0 "
                f"to {count - 1}."
            )
        found.update(range(first, last + 1))
    if not found:
        raise ValueError(f"{where}: names no section.")
    return sorted(found)


def order(
    count: int, bad: Collection[int], needs: int
) -> tuple[list[Repair], dict[int, str]]:
    """Puts bad sections in the order in which they can be restored: outside in.

    In a run of bad sections those at its ends come first, from the sound sections
    beyond it; then the next ones, from those that were restored, and so on.

    Args:
      count: sections of the stack.
      bad: positions.
      needs: how many adjacent sections the system reads: 0, 1 or 2. Of two sides it
        needs one, or both.

    Returns:
      The repairs, round after round and each round by position; and why the others
      cannot be restored, by position.
    """
    if not needs:
        return [Repair(z, None, None, 1) for z in sorted(bad)], {}
    repairs, failed = [], {}
    for first, last in runs(bad):
        left = first - 1 if first > 0 else None
        right = last + 1 if last < count - 1 else None
        if left is None and right is None:
            why = "no section is sound, so it has no neighbour"
        elif needs == 2 and left is None:
            why = "no sound section comes before it, and the system reads both sides"
        elif needs == 2 and right is None:
            why = "no sound section comes after it, and the system reads both sides"
        else:
            repairs += _inwards(first, last, left, right)
            continue
        failed.update(dict.fromkeys(range(first, last + 1), why))
    return sorted(repairs, key=lambda one: (one.round, one.section)), failed


def runs(bad: Collection[int]) -> list[tuple[int, int]]:
    """First and last position of each run of adjacent sections."""
    found: list[list[int]] = []
    for z in sorted(bad):
        if found and found[-1][1] == z - 1:
            found[-1][1] = z
        else:
            found.append([z, z])
    return [(first, last) for first, last in found]


def _inwards(
    first: int, last: int, left: int | None, right: int | None
) -> list[Repair]:
    """The repairs of one run; what is None beyond an end is the end of the stack."""
    repairs, number = [], 1
    while first <= last:
        ends = {first} if left is not None else set()
        ends |= {last} if right is not None else set()
        repairs += [Repair(z, left, right, number) for z in sorted(ends)]
        if left is not None:
            left, first = first, first + 1
        if right is not None:
            right, last = last, last - 1
        number += 1
    return repairs
