"""Scores that the papers print, as tidy rows: one set of CSV files per system.

A file `<system>_table<number>.csv`, or `<system>_table<number>_<data>.csv` for each of
several data sets, beside this module holds `method, dataset, bin, region, metric, value,
sd, n`, with the numbers as printed; the last two are empty where the paper gives none. A further system adds its files; there is no list to edit.
"""

import csv
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parent
# Systems whose tables are of another kind than images by mask: `glomeruli_tables`.
APART = frozenset({"glomeruli"})

# What a reader must know beside the numbers, by system. CCPGAN specification 6.1
# and 7.20 to 7.22, FlowInpaint specification 6.5 and 7, ipA-MedGAN specification 6, RNON
# specification 6: the tables are kept as printed, and their oddities are named.
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
    "flowinpaint": (
        "FlowInpaint, Table 1 (stacks of CREMI), Tables 2 and 3 (without the reference "
        "image, without FAL, without GAN; means over the three stacks) and Table S3 of "
        "its supplement (distance of the sections; trained at 50 nm). Whole images with "
        "the hole filled, 100 of each stack. The paper calls its own lines Ours, "
        "Ours-FAL and Ours-GAN.",
        "Its SSIM stands as that in windows of 51 x 51: the paper names no window, but "
        "its published evaluation takes this one, and no smaller one gives its numbers. "
        "FID of few images is biased upwards: compare at n = 100 alone.",
        "Tables 2 and 3 name no stack. Their lines of FlowInpaint are the mean of Table "
        "1 at 30 % and 50 %; at 10 % PSNR and SSIM are not (35.936 and 0.980, the mean "
        "is 35.703 and 0.979), so a number of one of them may be a misprint. An FID of "
        "10.311 is printed as 10.31 in Table 2.",
        "Without a reference image the paper reaches the same PSNR at 10 %; the "
        "reference gains 0.59 dB at 30 % and 0.73 dB at 50 %.",
    ),
    "ipa_medgan": (
        "ipA-MedGAN, Table I: FLAIR brain MR of 44 volunteers, 256 x 256 slices of 1 mm; "
        "trained on 3028 slices of 33, tested on 1072 of 11. (a) is the columns of "
        "64x64, one square of that side; (b) those of 1.66-4.56%, arbitrary shapes of "
        "so much of the image, 50 masks. The data are not public.",
        "The paper's network gets no mask, and its output is scored whole: compare with "
        "'raw whole', not with the composited result. Of its rivals the paper does not "
        "say whether they were composited.",
        "PSNR and MSE are those of 8 bits. The PSNR of the printed mean MSE is 0.16 to "
        "0.95 dB below the printed mean PSNR, as it must be for means over slices.",
        "UQI counts windows that are constant in one image alone as 0, so that faint "
        "noise in an empty background costs much: its rivals' low UQI may be that.",
    ),
    "rnon": (
        "RNON, Table 3: CelebA and Places2 at 256 x 256, by the part of the image that "
        "is hole. The paper names 200,000 training and 4000 test images of each set, "
        "and elsewhere a split of 80 % to 20 %; it names no source of its masks.",
        "The paper blames a shift of the colour of the whole image for a part of its "
        "loss of PSNR and SSIM, so its output was not composited: compare with 'raw "
        "whole'.",
        "The paper's system is not best everywhere in its own table. CelebA: SSIM at "
        "1-25%. Places2: SSIM at 1-25% and 25-40%, PSNR at 1-25% and 40-50%.",
        "Between 25-40% and 40-50% every method loses 0.19 to 0.27 of SSIM but only "
        "0.8 to 2.4 dB; the paper gives no reason.",
    ),
}


def systems() -> list[str]:
    """Names of the systems whose printed tables are here, sorted."""
    found = {path.name.partition("_table")[0] for path in FOLDER.glob("*_table*.csv")}
    return sorted(found - APART)


def rows(system: str) -> list[dict[str, Any]]:
    """Reads the numbers that a system's paper prints.

    Args:
      system: name of a system, such as "ccpgan".

    Returns:
      Tidy rows: "method" is "paper" for the paper's own system and "paper_NAME" for
      a rival that it prints; "value" and "sd" are floats, "n" is the number of test
      images, "sd" and "n" None where none is printed; "table" is the table's number,
      such as "1" or "S3". A system without a file here has none: an empty list, as
      has one whose tables are of another kind.

    Raises:
      ValueError: a file has other columns, named in the message.

    Source: CCPGAN Table 1 and Table 2 (specification 6); FlowInpaint Table 1 to 3 and
    S3 (specification 7); ipA-MedGAN Table I (specification 6); RNON Table 3
    (specification 6).
    """
    found: list[dict[str, Any]] = []
    if system in APART:
        return found
    for path in sorted(FOLDER.glob(f"{system}_table*.csv")):
        table = path.stem.removeprefix(f"{system}_table").partition("_")[0]
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
                    "n": int(row["n"]) if row["n"] else None,
                }
                found.append({**row, **number, "table": table})
    return found
