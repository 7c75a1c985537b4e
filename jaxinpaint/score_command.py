"""The subcommand `score`: what its words mean.

Stands on the roof.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `score` to its parser."""
    parser.epilog = (
        "Files belong together by name without ending: truth/a.png, pred/a.jpg, "
        "mask/a.png. All must be of one size, and pred of the truth's channels and "
        "depth; nothing is pasted, resized or rescaled. Exit codes: 0 all were scored; "
        "1 some were left out, each named (a file that cannot be read, or, with "
        "--skip-missing, a name that is not in every folder); 2 wrong use, and nothing "
        "was written."
    )
    parser.add_argument(
        "--truth", required=True, type=Path, metavar="DIR", help="the true images"
    )
    parser.add_argument(
        "--pred",
        required=True,
        action="append",
        metavar="[NAME=]DIR",
        help="what a program made of them; again for every method to compare",
    )
    parser.add_argument(
        "--mask",
        required=True,
        type=Path,
        metavar="DIR",
        help="a mask for each image, holding 0 and 255 (or 1); or one file for all",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="gets report.html, metrics.json, scores.csv and masks.json, all or none",
    )
    parser.add_argument(
        "--name", metavar="METHOD", help="of a single --pred; its folder's if not given"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="of the images, in the results; the truth folder's name if not given",
    )
    parser.add_argument(
        "--bins",
        default="0,10,20,30,40,50,60,70,80,90,100",
        metavar="PERCENTS",
        help="edges by hole in per cent of the image; 10,20 holds what is above 10 and "
        "at most 20 (default: %(default)s)",
    )
    parser.add_argument(
        "--mask-polarity",
        choices=("hole", "valid"),
        default="hole",
        help="what white marks (default: %(default)s)",
    )
    parser.add_argument(
        "--mask-suffix",
        default="",
        metavar="END",
        help="of the masks' names: _mask if the mask of a.png is a_mask.png",
    )
    parser.add_argument(
        "--pred-suffix",
        default="",
        metavar="END",
        help="the same of every --pred: _mask001 for what LaMa writes",
    )
    parser.add_argument(
        "--truth-suffix", default="", metavar="END", help="the same of the true images"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images scored at once; by their size if not given",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="score constant, Telea's and Navier-Stokes fills beside them",
    )
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="leave out the names that are not in every folder",
    )
    learned = parser.add_argument_group(
        "metrics that need pretrained weights",
        "SOURCE is imported (see `jaxinpaint weights`) or, for a dry run whose numbers "
        "mean nothing, random:SEED.",
    )
    for option, help in {
        "--lpips": "score LPIPS on AlexNet",
        "--lpips-vgg": "score LPIPS on VGG16",
        "--fid": "score FID, of all images of a column",
    }.items():
        learned.add_argument(option, default="", metavar="SOURCE", help=help)


def run(parsed: argparse.Namespace) -> int:
    """Scores; returns the exit code, 0 done or 1 where some images were left out.

    Raises:
      ValueError: wrong use.
      OSError: a folder is not there, or a file cannot be written.
      ImportError: an extra is needed and not installed.
    """
    from jaxinpaint import score_folders, score_inputs, score_report  # imports jax

    made = score_inputs.named_folders(parsed.pred, parsed.name)
    job = score_inputs.Job(
        truth=parsed.truth,
        made=made,
        mask=parsed.mask,
        polarity=parsed.mask_polarity,
        truth_suffix=parsed.truth_suffix,
        made_suffix=parsed.pred_suffix,
        mask_suffix=parsed.mask_suffix,
        edges=score_folders.percent_edges(parsed.bins),
        baselines=parsed.baselines,
        batch_size=parsed.batch_size,
        skip_missing=parsed.skip_missing,
        dataset=parsed.dataset or parsed.truth.resolve().name,
        lpips=parsed.lpips,
        lpips_vgg=parsed.lpips_vgg,
        fid=parsed.fid,
    )
    outcome = score_report.run(job, parsed.output)
    return 1 if outcome.missing or outcome.failed else 0
