"""The card of a bundle: a head that hubs can read, and every fact in words."""

import pytest

from jaxinpaint.report.card import card, head

FACTS = {
    "system": "flowinpaint",
    "stage": "refine",
    "licence": "",
    "image": {"layout": "[B, H, W, C] float32", "channels": 1},
    "inputs": [
        {"name": "image", "channels": 1, "is": "the damaged image"},
        {"name": "previous", "channels": 1, "is": "the section before"},
        {"name": "mask", "channels": 1, "is": "1 = hole"},
    ],
    "mask": {"polarity": "1 = hole, 0 = valid", "required": True},
    "outputs": {"completed": {"channels": 1}, "flow": {"channels": 2}},
    "stride": {"multiple": 64, "least": 64},
    "symbolic_sizes": {"lowered": False, "why_not": "x"},
    "programs": [{"height": 64, "width": 64}, {"height": 128, "width": 64}],
    "platforms": ["cpu", "tpu"],
    "training": {
        "data": "stack.tif",
        "kind": "sections",
        "steps": 7,
        "minutes": 2.6,
        "device": "8 x tpu",
    },
    "scores": {"why_not": "not scored"},
}


@pytest.mark.parametrize(
    ("licence", "lines"),
    [
        ("", ["license: unknown"]),
        ("CC-BY-4.0", ["license: cc-by-4.0"]),
        ('ours: "ask"', ["license: other", 'license_name: "ours: \\"ask\\""']),
        ("a\nb: c", ["license: other", 'license_name: "a\\nb: c"']),
    ],
)
def test_the_head_names_the_licence(licence, lines):
    found = head({**FACTS, "licence": licence}).splitlines()
    assert found[0] == found[-1] == "---"
    assert found[1 : 1 + len(lines)] == lines
    assert "pipeline_tag: image-to-image" in found and "library_name: flax" in found
    assert "- flowinpaint" in found


def test_every_fact_in_words():
    text = card(FACTS)
    assert text.startswith("---\n") and "\n# flowinpaint, stage refine\n" in text
    assert "jaxinpaint.fill(bundle, image, mask, previous=previous)" in text
    assert "the least of 64 x 64, 128 x 64 and cropped back; no larger" in text
    assert "7 steps on `stack.tif` (sections), 3 min on 8 x tpu." in text
    assert "Licence of weights and data: not stated" in text
    assert "None: not scored." in text
    assert "Every restored pixel is an invention" in text


def test_any_size_and_no_mask():
    free = {
        **FACTS,
        "symbolic_sizes": {"lowered": True, "why_not": ""},
        "mask": {"polarity": "1 = hole", "required": False},
        "training": {**FACTS["training"], "data": "phantom"},
    }
    text = card(free)
    assert "Any height and width; padded to multiples of 64, at least 64" in text
    assert "optional: without one all is restored" in text
    assert "`phantom`, synthetic images" in text
