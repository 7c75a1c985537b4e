"""The card of a bundle: Markdown with the head that model hubs read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Names that hubs know; others are named in a field of their own.
LICENCES = (
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "openrail"),
)
SHOWN = ("psnr", "ssim")  # of the scores in the hole


def card(facts: Mapping[str, Any]) -> str:
    """Writes the card of a bundle.

    Args:
      facts: of its `model.json`.

    Returns:
      Markdown.
    """
    stage = f", stage {facts['stage']}" if facts["stage"] else ""
    parts = [
        head(facts),
        f"# {facts['system']}{stage}",
        "Trained with jaxinpaint and exported to run without it. Every restored pixel "
        "is an invention: it shows what is likely, not what was there. `fill` returns "
        "which pixels those are; keep that mask beside the image.",
        "## Use",
        use(facts),
        "## Input and output",
        inputs(facts),
        "## Training",
        training(facts),
        "## Scores",
        scores(facts),
        "## Files",
        "`model.json` holds all of the above for programs, and the SHA-256 of every "
        "file; `sha256sum -c sha256sums` checks them too.",
    ]
    return "\n\n".join(parts) + "\n"


def head(facts: Mapping[str, Any]) -> str:
    """The YAML head; JSON strings are YAML strings."""
    licence = facts["licence"]
    lines = ["---"]
    if not licence:
        lines.append("license: unknown")
    elif licence.lower() in LICENCES:
        lines.append(f"license: {licence.lower()}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    lines += ["library_name: flax", "pipeline_tag: image-to-image", "tags:"]
    lines += [f"- {tag}" for tag in ("jaxinpaint", "inpainting", facts["system"])]
    return "\n".join([*lines, "---"])


def use(facts: Mapping[str, Any]) -> str:
    """How to call it, or its programs where it restores no images."""
    further = [
        one["name"] for one in facts["inputs"] if one["name"] not in ("image", "mask")
    ]
    given = ["image"]
    if any(one["name"] == "mask" for one in facts["inputs"]):
        given.append("mask")
    words = ", ".join([*given, *(f"{name}={name}" for name in further)])
    lines = ["```python", "import jaxinpaint", "", 'bundle = jaxinpaint.load("DIR")']
    if "completed" in facts["outputs"]:
        lines += [
            f"filled = jaxinpaint.fill(bundle, {words})",
            "filled.image, filled.invented",
        ]
    else:
        lines.append("bundle.programs[0].call(bundle.variables, inputs)")
    packages = "`pip install jax numpy safetensors flatbuffers` and "
    packages += "jaxinpaint without its dependencies (`pip install --no-deps`) do."
    return "\n".join([*lines, "```", "", packages])


def inputs(facts: Mapping[str, Any]) -> str:
    """What goes in, of which sizes, and what comes out."""
    image, stride = facts["image"], facts["stride"]
    lines = [
        "`fill` takes uint8, uint16 or float in [-1, 1]; the programs take "
        f"{image['layout']} in [-1, 1]. Channels are in brackets.",
        "",
    ]
    for one in facts["inputs"]:
        lines.append(f"- `{one['name']}` ({one['channels']}): {one['is']}.")
    mask = facts["mask"]
    if any(one["name"] == "mask" for one in facts["inputs"]):
        need = "needed" if mask["required"] else "optional: without one all is restored"
        lines.append(f"- Masks: {mask['polarity']}; {need}.")
    if facts["symbolic_sizes"]["lowered"]:
        lines.append(
            f"- Any height and width; padded to multiples of {stride['multiple']}, at "
            f"least {stride['least']}, and cropped back."
        )
    else:
        fixed = sorted({(one["height"], one["width"]) for one in facts["programs"]})
        sizes = ", ".join(f"{height} x {width}" for height, width in fixed)
        lines.append(f"- Padded to the least of {sizes} and cropped back; no larger.")
    lines.append(f"- Makes {', '.join(f'`{name}`' for name in facts['outputs'])}.")
    lines.append(f"- Runs on {', '.join(facts['platforms'])}.")
    return "\n".join(lines)


def training(facts: Mapping[str, Any]) -> str:
    """On what, how long, under which licence."""
    told = facts["training"]
    licence = facts["licence"] or "not stated; ask before you pass it on"
    data = f"`{told['data']}`" + (
        ", synthetic images" if told["data"] == "phantom" else ""
    )
    return (
        f"{told['steps']} steps on {data} ({told['kind']}), {told['minutes']:.0f} min on "
        f"{told['device']}. Licence of weights and data: {licence}."
    )


def scores(facts: Mapping[str, Any]) -> str:
    """PSNR and SSIM in the hole, beside the classical fills of the same masks."""
    told = facts["scores"]
    if "rows" not in told:
        return f"None: {told['why_not']}."
    rows = [row for row in told["rows"] if row["region"] == "hole"]
    rows = [row for row in rows if row["metric"] in SHOWN and row["value"] is not None]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        f"{told['cases']} test images of `{told['dataset']}`, in the hole, on the "
        f"written files. Mask manifest {told['mask_manifest'][:12]}; the rest of the "
        "scores is in model.json.",
        "",
    ]
    bins = list(dict.fromkeys(row["bin"] for row in rows))
    return "\n".join([*lines, *_table(rows, methods, bins)])


def _table(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], bins: Sequence[str]
) -> list[str]:
    columns = [(label, metric) for label in bins for metric in SHOWN]
    names = [f"{label} {metric.upper()}" for label, metric in columns]
    lines = [
        f"| method | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    values = {(row["method"], row["bin"], row["metric"]): row["value"] for row in rows}
    for method in methods:
        cells = []
        for label, metric in columns:
            value = values.get((method, label, metric))
            digits = 2 if metric == "psnr" else 4
            cells.append("" if value is None else f"{value:.{digits}f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines
