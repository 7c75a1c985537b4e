"""Tidy rows: what each score means, who is better, who is below whom."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

ROW_KEYS = ("method", "dataset", "bin", "region", "metric", "value", "sd", "n")
BASELINES = {
    "constant": "the hole filled with the mean colour of the valid pixels",
    "copy_neighbor": "the hole copied from the adjacent section",
    "mean_neighbors": "the hole filled with the mean of the adjacent sections",
    "telea": "Telea's fast marching, from the image alone",
    "navier_stokes": "Navier-Stokes inpainting, from the image alone",
    "intermediate": "the flow interpolation of both neighbours, no learning",
    "reference": "the flow interpolation, refined by a network: a guide, not the result",
}
ALL = "all"  # the bin of every image, which is no place along an axis of holes
REGIONS = {
    "hole": "in the hole",
    "image": "whole image",
    "local": "whole image, white outside the hole",
}


class Metric(NamedTuple):
    """How a score is written and read."""

    label: str
    higher: bool
    decimals: int
    meaning: str


METRICS = {
    "psnr": Metric(
        "PSNR",
        True,
        2,
        "Peak signal-to-noise ratio in decibels: 10 log10(largest grey level² / mean "
        "squared difference), over all channels. Identical pixels give infinity, which "
        "is counted and kept out of the mean; papers that cap such a score at 100 dB "
        "have it in their means.",
    ),
    "ssim": Metric(
        "SSIM",
        True,
        4,
        "Structural similarity, 1 = identical: 11 x 11 Gaussian window, sigma 1.5, "
        "K1 = 0.01, K2 = 0.03, L the largest grey level, mean over positions and "
        "channels. In the hole: the windows whose middle pixel is hole.",
    ),
    "ssim_51": Metric(
        "SSIM, 51 x 51",
        True,
        4,
        "Structural similarity in uniform windows of 51 x 51 pixels, with the divisor "
        "n - 1, to compare with tables taken so; lower than SSIM where much is wrong.",
    ),
    "ssim_eq7": Metric(
        "SSIM, Eq. 7",
        True,
        4,
        "Structural similarity as CCPGAN prints it in Eq. 7: means, variances and "
        "covariance of the whole region instead of a window, L = 100 of 255 levels.",
    ),
    "ms_ssim": Metric(
        "MS-SSIM",
        True,
        4,
        "Structural similarity over five scales, each half the size of the one "
        "before, weighted 0.0448, 0.2856, 0.3001, 0.2363, 0.1333; 1 = identical.",
    ),
    "fsim": Metric(
        "FSIM",
        True,
        4,
        "Feature similarity of brightness, 1 = identical: phase congruency and "
        "gradient, weighted towards places with structure.",
    ),
    "fsimc": Metric(
        "FSIMc",
        True,
        4,
        "Feature similarity with colour, 1 = identical: FSIM times the similarity of "
        "the two colour channels of YIQ.",
    ),
    "uqi": Metric(
        "UQI",
        True,
        4,
        "Universal quality index, 1 = identical: correlation, brightness and contrast "
        "in 8 x 8 windows, without constants. A window that is constant in one image "
        "alone counts 0. In the hole: the windows whose pixel in row 4, column 4 of "
        "0 to 7 is hole.",
    ),
    "mae": Metric(
        "MAE",
        False,
        3,
        "Mean absolute difference in grey levels, over all channels.",
    ),
    "mse": Metric(
        "MSE",
        False,
        2,
        "Mean squared difference in squared grey levels, over all channels.",
    ),
    "lpips": Metric(
        "LPIPS",
        False,
        4,
        "Learned perceptual distance (version 0.1, AlexNet); 0 = identical. It needs "
        "pretrained weights and is absent without them.",
    ),
    "lpips_vgg": Metric(
        "LPIPS, VGG16",
        False,
        4,
        "Learned perceptual distance (version 0.1, VGG16); 0 = identical. It needs "
        "pretrained weights and is absent without them.",
    ),
    "fid": Metric(
        "FID",
        False,
        3,
        "Fréchet distance between the Inception features of all true and all filled "
        "images; 0 = equal mean and covariance. One number a set, without a "
        "deviation, and biased upwards in small sets: compare at equal n. It needs "
        "pretrained weights and is absent without them.",
    ),
}
PUBLISHED = "imported"  # what a row's weights are where others' are the same
# In grey levels, or rounded to them: of 16 bits no match for a paper's of 8.
OF_LEVELS = frozenset({"mae", "mse", "uqi"})
OF_A_SET = frozenset({"fid"})  # one value a set of images: there is no deviation


def label(metric: str, weights: str | None) -> str:
    """A metric's name; of a learned one also what makes its numbers its own."""
    name = METRICS[metric].label
    return name if comparable(weights) else f"{name} ({weights}, not comparable)"


def comparable(weights: str | None) -> bool:
    """Whether a score needs no weights, or was computed with the published ones."""
    return weights in (None, PUBLISHED)


def below(rows: Iterable[Row], system: str) -> dict[str, list[Row]]:
    """Finds where a system scores worse than a baseline.

    Args:
      rows: tidy rows; each of the system's is compared with the baselines' rows of
        the same dataset, bin, region and metric.
      system: the system's method name.

    Returns:
      By baseline, the system's rows that are strictly worse; a score that is not a
      number is worse than any number.
    """
    rows = [row for row in rows if not row["method"].startswith("paper")]
    others: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["method"] != system:
            others.setdefault(place(row), []).append(row)
    worse: dict[str, list[Row]] = {}
    for row in rows:
        if row["method"] == system:
            for other in others.get(place(row), ()):
                if rank(row) < rank(other):
                    worse.setdefault(other["method"], []).append(row)
    return worse


def verdict(rows: Sequence[Row], system: str) -> dict[str, Any]:
    """Says in sentences how a system stands against the baselines of its report.

    Returns:
      {"good": bool, "lines": [{"text", "places"}]}: a warning for each baseline that
      the system is below anywhere, with the places by score; or one line that it is
      below none, or that none was run. Scores that are not `comparable` do not count.
    """
    rows = [row for row in rows if comparable(row.get("weights"))]
    places = {place(row) for row in rows if row["method"] == system}
    compared: dict[str, int] = {}
    for row in rows:
        if row["method"] != system and place(row) in places:
            compared[row["method"]] = compared.get(row["method"], 0) + 1
    if not compared:
        line = f"No baseline was scored beside {system}: its numbers stand alone."
        return {"good": False, "lines": [{"text": line, "places": []}]}
    worse = below(rows, system)
    if not worse:
        names = ", ".join(order(compared, system))
        kind = "baseline" if set(compared) <= set(BASELINES) else "other method"
        line = (
            f"{system} is below no {kind} in the {sum(compared.values())} "
            f"comparisons of this report ({names})."
        )
        return {"good": True, "lines": [{"text": line, "places": []}]}
    several = len({row["dataset"] for row in rows}) > 1
    lines = []
    for method in order(worse, system):
        groups: dict[str, list[str]] = {}
        for row in worse[method]:
            label = f"{METRICS[row['metric']].label} {REGIONS[row['region']]}"
            if several:
                label += f" on {row['dataset']}"
            groups.setdefault(label, []).append(row["bin"])
        count = f"{len(worse[method])} of {compared[method]} scores"
        lines.append(
            {
                "text": f"{system} is below {method} in {count}.",
                "places": [
                    f"{label}: {', '.join(bins)}" for label, bins in groups.items()
                ],
            }
        )
    return {"good": False, "lines": lines}


def format_score(metric: str, number: float | None) -> str:
    """Writes a mean or a deviation with the decimals of its metric."""
    if number is None or math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    return f"{number:.{METRICS[metric].decimals}f}".replace("-", "−")


def check(rows: Sequence[Row]) -> None:
    """Checks tidy rows before a page is made of them.

    Raises:
      ValueError: a row lacks a key, names a metric without an entry in METRICS or
        a region without one in REGIONS, or gives a score a second time.
    """
    seen = set()
    for row in rows:
        missing = [name for name in ROW_KEYS if name not in row]
        if missing:
            raise ValueError(f"rows: one has no {missing}: {dict(row)}.")
        for name, known in (("metric", METRICS), ("region", REGIONS)):
            if row[name] not in known:
                raise ValueError(
                    f"rows: {name} {row[name]!r} is unknown; known are {list(known)}."
                )
        if key(row) in seen:
            raise ValueError(f"rows: a score is given twice: {key(row)}.")
        seen.add(key(row))


def key(row: Row) -> tuple[Any, ...]:
    """Returns what makes a row one of its kind: method, place, and printed table."""
    return row["method"], *place(row), row.get("table")


def order(methods: Iterable[str], system: str) -> list[str]:
    """Puts methods in the order of a table: the system, the baselines, the others."""
    known = list(dict.fromkeys([system, *BASELINES]))
    rest = sorted(set(methods) - set(known))
    return [name for name in [*known, *rest] if name in set(methods)]


def place(row: Row) -> tuple[Any, ...]:
    """Returns where a score stands: scores at one place are compared."""
    return row["dataset"], row["bin"], row["region"], row["metric"]


def value(row: Row) -> float:
    """Returns a mean, infinity where all of its scores are infinite; may be NaN."""
    number = math.nan if row["value"] is None else float(row["value"])
    # A mean of no finite score at all, with infinite ones left out of it.
    return math.inf if math.isnan(number) and row.get("infinite") else number


def rank(row: Row) -> tuple[bool, float]:
    """Orders scores from worse to better, whatever the metric's direction."""
    number = value(row)
    if math.isnan(number):
        return False, 0.0
    return True, number if METRICS[row["metric"]].higher else -number


def first_seen(rows: Iterable[Row], key: str) -> list[str]:
    """Returns what rows hold under a key, each once, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))
