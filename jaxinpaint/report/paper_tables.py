"""Scores that the papers print, as tidy rows: one set of CSV files per system.

A file `<system>_table<number>_<data>.csv` beside this module holds `method, dataset,
bin, region, metric, value, sd, n`, with the numbers as printed. A further system adds
its files; there is no list to edit.
"""

import csv
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parent

# What a reader must know beside the numbers, by system. CCPGAN specification 6.1
# and 7.20 to 7.22: the tables are kept as printed, and their oddities are named.
ABOUT = {
    "ccpgan": (
        "CCPGAN, IEEE Access 2020, Table 1 (N7) and Table 2 (N5): mouse kidney, serial "
        "sections. N7 is Epon and toluidine blue, 164 test sections; N5 is paraffin "
        "and haematoxylin-eosin, 116 test sections. Mean ± standard deviation, whole "
        "image.",
        "The paper's system is not best everywhere in its own tables. N7: LPIPS at "
        "64x64, 128x128 and 256x256. N5: PSNR at 256x256 and 256x512, SSIM at 448x448, "
        "FSIMc at 256x512, 384x384 and 448x448.",
        "Printed values that may be misprints are kept: LPIPS on N7 at 64x64 and "
        "128x128 breaks the order of the mask sizes, and some deviations on N7 exceed "
        "their mean.",
        "For the smallest masks the paper's rivals lose so much that their outputs "
        "almost certainly differ from the truth outside the hole too; those columns "
        "compare pasting more than inpainting. Here every method is pasted.",
    ),
}


def systems() -> list[str]:
    """Names of the systems whose printed tables are here, sorted."""
    found = {path.name.partition("_table")[0] for path in FOLDER.glob("*_table*.csv")}
    return sorted(found)


def rows(system: str) -> list[dict[str, Any]]:
    """Reads the numbers that a system's paper prints.

    Args:
      system: name of a system, such as "ccpgan".

    Returns:
      Tidy rows: "method" is "paper" for the paper's own system and "paper_NAME" for
      a rival that it prints; "value" and "sd" are floats, "n" is the number of test
      images. A system without a file here has none: an empty list.

    Raises:
      ValueError: a file has other columns, named in the message.

    Source: CCPGAN Table 1 and Table 2 (specification 6).
    """
    found = []
    for path in sorted(FOLDER.glob(f"{system}_table*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            want = ["method", "dataset", "bin", "region", "metric", "value", "sd", "n"]
            if reader.fieldnames != want:
                raise ValueError(
                    f"{path.name}: columns must be {want}, got {reader.fieldnames}."
                )
            for row in reader:
                number = {
                    "value": float(row["value"]),
                    "sd": float(row["sd"]) if row["sd"] else None,
                    "n": int(row["n"]),
                }
                found.append({**row, **number})
    return found
