import builtins
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxinpaint.report import plots

SVG = "http://www.w3.org/2000/svg"
RECORDS = [
    {"step": 0, "loss/generator": 4.0, "loss/critic": -1.0, "note": "x"},
    {"step": 10, "loss/generator": 2.0, "eval/psnr": 20.0, "speed/images": None},
    {"step": 20, "loss/generator": float("nan"), "eval/psnr": 22.0},
]


def points(svg, colour):
    """Markers of a colour in SVG pixels, y downwards."""
    root = ElementTree.fromstring(svg)
    found = [
        (float(use.get("x")), float(use.get("y")))
        for use in root.iter(f"{{{SVG}}}use")
        if f"fill: {colour}" in use.get("style", "")
    ]
    return np.array(found)


def test_one_curve_a_scalar_eval_first():
    got = plots.training_curves(RECORDS)
    assert list(got) == ["eval/psnr", "loss/critic", "loss/generator"]
    assert plots.training_curves([]) == {}


def test_points_stand_where_they_were_logged():
    got = plots.training_curves(
        [{"step": s, "a/b": v} for s, v in ((0, 1.0), (30, 3.0), (40, 2.0))]
    )["a/b"]
    at = points(got, f"var(--series-0, {plots.COLOURS[0]})")
    assert at.shape == (3, 2)
    (x0, y0), (x1, y1), (x2, y2) = at
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.75, abs=1e-3)
    assert (y0 - y2) / (y0 - y1) == pytest.approx(0.5, abs=1e-3)  # up is smaller y


def test_a_nan_leaves_a_gap():
    svg = plots.training_curves(RECORDS)["loss/generator"]
    assert len(points(svg, f"var(--series-0, {plots.COLOURS[0]})")) == 2


def test_a_record_needs_its_step():
    with pytest.raises(ValueError, match="record 1 has no 'step'"):
        plots.training_curves([{"step": 1}, {"loss/x": 1.0}])


def test_scores_by_hole_are_equally_spaced_and_missing_ones_left_out():
    rows = [
        {"method": "a", "bin": "s", "value": 10.0},
        {"method": "a", "bin": "m", "value": 8.0},
        {"method": "a", "bin": "l", "value": 4.0},
        {"method": "b", "bin": "s", "value": 4.0},
        {"method": "b", "bin": "l", "value": float("inf")},
    ]
    svg = plots.score_by_hole(
        rows, methods=["a", "b"], bins=["s", "m", "l"], ratios={"s": 0.0039}
    )
    first = points(svg, f"var(--series-0, {plots.COLOURS[0]})")
    second = points(svg, f"var(--series-1, {plots.COLOURS[1]})")
    assert first.shape == (3, 2) and second.shape == (1, 2)
    steps = np.diff(first[:, 0])
    assert steps[0] == pytest.approx(steps[1], abs=1e-3)
    fall = np.diff(first[:, 1])
    assert fall[1] / fall[0] == pytest.approx(2.0, abs=1e-3)
    assert second[0] == pytest.approx([first[0, 0], first[2, 1]], abs=1e-3)
    assert "0.39 %" in svg


def test_plots_take_the_ink_of_the_page():
    svg = plots.training_curves(RECORDS)["eval/psnr"]
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert "currentColor" in svg and "#010203" not in svg and "#010204" not in svg
    assert 'width="' not in svg.partition(">")[0] and "viewBox" in svg


@pytest.mark.parametrize(
    "values", [(10.4, 17.0, 23.0), (28.4, 35.0, 41.0), (-0.031, 0.1, 0.2), (0, 9, 1e4)]
)
def test_no_label_is_cut(values):
    rows = [
        {"method": "a", "bin": b, "value": v}
        for b, v in zip("sml", values, strict=True)
    ]
    svg = plots.score_by_hole(rows, methods=["a"], bins=list("sml"), ratios={"s": 0.1})
    ends = [
        (float(text.get("x")), len(text.text))
        for text in ElementTree.fromstring(svg).iter(f"{{{SVG}}}text")
        if "text-anchor: end" in text.get("style")
    ]
    assert len(ends) >= 2
    for right, letters in ends:
        assert right - letters * 9 * 0.55 > 0  # 9 px letters, about 0.55 wide


def test_two_plots_share_no_name():
    got = plots.training_curves(RECORDS)
    names = [
        {element.get("id") for element in ElementTree.fromstring(svg).iter()} - {None}
        for svg in (got["eval/psnr"], got["loss/generator"])
    ]
    assert names[0] and names[1] and not names[0] & names[1]


def test_a_missing_extra_is_named(monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(plots.importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"jaxinpaint\[report\]"):
        plots.training_curves(RECORDS)


def test_a_histogram_has_a_line_a_series_and_survives_an_empty_one():
    svg = plots.histogram({"drawn": [1.0, 2.0, 2.0], "real": [4.0], "none": []}, 3)
    assert svg.startswith("<svg") and "drawn" in svg and "real" in svg
    assert "none<" not in svg
    assert "--series-0" in svg and "--series-1" in svg and "--series-2" not in svg
    assert plots.histogram({"drawn": [], "real": []}, 3).startswith("<svg")
