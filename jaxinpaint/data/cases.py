"""What every kind of data gives: training batches, and test images with holes."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]


class Case(NamedTuple):
    """One test image with one hole, and its neighbours if it is a section of a stack.

    Attributes:
      name: where the image comes from, for example "section_17_crop_03".
      label: of the mask.
      image: uint8 or uint16 [H, W, C], ground truth.
      mask: uint8 [H, W, 1], 1 = hole.
      neighbor: the guide, chosen over the pixels valid in both; None where images are
        no sections.
      previous: the section `config.data.spacing` before; None at the stack's end, or
        where its own damage overlaps the hole.
      following: the section as far after, likewise.
      neighbor_name: the neighbour's name in the stack.
      neighbor_in_training: whether the neighbour is a training section.
      derived: what is computed from both neighbours, by name, shaped like `image`.
    """

    name: str
    label: str
    image: np.ndarray
    mask: np.ndarray
    neighbor: np.ndarray | None = None
    previous: np.ndarray | None = None
    following: np.ndarray | None = None
    neighbor_name: str = ""
    neighbor_in_training: bool = False
    derived: Mapping[str, np.ndarray] = MappingProxyType({})

    def array(self, name: str) -> np.ndarray:
        """What a batch calls by this name: an own array, or a derived one."""
        derived = self.derived
        return derived[name] if name in derived else getattr(self, name)


class RunData(NamedTuple):
    """What a run reads of its images.

    Attributes:
      batch: step -> the host batch of that step: uint8 or uint16 [N, S, S, C] by
        name, `mask` uint8 [N, S, S, 1]; the rows of this process alone.
      train: step -> batches from that step on, without end.
      validation: one batch, of `config.data.validation_crops` rows (of tiles at most so
        many), whole in every process.
      test_cases: -> the test cases, in the order of the masks.
      summary: plain values for the log and the report: `kind`, `source`, `digest`,
        `dtype`, `shape` ([N, H, W, C] of all images) and `split` of every kind.
    """

    batch: Callable[[int], Batch]
    train: Callable[[int], Iterator[Batch]]
    validation: Batch
    test_cases: Callable[[], Iterator[Case]]
    summary: dict[str, Any]
