"""Runs a whole study: outlines, inpainting, new glomeruli, and segmenters with them.

It trains in this process, one part after the other, and goes on where it stopped: each
part has a workdir of its own, and one that was finished is not opened again.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
from rich.console import Console

from jaxinpaint import systems
from jaxinpaint.core.checks import expect_choice
from jaxinpaint.data import pipeline
from jaxinpaint.data.slides import open_slides
from jaxinpaint.evaluation.evaluate import evaluate
from jaxinpaint.evaluation.results import say
from jaxinpaint.evaluation.study_report import Trained, write_study
from jaxinpaint.evaluation.synthesis import sclerosed_tiles, synthesize
from jaxinpaint.evaluation.synthesizing import Options, training_slides
from jaxinpaint.training.guard import NonFiniteError
from jaxinpaint.training.loop import train
from jaxinpaint.training.stop import EXIT_CODES
from jaxinpaint.training.workdir import differences, refuse, to_json, write_atomically

FREE = (  # ends of keys that may change on the way: no score depends on them
    *("data.threads", "data.cache_dir", "train.log_every", "train.panel_every"),
    *("train.keep_latest", "eval.batch_size", "eval.panels"),
)
OUTLINES = ("network", "real")  # drawn by a network, or those of the training slides


class Stopped(BaseException):
    """A signal came; the same command goes on from there."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Plan(NamedTuple):
    """One training of a segmenter.

    Attributes:
      model: `config.segment.model`.
      augmented: with flips and turns.
      percent: of synthetic tiles.
      seed: of its split, its initialisation and all else.
    """

    model: str
    augmented: bool
    percent: float
    seed: int

    @property
    def name(self) -> str:
        """Of its workdir."""
        flips = "" if self.augmented else "_plain"
        return f"{self.model}_{self.percent:g}percent{flips}_seed{self.seed}"


def study(config: ConfigDict, workdir: Path) -> int:
    """Runs a study, or goes on with it; writes its report after each segmenter.

    `masks`, `inpaint`, `synthetic` and `segment/<training>` in the workdir hold the
    parts, `metrics.json` and `report.html` Tables 3, 4 and 5 so far.

    Args:
      config: as configs/studies/glomeruli.py: `study`, and the config of each part.
      workdir: of this study alone.

    Returns:
      0; 1 where a segmenter's training diverged, named; 143 or 130 after SIGTERM or
      SIGINT, with all that was done saved.

    Raises:
      ValueError: another config than the study began with, or one that does not fit.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
      NonFiniteError: the training of the outlines or of the inpainting diverged.
    """
    console = Console(stderr=True, soft_wrap=True)
    options, parts = config.study, parts_of(config)
    expect_choice("config.study.outlines", options.outlines, OUTLINES)
    plans = plan(options)
    for one in plans:  # wrong sizes come to light now, not after days
        systems.build(segmenter_config(parts["segment"], one, workdir))
    keep_config(config, workdir)
    failed = []
    try:
        with signals():
            tell = lambda line: say(console, line)
            synthetic = any(one.percent for one in plans)
            if synthetic:
                make_pool(options, parts, workdir, tell)
            for number, one in enumerate(plans, 1):
                folder = workdir / "segment" / one.name
                tell(f"Segmenter {number}/{len(plans)}: {one.name}")
                own = segmenter_config(parts["segment"], one, workdir)
                try:
                    finish(own, folder)
                except NonFiniteError as error:
                    failed.append(one.name)
                    tell(f"{one.name} diverged: {error}")
                    continue
                write_study(config, workdir, trained(plans, workdir), failed)
    except Stopped as stopped:
        say(console, "Stopped; the same command goes on from there.")
        return stopped.exit_code
    write_study(config, workdir, trained(plans, workdir), failed)
    print(workdir / "report.html")
    return 1 if failed else 0


def plan(options: ConfigDict) -> list[Plan]:
    """The trainings of a study, seed by seed, so that early reports hold every line.

    Args:
      options: `config.study`.

    Raises:
      ValueError: no model, no seed, no percentage, one that is no percentage, or two of
        one kind.
    """
    percents = [float(percent) for percent in options.percents]
    for name, values in (
        ("percents", percents),
        ("models", options.models),
        ("seeds", options.seeds),
    ):
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"config.study.{name} is {tuple(values)}; give one or more, each once."
            )
    wrong = [percent for percent in percents if not 0 <= percent <= 100]
    if wrong:
        raise ValueError(f"config.study.percents holds {wrong}; they are 0 to 100.")
    first, *others = options.models
    plans = []
    for seed in options.seeds:
        if options.without_augmentation:
            plans.append(Plan(first, False, 0.0, seed))
        plans += [Plan(first, True, percent, seed) for percent in percents]
        plans += [Plan(model, True, max(percents), seed) for model in others]
    return plans


def parts_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """The config of each part, on the study's data."""
    parts = {}
    for name in ("masks", "inpaint", "segment"):
        own = config[name].copy_and_resolve_references()
        own.data.source = config.data.source
        own.lock()
        parts[name] = own
    return parts


def segmenter_config(part: ConfigDict, plan: Plan, workdir: Path) -> ConfigDict:
    """The config of one training."""
    own = part.copy_and_resolve_references()
    own.seed = plan.seed
    own.segment.model = plan.model
    own.segment.trad_aug = plan.augmented
    own.data.synthetic_percent = plan.percent
    own.data.synthetic = str(workdir / "synthetic") if plan.percent else ""
    own.lock()
    return own


def make_pool(
    options: ConfigDict,
    parts: Mapping[str, ConfigDict],
    workdir: Path,
    tell: Callable[[str], None],
) -> None:
    """Trains what paints glomeruli, and paints as many as the study needs."""
    real = options.outlines == "real"
    if not real:
        tell("Outlines")
        finish(parts["masks"], workdir / "masks")
    tell("Inpainting")
    finish(parts["inpaint"], workdir / "inpaint")
    output = workdir / "synthetic"
    if (output / "report.json").exists():
        return
    tell("New glomeruli on the training slides")
    config = parts["inpaint"]
    slides = training_slides(open_slides(config), config.image_size)
    own = config.synthesis
    synthesize(
        config,
        workdir / "inpaint",
        "real" if real else str(workdir / "masks"),
        output,
        Options(
            seed=options.synthesis_seed,
            per_roi=own.per_roi,
            gap=own.gap,
            feather=own.feather,
            rounds=None,
            tiles=round(options.pool * sclerosed_tiles(config, slides)),
            positions=None,
            on_bad_position="error",
        ),
    )


def finish(config: ConfigDict, folder: Path) -> None:
    """Trains and evaluates a part; nothing where both were done."""
    train_part(config, folder)
    if not (folder / "eval" / "report.html").exists():  # the last that it writes
        evaluate(config, folder, None)
        jax.clear_caches()  # of dozens of programs that nobody calls again


def train_part(config: ConfigDict, folder: Path) -> None:
    """Trains a part, or goes on with it; nothing where it was trained to its end.

    Raises:
      Stopped: a signal came; what was done is saved.
      ValueError: as `train`.
      NonFiniteError: it diverged.
    """
    if newest_step(folder) >= config.steps:
        return
    system = systems.build(config)
    rank, count = jax.process_index(), jax.process_count()
    data = pipeline.build(config, system.batch_spec, rank, count)
    outcome = train(system, data.train, data.validation, config, folder)
    jax.clear_caches()
    if outcome.exit_code:
        raise Stopped(outcome.exit_code)


def newest_step(folder: Path) -> int:
    """The newest checkpoint's step, 0 where there is none."""
    steps = (path.name for path in (folder / "checkpoints").glob("*"))
    return max((int(name) for name in steps if name.isdecimal()), default=0)


def trained(plans: Sequence[Plan], workdir: Path) -> list[Trained]:
    """What the finished trainings reached."""
    found = []
    for one in plans:
        folder = workdir / "segment" / one.name / "eval"
        if (folder / "report.html").exists():
            results = json.loads((folder / "metrics.json").read_text())
            found.append(Trained(one.name, *one, results["rows"], results["run"]))
    return found


def keep_config(config: ConfigDict, workdir: Path) -> None:
    """Begins a workdir, or checks that it holds this study.

    Raises:
      ValueError: it holds another one; names the keys.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if path.exists():
        changes = {
            name: change
            for name, change in differences(path, config).items()
            if not name.endswith(FREE)
        }
        refuse(workdir, changes)
    write_atomically(path, json.dumps(to_json(config), indent=2))


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise Stopped, but where training saves first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(EXIT_CODES[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
