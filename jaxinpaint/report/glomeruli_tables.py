"""What the paper on sclerosed glomeruli prints, and its tables beside what was run.

The files `glomeruli_table2.csv` to `glomeruli_table5.csv` beside this module hold the
numbers as printed; NG = normal, SG = sclerosed glomeruli.

Source: Tables 2 to 5; sections 6, 7 and 9.1 of the specification.
"""

import csv
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxinpaint.report.rendering import Table

FOLDER = pathlib.Path(__file__).parent
METRICS = ("precision", "recall", "f1", "dice")
LABELS = ("Precision", "Recall", "F1", "Dice")
CLASSES = {"NG": "normal", "SG": "sclerosed", "mean(NG;SG)": "mean"}
MODELS = {
    "Unet": "unet",
    "Unet++": "unet++",
    "Swin-Unet": "swin_unet",
    "EfficientNetB3-Unet": "effb3_unet",
}
NAMES = {own: printed for printed, own in MODELS.items()}
NONE = "n/a"  # 0 / 0

# Specification 7.1 and 9.1: the tables are kept as printed, their oddities named.
ABOUT = {
    2: (
        "The paper prints one number each of MAE, PSNR and SSIM, “in the area of "
        "generated sclerosed glomeruli”. They cannot come from one set of pixels: PSNR "
        "22.69 dB means a root mean squared error of 0.0733, so MAE would be 0.21 of it, "
        "where errors inside one region give 0.7 to 0.8; over a frame that is mostly "
        "unchanged, SSIM could not fall to 0.81. So all three regions stand here, and "
        "none is claimed to be the paper's.",
        "The abstract prints a PSNR of 22.8943 dB, Table 2 one of 22.6943 dB.",
    ),
    3: (
        "In 31 of the 33 lines of Tables 3 to 5 the printed F1 is the harmonic mean of "
        "the printed precision and recall. The exceptions: Test1, with augmentation, "
        "sclerosed, 0.6534 where 0.6554 follows; in Table 5, Test2, Swin-Unet, 0.7556 "
        "where 0.7558 follows.",
        "Table 1 of the paper gives F1 and Dice equal formulas, and the printed numbers "
        "differ by -0.10 to +0.08. Here F1 counts all pixels of a test set together; "
        "Dice is the mean over tiles, without tiles where a class is in neither truth "
        "nor prediction.",
        "Printed, augmentation lowers F1 and Dice in two of six comparisons: Test2 "
        "normal and Test3 sclerosed.",
    ),
    4: (
        "The paper does not say what the percentages are of. Here 100 % are as many "
        "synthetic tiles as there are training tiles with a sclerosed pixel; 30 % are a "
        "part of 60 %, and these of 100 %. 0 % is the line with augmentation of Table 3.",
    ),
    5: (
        "Mean F1 is the harmonic mean of mean precision and mean recall, as in the "
        "printed lines.",
        "With Table 4 the printed line of EfficientNetB3-Unet on Test3 implies a Dice "
        "of 0.8848 for normal glomeruli beside an F1 of 0.8125.",
    ),
}


class Cell(NamedTuple):
    """A mean over trainings.

    Attributes:
      value: None for 0 / 0, or for no training.
      sd: sample deviation, divisor n - 1; None for fewer than two trainings.
      n: trainings.
    """

    value: float | None
    sd: float | None
    n: int


class Line(NamedTuple):
    """One line of Table 3, 4 or 5.

    Attributes:
      dataset: name of the test set: "test1", "test2", "test3", or a person's own.
      augmented: whether with flips and turns.
      percent: of synthetic tiles.
      model: of `config.segment.model`.
      kind: "normal", "sclerosed" or "mean".
      cells: by metric, a name of METRICS.
    """

    dataset: str
    augmented: bool
    percent: float
    model: str
    kind: str
    cells: Mapping[str, Cell]


def key(table: int, line: Line) -> Any:
    """What a line of a table is about, beside its test set."""
    about = {
        3: (line.augmented, line.kind),
        4: float(line.percent),
        5: line.model,
    }
    return about[table]


def belongs(table: int, line: Line, model: str, most: float) -> bool:
    """Whether a measured line stands in Table 3, 4 or 5.

    Args:
      table: 3, 4 or 5.
      line: measured.
      model: whose lines Tables 3 and 4 show.
      most: per cent of synthetic tiles that all models of Table 5 were trained with.
    """
    if table == 3:
        return line.model == model and line.percent == 0 and line.kind != "mean"
    if table == 4:
        return line.model == model and line.augmented and line.kind == "sclerosed"
    return line.augmented and line.percent == most and line.kind == "mean"


def printed_images() -> dict[str, float]:
    """Table 2: "mae", "psnr" (dB) and "ssim" of painted glomeruli, images in [0, 1]."""
    return {row["metric"].lower(): float(row["value"]) for row in _read(2)}


def printed(table: int) -> list[Line]:
    """The lines of Table 3, 4 or 5, in the paper's order.

    The trainings are ten each, as the paper's text says.
    """
    found = []
    for row in _read(table):
        cells = {
            name: Cell(float(row[f"{name}_mean"]), float(row[f"{name}_std"]), 10)
            for name in METRICS
        }
        found.append(
            Line(
                row["test_set"].lower(),
                row.get("trad_aug", "1") == "1",
                float(row.get("synthetic_percent", 0)),
                MODELS[row.get("model", "EfficientNetB3-Unet")],
                CLASSES[row["class"]],
                cells,
            )
        )
    return found


def averaged(values: Iterable[float | None]) -> Cell:
    """Mean and sample deviation over trainings.

    One training without a number (0 / 0) leaves none for the mean.
    """
    numbers = list(values)
    known = [v for v in numbers if v is not None and math.isfinite(v)]
    if not numbers or len(known) < len(numbers):
        return Cell(None, None, len(numbers))
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Cell(statistics.fmean(known), sd, len(known))


def table(
    number: int, lines: Sequence[Line], model: str = "effb3_unet", most: float = 100.0
) -> Table:
    """Lays out Table 3, 4 or 5: what the paper prints, and below what was measured.

    What the paper does not have, such as other test sets, percentages or models,
    stands there too, with measured lines alone.

    Args:
      number: 3, 4 or 5.
      lines: measured, all of a study; those that do not belong are left out.
      model: whose lines Tables 3 and 4 show.
      most: per cent of synthetic tiles that all models of Table 5 were trained with.
    """
    paper = printed(number)
    if number == 4:  # what the paper prints of no synthetic tile
        paper += [x for x in printed(3) if x.augmented and x.kind == "sclerosed"]
    own = [line for line in lines if belongs(number, line, model, most)]
    both = [*paper, *own]
    keys = list(dict.fromkeys(key(number, line) for line in both))
    if number == 4:
        keys.sort()
    rows: list[list[str]] = []
    italics: list[int] = []
    groups: dict[int, str] = {}
    for name in dict.fromkeys(line.dataset for line in both):
        groups[len(rows)] = f"{name.capitalize()} {_stain(name)}".strip()
        for about in keys:
            for source, several in (("paper", paper), ("here", own)):
                for line in several:
                    if (line.dataset, key(number, line)) != (name, about):
                        continue
                    if source == "paper":
                        italics.append(len(rows))
                    rows.append([_label(number, line), source, *_texts(line)])
    titles = {
        3: "Table 3: flips and turns",
        4: "Table 4: synthetic glomeruli, sclerosed class",
        5: "Table 5: segmenters with synthetic glomeruli, mean of both classes",
    }
    notes = [
        "In italics what the paper prints, on slides of its own: a scale, not a rank. "
        "Mean ± sample standard deviation over trainings."
    ]
    if own and number != 5 and model != "effb3_unet":
        notes.append(
            f"Measured with {NAMES.get(model, model)}, the paper with its own."
        )
    if own and number == 5 and most != 100:
        notes.append(
            f"Measured with {most:g} % of synthetic tiles, printed with 100 %."
        )
    labels = [f"Mean {label}" for label in LABELS] if number == 5 else LABELS
    head = ["", "Source", *labels, "Trainings"]
    notes += ABOUT[number]
    return Table(titles[number], notes, head, rows, italics, groups)


def image_table(measured: Mapping[str, Mapping[str, Any]], n: int) -> Table:
    """Lays out Table 2: MAE, PSNR and SSIM of three regions beside the paper's three.

    Args:
      measured: region ("region", "local", "full") -> "mae", "psnr", "ssim": value or
        None, images in [0, 1].
      n: crops.
    """
    paper = printed_images()
    meaning = {
        "region": "inside the painted glomerulus",
        "local": "whole crop, white outside the glomerulus in both",
        "full": "whole crop",
    }
    rows = [
        [meaning[name], *_numbers(measured[name]), str(n)]
        for name in meaning
        if name in measured
    ]
    rows.append(["as printed in the paper", *_numbers(paper), ""])
    head = ["Pixels", "MAE", "PSNR, dB", "SSIM", "Crops"]
    title = "Table 2: painted glomeruli, images in [0, 1]"
    return Table(title, ABOUT[2], head, rows, (len(rows) - 1,))


def number(value: float | None, decimals: int = 4) -> str:
    """Writes a score; what is none is "n/a", never 0 or 1."""
    return NONE if value is None else f"{value:.{decimals}f}".replace("-", "−")


def _numbers(values: Mapping[str, Any]) -> list[str]:
    return [number(values[name]) for name in ("mae", "psnr", "ssim")]


def _texts(line: Line) -> list[str]:
    """Cells of a line as text, and how many trainings they are of."""
    cells = [line.cells[name] for name in METRICS]
    texts = [
        number(c.value) + (f" ± {c.sd:.4f}" if c.sd is not None else "") for c in cells
    ]
    return [*texts, str(max(c.n for c in cells))]


def _label(table: int, line: Line) -> str:
    if table == 3:
        word = "with" if line.augmented else "without"
        return f"{line.kind}, {word} augmentation"
    if table == 4:
        return f"+{line.percent:g} %"
    return NAMES.get(line.model, line.model)


def _stain(dataset: str) -> str:
    """The stain of a test set of the paper, in words; "" of another one."""
    stains = {row["test_set"].lower(): row["stain"] for row in _read(3)}
    return {"PAS": "(PAS)", "HE": "(H&E)"}.get(stains.get(dataset, ""), "")


def _read(table: int) -> list[dict[str, str]]:
    path = FOLDER / f"glomeruli_table{table}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
