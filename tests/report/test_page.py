import html.parser
import json
import math
import re

import numpy as np
import pytest

from jaxinpaint.report import page, panels, paper_tables, plots, scores

HOLES = {"32x32": 32, "64x64": 64, "128x128": 128}
METHODS = {
    "ccpgan": 3.0,
    "constant": -8.0,
    "copy_neighbor": 0.0,
    "mean_neighbors": 0.5,
    "telea": -2.0,
    "navier_stokes": -2.5,
}
HOSTILE = '<script>alert("x")</script> & $section$'


def fake_rows(holes=None):
    """Scores by a formula: better methods higher, larger holes lower."""
    rows = []
    for method, gain in METHODS.items():
        for index, name in enumerate(holes or HOLES):
            for region in ("hole", "image"):
                base = 20.0 + gain - 0.8 * index + (region == "image") * 18.0
                value = {
                    "psnr": base,
                    "ssim": 1 / (1 + math.exp(-base / 8)),
                    "mae": 255 / base,
                }
                if region == "image":
                    for power, more in enumerate(("ssim_eq7", "ms_ssim", "fsimc"), 2):
                        value[more] = value["ssim"] ** power
                for metric, number in value.items():
                    rows.append(
                        {
                            "method": method,
                            "dataset": "sections phantom",
                            "bin": name,
                            "region": region,
                            "metric": metric,
                            "value": number,
                            "sd": number / 37,
                            "n": 24,
                        }
                    )
    return rows


def fake_manifest(holes=None, size=512):
    masks = [
        {
            "label": label,
            "index": 0,
            "height": size,
            "width": size,
            "hole_pixels": round(side * side * size**2 / 512**2),
            "ratio": side * side / 512**2,
            "sha256": "00",
        }
        for label, side in (holes or HOLES).items()
    ]
    return {"seed": 7, "sha256": "1f0c9a", "masks": masks}


def fake_run():
    return {
        "system": "ccpgan",
        "dataset": "sections phantom",
        "data": "phantom",
        "minutes": 4.2,
        "steps": 600,
        "device": "cpu, 2 cores",
        "preset": "demo",
        "mask_manifest": "seed 7, sha256 1f0c9a",
    }


def fake_panel(name, hole, size=128, channels=3):
    y, x = np.mgrid[:size, :size]
    waves = 128 + 60 * np.sin(x / 9 + np.cos(y / 13) * 2) + 40 * np.cos(y / 7)
    tints = np.float32([1.0, 0.72, 0.92])[:channels]
    truth = np.clip(waves[..., None] * tints, 0, 255).astype(np.uint8)
    mask = np.zeros((size, size, 1), np.uint8)
    top = (size - hole) // 3
    mask[top : top + hole, top + 9 : top + 9 + hole] = 1
    fills = {
        "completed": np.clip(truth.astype(int) + 6 * ((x + y) % 3)[..., None], 0, 255),
        "copy_neighbor": np.roll(truth, 3, 1),
        "mean_neighbors": np.roll(truth, 2, 0) // 2 + np.roll(truth, -2, 0) // 2,
        "telea": np.full_like(truth, 150),
        "navier_stokes": np.full_like(truth, 120),
        "constant": np.full_like(truth, truth.mean(axis=(0, 1)).astype(np.uint8)),
    }
    images = {"truth": truth, "masked": truth * (1 - mask)}
    images["neighbor"] = np.roll(truth, 3, 1)
    for key, fill in fills.items():
        images[key] = np.where(mask, fill, truth).astype(np.uint8)
    return panels.Panel(name, f"{hole}x{hole}", "median PSNR", 21.3456, images, mask)


def fake_curves(count=60):
    return [
        {
            "step": 10 * i,
            "loss/generator": 1.5 * math.exp(-i / 20) + 0.05 * math.sin(i),
            "loss/critic": -0.4 + 0.3 * math.cos(i / 5),
            **({"eval/psnr": 18 + 4 * (1 - math.exp(-i / 25))} if i % 6 == 0 else {}),
        }
        for i in range(count)
    ]


def write(path, **changes):
    arguments = {
        "title": "CCPGAN on the sections phantom",
        "results": {"rows": fake_rows(), "run": fake_run()},
        "paper_rows": paper_tables.rows("ccpgan"),
        "panels": [fake_panel(HOSTILE, 32)],
        "curves": fake_curves(),
        "manifest": fake_manifest(),
        "config": {"system": "ccpgan", "batch_size": 8, "tag": HOSTILE},
        "environment": {"jax": "0.10.2", "device": "cpu"},
        "notes": ["Fake numbers, by a formula."],
    } | changes
    page.write_page(path, **arguments)
    return path.read_text(encoding="utf-8")


LIGHT = {"panels": [], "curves": [], "paper_rows": []}


class Reader(html.parser.HTMLParser):
    """Collects text and attributes, and insists that tags are closed in order."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.tables = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "new" / "report.html")


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_it_parses_with_every_tag_closed(read):
    assert read.tags.count("html") == read.tags.count("body") == 1
    ids = [value for _, key, value in read.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = [v for _, k, v in read.attributes if k == "href" and v.startswith("#")]
    assert len(links) > 8 and set(link[1:] for link in links) <= set(ids)


def test_it_asks_no_server_for_anything(text, read):
    loading = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
    found = [value for _, key, value in read.attributes if key in loading]
    assert found and all(value.startswith(("data:", "#")) for value in found)
    assert "@import" not in text and not re.search(r"url\((?!#|\"?#)", text)
    assert not {"link", "script", "iframe", "object", "embed"} & set(read.tags)
    allowed = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<\s)]*", text)) <= allowed


def test_hostile_names_are_text(text, read):
    assert "<script" not in text
    assert HOSTILE in "".join(read.text)


def test_hostile_bin_in_a_plot_is_text(tmp_path):
    rows = fake_rows([HOSTILE, "64x64"])
    results = {"rows": rows, "run": fake_run()}
    manifest = fake_manifest({HOSTILE: 32})
    got = write(tmp_path / "r.html", results=results, panels=[], manifest=manifest)
    assert "<script" not in got
    Reader(got)


def table_index(row):
    """The tables come by metric, in the hole before the whole image."""
    there = {(r["metric"], r["region"]) for r in fake_rows()}
    order = [(m, r) for m in scores.METRICS for r in ("hole", "image")]
    return [place for place in order if place in there].index(
        (row["metric"], row["region"])
    )


def test_every_measured_number_stands_at_its_place(read):
    decimals = {"psnr": 2, "mae": 3}
    for row in fake_rows():
        places = decimals.get(row["metric"], 4)
        value = f"{row['value']:.{places}f}"
        sd = f"± {row['sd']:.{places}f}"
        table = read.tables[table_index(row)]
        column = 1 + list(HOLES).index(row["bin"])
        (line,) = [line for line in table if line[0] == row["method"]]
        assert line[column] == value + sd


def test_the_paper_stands_beside_as_printed(read):
    table = read.tables[1]  # PSNR, whole image
    assert ["paper, N7 n 164", "41.9384± 1.7050", "35.7344± 1.3770"] == [
        line[:3] for line in table if line[0].startswith("paper, N7")
    ][0]
    text = "".join(read.text)
    assert "The data differ" in text and "not best everywhere" in text
    cells = [cell for table in read.tables for line in table for cell in line]
    for row in paper_tables.rows("ccpgan"):
        assert f"{row['value']:.4f}± {row['sd']:.4f}" in cells


def test_paper_rows_among_the_results_are_not_methods(tmp_path, read):
    rows = fake_rows() + paper_tables.rows("ccpgan")
    results = {"rows": rows, "run": fake_run()}
    got = Reader(write(tmp_path / "r.html", results=results, panels=[]))
    assert got.tables == read.tables


def test_no_line_of_the_paper_where_no_bin_has_its_name(tmp_path):
    results = {"rows": fake_rows(["8x8", "16x16"]), "run": fake_run()}
    got = Reader(write(tmp_path / "r.html", results=results, panels=[]))
    assert not [t for t in got.tables if any("paper, N7" in "".join(r) for r in t)]
    assert "41.9384± 1.7050" in [c for t in got.tables for r in t for c in r]


def test_the_header_says_what_was_run(read):
    text = " ".join(read.text)
    assert "Phantom: synthetic data" in text
    assert "4.2 minutes, 600 steps" in text and "cpu, 2 cores" in text
    assert "Trained for minutes" in text


def test_warnings_fold_their_places(tmp_path):
    rows = fake_rows()
    for row in rows:
        if row["method"] == "ccpgan" and row["metric"] != "mae":
            row["value"] -= 100.0
    results = {"rows": rows, "run": fake_run()}
    got = write(tmp_path / "r.html", results=results, **LIGHT)
    warned = re.findall(r"<summary><strong>Warning.</strong> ([^<]*)</summary>", got)
    assert warned == [  # 3 bins, PSNR and SSIM in two regions, three in the image
        f"ccpgan is below {name} in 21 of 27 scores."
        for name in ("constant", "copy_neighbor", "mean_neighbors")
        + ("telea", "navier_stokes")
    ]
    places = Reader(got).text
    assert places.count("MS-SSIM whole image: 32x32, 64x64, 128x128") == 5


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        (0.0961, "5.77 seconds, 600 steps"),
        (3.5, "3.5 minutes, 600 steps"),
        (125, "2.08 hours, 600 steps"),
        (5760, "4 days, 600 steps"),
        (None, "not here, 600 steps"),
    ],
)
def test_training_time_has_a_sensible_unit(tmp_path, minutes, said):
    results = {"rows": fake_rows(), "run": fake_run() | {"minutes": minutes}}
    got = Reader(write(tmp_path / "r.html", results=results, **LIGHT)).text
    assert said in got


def test_digests_are_short_above_and_whole_below(tmp_path):
    digest = "0123456789abcdef" * 4
    run = fake_run() | {"weights": digest, "mask_manifest": digest}
    results = {"rows": fake_rows(), "run": run}
    got = Reader(write(tmp_path / "r.html", results=results, **LIGHT)).text
    assert got.count("0123456789ab…") == 2
    assert sum(digest in text for text in got) >= 2


def test_real_and_long_runs_carry_no_phantom_badge(tmp_path):
    run = fake_run() | {"data": "real", "dataset": "CREMI A", "minutes": 600}
    results = {"rows": fake_rows(), "run": run}
    path = tmp_path / "r.html"
    got = " ".join(Reader(write(path, results=results, **LIGHT)).text)
    assert "Phantom" not in got and "Trained for minutes" not in got
    assert "CREMI A, real" in got and "10 hours" in got


def test_below_no_baseline(text, read):
    assert scores.below(fake_rows(), "ccpgan") == {}
    assert " is below copy_neighbor" not in text and "Warning." not in text
    line = "ccpgan is below no baseline in the 135 comparisons"  # 5 x 3 x 9
    assert line in "".join(read.text)


@pytest.mark.parametrize(
    ("metric", "shift", "said"),
    [
        ("psnr", -3.01, True),
        ("psnr", -2.99, False),
        ("mae", +1.70, True),  # 255/20 - 255/23 = 1.663: above it is worse
        ("mae", +1.60, False),
    ],
)
def test_below_a_baseline_is_said_exactly_when_true(tmp_path, metric, shift, said):
    rows = [
        row
        for row in fake_rows()
        if row["method"] != "mean_neighbors" and row["metric"] in ("psnr", "mae")
    ]
    for row in rows:
        place = row["method"], row["metric"], row["region"], row["bin"]
        if place == ("ccpgan", metric, "hole", "32x32"):
            row["value"] += shift
    path = tmp_path / "r.html"
    results = {"rows": rows, "run": fake_run()}
    read = Reader(write(path, results=results, **LIGHT))
    got = " ".join(read.text)
    label = scores.METRICS[metric].label
    assert ("below copy_neighbor in 1 of 12 scores." in got) == said
    assert (f"{label} in the hole: 32x32" in read.text) == said
    assert ("Warning." in got) == said
    assert ("is below no baseline" in got) != said
    assert "below telea" not in got


def test_an_equal_score_is_not_below():
    rows = [row | {"value": 1.0} for row in fake_rows()]
    assert scores.below(rows, "ccpgan") == {}


def test_a_score_that_is_no_number_is_below():
    rows = fake_rows()
    assert rows[2]["metric"] == "mae"  # where the best possible number is 0
    rows[2]["value"] = math.nan
    assert set(scores.below(rows, "ccpgan")) == set(METHODS) - {"ccpgan"}


def test_no_baseline_is_said(tmp_path):
    rows = [row for row in fake_rows() if row["method"] == "ccpgan"]
    results = {"rows": rows, "run": fake_run()}
    got = write(tmp_path / "r.html", results=results, **LIGHT)
    assert "No baseline was scored beside ccpgan" in got


def test_the_best_of_a_column_is_marked_by_its_direction(text):
    cells = re.findall(r'<td class="best"><b>([^<]*)</b>', text)
    measured = [r for r in fake_rows() if r["method"] == "ccpgan"]
    want = sorted(scores.format_score(r["metric"], r["value"]) for r in measured)
    assert sorted(cells[: len(want)]) == want


def test_infinite_scores_are_noted(tmp_path):
    rows = fake_rows()
    rows[0] |= {"infinite": 3, "n": 21}
    whole = next(r for r in rows if r["method"] == "telea" and r["metric"] == "psnr")
    whole |= {"value": math.nan, "sd": None, "infinite": 20, "undefined": 4, "n": 0}
    results = {"rows": rows, "run": fake_run()}
    got = Reader(write(tmp_path / "r.html", results=results, **LIGHT))
    table = got.tables[0]
    lines = {line[0]: line for line in table}
    assert lines["ccpgan"][1] == "23.00± 0.62+ 3 ∞, n 21"
    assert lines["telea"][1] == "∞± –+ 20 ∞, 4 undefined, n 0"
    assert lines["n"][1:] == ["24", "24", "24"]


def test_marks_stand_in_their_cells_with_a_legend(tmp_path, text):
    rows = [row for row in fake_rows() if row["metric"] == "psnr"]
    for row in rows:
        if row["method"] != "ccpgan":
            row |= {"p": 0.5, "mark": "", "left_out": 0}
    for row in rows[6:8]:  # the first after the system's: constant, 32x32
        assert (row["method"], row["bin"]) == ("constant", "32x32")
    rows[6] |= {"p": 0.003, "mark": "*"}
    rows[7] |= {"p": 0.03, "mark": "#"}
    results = {"rows": rows, "run": fake_run()}
    got = write(tmp_path / "r.html", results=results, **LIGHT)
    hole, whole = Reader(got).tables
    lines = [{line[0]: line for line in table} for table in (hole, whole)]
    assert lines[0]["constant"][1:3] == ["12.00*± 0.32", "11.20± 0.30"]
    assert lines[1]["constant"][1] == "30.00#± 0.81"
    assert got.count("<sup>") == 2
    legend = "* stands for p < 0.01 and # for p < 0.05"
    assert legend in "".join(Reader(got).text)
    assert legend not in "".join(Reader(text).text) and "<sup>" not in text


def test_a_score_of_a_set_has_no_deviation(tmp_path):
    rows = [
        row | {"metric": "fid", "sd": None, "region": "image"}
        for row in fake_rows()
        if (row["metric"], row["region"]) == ("psnr", "image")
    ]
    printed = {"method": "paper", "dataset": "CREMI A", "bin": "32x32", "n": 100}
    printed |= {"region": "image", "metric": "fid", "value": 1.989, "sd": None}
    results = {"rows": rows, "run": fake_run()}
    changes = LIGHT | {"results": results, "paper_rows": [printed]}
    table = Reader(write(tmp_path / "r.html", **changes)).tables[0]
    lines = {line[0]: line for line in table}
    assert lines["ccpgan"][1] == "41.000"
    assert lines["paper, CREMI A n 100"][1] == "1.989"
    assert scores.below(rows, "constant") == {}  # the least is the best


def flow_page(tmp_path, **changes):
    """A report of FlowInpaint with all of its printed tables."""
    rows = []
    for shift, method in enumerate(("flowinpaint", "reference", "no GAN")):
        for index, name in enumerate(("10%", "30%", "77%")):
            value = {"psnr": 30.0 - index - shift, "ssim_51": 0.9, "fid": 7.5 + shift}
            kept = {"method": method, "dataset": "mine", "bin": name, "n": 40}
            kept |= {"region": "image", "sd": 1.0}
            rows += [kept | {"metric": m, "value": v} for m, v in value.items()]
    compared = {"no GAN": {"system": "flowinpaint", "steps": 900}}
    run = fake_run() | {"system": "flowinpaint", "compared": compared}
    results = {"rows": rows, "run": run}
    paper = {"paper_rows": paper_tables.rows("flowinpaint"), "results": results}
    return write(tmp_path / "r.html", **(LIGHT | paper | changes))


def test_the_papers_tables_hold_ours_by_hole_ratio(tmp_path):
    text = flow_page(tmp_path)
    read = Reader(text)
    said = "".join(read.text)
    grids = [table for table in read.tables if table[0][:2] == ["Method", "Data"]]
    assert len(grids) == 4
    for title in ("Table 1", "Table 2", "Table 3", "Table S3"):
        assert f"<summary>{title}</summary>" in text
    head, metrics = grids[0][:2]
    assert head[2:] == ["10%", "30%", "50%"]
    arrows = ["PSNR\xa0↑", "SSIM, 51 x 51\xa0↑", "FSIM\xa0↑", "FID\xa0↓"]
    assert metrics == arrows * 3
    lines = {(line[0], line[1]): line[2:] for line in grids[0][2:]}
    none = ["–"] * 4  # there are no masks of 50 % here, and no FSIM
    mine = ["30.00", "0.9000", "–", "7.500", "29.00", "0.9000", "–", "7.500", *none]
    assert lines["flowinpaint", "minen 40"] == mine
    assert lines["no GAN", "minen 40"][4] == "27.00"
    assert list(lines)[:3] == [
        (name, "minen 40") for name in ("flowinpaint", "reference", "no GAN")
    ]
    printed = lines["the paper's system", "CREMI Bn 100"]
    assert printed[4:8] == ["30.753", "0.910", "0.949", "11.656"]
    assert ("SSF-Restoration", "CREMI An 100") in lines
    assert [line[0] for line in grids[2][2:]][3:] == [
        "FlowInpaint w/o FAL",
        "FlowInpaint w/o GAN",
        "the paper's system",
    ]
    assert len(grids[3]) == 2 + 6 and "mine" not in "".join(grids[3][2])
    assert ["the paper's system", "EPFL 5x5x50 nm", "26.762"] == grids[3][5][:3]
    assert "no smaller one gives its numbers" in said
    assert "another run of flowinpaint, 900 steps" in said
    assert "the flow interpolation of both neighbours" not in said  # has no row


def test_the_paper_stands_below_ours_metric_by_metric_too(tmp_path):
    tables = Reader(flow_page(tmp_path)).tables
    lines = {line[0]: line[1:] for line in tables[0]}
    assert lines["paper, CREMI A n 100"] == ["36.132", "31.091", "–"]
    assert lines["paper, CREMI A+B+C mean n 300"] == ["35.936", "30.866", "–"]


def test_the_best_printed_number_is_that_of_its_table_and_data(tmp_path):
    text = flow_page(tmp_path)
    body = text[text.index("<summary>Table 2") : text.index("<summary>Table 3")]
    printed = body[body.index('<tbody class="printed">') :]
    best = re.findall(r'<td class="best"><b>([^<]*)</b>', printed)
    # FlowInpaint all over, and GuidedGAN at its 10 % PSNR, which is the same.
    assert best.count("35.936") == 2 and len(best) == 13
    assert '<td class="best">' not in body[: body.index('<tbody class="printed">')]


def test_scores_of_other_weights_do_not_stand_beside_the_papers(tmp_path):
    rows = [
        {"method": "flowinpaint", "dataset": "mine", "bin": "10%", "n": 40, "sd": None}
        | {"region": "image", "metric": metric, "value": 6.25, "weights": weights}
        for metric, weights in (("fid", "random:0"), ("psnr", None))
    ]
    run = fake_run() | {"system": "flowinpaint"}
    text = flow_page(tmp_path, results={"rows": rows, "run": run})
    grid = [t for t in Reader(text).tables if t[0][:2] == ["Method", "Data"]][0]
    assert grid[2][2:6] == ["6.25", "–", "–", "–"]


@pytest.mark.parametrize(
    ("system", "bins", "ours", "printed"),
    [
        (
            "rnon",
            ("25-40%", "50-60%"),
            ["–", "–", "30.00", "0.9000", "–", "–", "29.00", "0.9000"],
            {
                ("the paper's system", "Places2"): ["28.31", "0.9254", "24.46"],
                ("PConv", "CelebA"): ["28.20", "0.9253", "23.94"],
            },
        ),
        (
            "ipa_medgan",
            ("64x64", "1.66-4.56%"),
            ["30.00", "0.9000", "–", "–", "29.00", "0.9000", "–", "–"],
            {
                ("CE", "FLAIR brain MRn 1072"): ["23.79", "0.8556", "0.8006"]
                + ["281.59", *["–"] * 4],
                ("the paper's system", "FLAIR brain MRn 1072"): ["30.62", "0.9606"]
                + ["0.9620", "65.81", "35.12", "0.9818", "0.9889", "24.90"],
            },
        ),
    ],
)
def test_tables_of_pictures_stand_beside_ours(tmp_path, system, bins, ours, printed):
    rows = []
    for method in (system, "raw whole"):
        for index, name in enumerate(bins):
            kept = {"method": method, "dataset": "mine", "bin": name, "n": 40}
            kept |= {"region": "image", "sd": 1.0}
            value = {"psnr": 30.0 - index, "ssim": 0.9}
            rows += [kept | {"metric": m, "value": v} for m, v in value.items()]
    run = fake_run() | {"system": system, "kind": "photographs"}
    run["changed_by_whole_outputs"] = {"raw whole": 12}
    paper = {"paper_rows": paper_tables.rows(system)}
    results = {"rows": rows, "run": run}
    read = Reader(write(tmp_path / "r.html", **LIGHT | paper | {"results": results}))
    (grid,) = [t for t in read.tables if t[0][:2] == ["Method", "Data"]]
    lines = {(line[0], line[1]): line[2:] for line in grid[2:]}
    assert lines[system, "minen 40"] == ours
    assert lines["raw whole not composited", "minen 40"] == ours
    for place, want in printed.items():
        assert lines[place][: len(want)] == want
    count = sum(cell != "–" for place in lines for cell in lines[place])
    assert count == len(paper["paper_rows"]) + 2 * 4
    said = "".join(read.text)
    assert "compare with 'raw whole'" in " ".join(said.split())
    assert "synthetic data, no photographs" in said and "over n images" in said


@pytest.mark.parametrize(("dtype", "beside"), [("uint8", True), ("uint16", False)])
def test_levels_of_16_bits_stand_beside_no_number_of_8(tmp_path, dtype, beside):
    kept = {"method": "ipa_medgan", "dataset": "mine", "bin": "64x64", "n": 40}
    kept |= {"region": "image", "sd": 1.0}
    value = {"psnr": 31.25, "uqi": 0.5, "mse": 77.5}
    rows = [kept | {"metric": m, "value": v} for m, v in value.items()]
    run = fake_run() | {"system": "ipa_medgan", "dtype": dtype}
    paper = {"paper_rows": paper_tables.rows("ipa_medgan")}
    results = {"rows": rows, "run": run}
    read = Reader(write(tmp_path / "r.html", **LIGHT | paper | {"results": results}))
    (grid,) = [t for t in read.tables if t[0][:2] == ["Method", "Data"]]
    ours = ["31.25", "–", "0.5000", "77.50"] if beside else ["31.25", "–", "–", "–"]
    assert grid[2][2:6] == ours
    printed = [any("paper, FLAIR" in line[0] for line in t) for t in read.tables[:3]]
    assert printed == [True, beside, beside]  # PSNR, UQI, MSE
    assert "77.50± 1.00" in [c for line in read.tables[2] for c in line]


def test_a_kind_without_words_is_refused(tmp_path):
    results = {"rows": fake_rows(), "run": fake_run() | {"kind": "films"}}
    with pytest.raises(ValueError, match=r"run\['kind'\] is 'films'; known are"):
        write(tmp_path / "r.html", results=results)


def test_colours_that_come_again_have_another_marker():
    marks = [(i % len(plots.COLOURS), plots.mark_of(i)) for i in range(64)]
    assert len(set(marks)) == 64 and marks[3] == (3, 3)


def test_the_flow_has_a_legend(tmp_path):
    panel = fake_panel("section 4", 32)
    flow = np.zeros((128, 128, 2), np.float32)
    flow[..., 0] = -2.75
    few = {"panels": [panel._replace(flow=flow), fake_panel("section 5", 32)]}
    text = flow_page(tmp_path, **few)
    assert 'alt="colour wheel of the flow, 3 pixels at its rim"' in text
    assert "the longest shown has 2.75." in text
    assert text.count('alt="flow, whole frame"') == 1
    without = flow_page(tmp_path, panels=few["panels"][1:])
    assert "colour wheel" not in without and 'alt="flow,' not in without


@pytest.mark.parametrize("metric", ["uqi", "ssim_51", "mse", "lpips", "lpips_vgg"])
def test_further_scores_are_known(tmp_path, metric):
    rows = [row | {"metric": metric} for row in fake_rows() if row["metric"] == "psnr"]
    results = {"rows": rows, "run": fake_run()}
    got = Reader(write(tmp_path / "r.html", results=results, **LIGHT))
    label = scores.METRICS[metric].label
    assert f"{label} in the hole, sections phantom" in got.text
    lower = metric in ("mse", "lpips", "lpips_vgg")
    assert ("↓ lower is better" in got.text) == lower


def test_the_manifest_names_hole_ratios_and_sizes(tmp_path, text, read):
    assert read.tables[0][0] == ["Method", "32x320.391 %", "64x641.56 %"] + [
        "128x1286.25 %"
    ]
    assert "A mask's name is its size" not in "".join(read.text)
    path = tmp_path / "r.html"
    got = Reader(write(path, manifest=fake_manifest(size=128), panels=[]))
    line = "128 x 128 pixels and the hole of 32x32 has 64:"  # 32 * 32 / 16
    assert line in "".join(got.text)
    assert got.tables[0][0] == read.tables[0][0]


def test_changed_valid_pixels_are_said(tmp_path):
    panel = fake_panel("section 4", 32)
    rows = [row for row in fake_rows(["32x32"]) if row["metric"] == "psnr"]
    few = LIGHT | {"results": {"rows": rows, "run": fake_run()}, "panels": [panel]}
    assert "0 valid pixels changed" in write(tmp_path / "a.html", **few)
    panel.images["completed"][0, :5] ^= 1
    got = write(tmp_path / "b.html", **few)
    assert "5 valid pixels changed" in got


def test_records_are_whole(read):
    text = "".join(read.text)
    assert json.dumps({"jax": "0.10.2", "device": "cpu"}, indent=2) in text
    assert '"sha256": "1f0c9a"' in text and '"batch_size": 8' in text


def test_the_same_input_writes_the_same_bytes(tmp_path, text):
    assert write(tmp_path / "again.html") == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["run"].pop("device"), "has no \\['device'\\]"),
        (lambda r: r["run"].update(data="kidney"), "'phantom' or 'real'"),
        (lambda r: r["run"].update(system="rnon"), "run\\['system'\\] is 'rnon'"),
        (lambda r: r["rows"][0].pop("n"), "one has no \\['n'\\]"),
        (lambda r: r["rows"][0].update(metric="beauty"), "metric 'beauty' is unknown"),
        (lambda r: r["rows"][0].update(region="edge"), "region 'edge' is unknown"),
        (lambda r: r["rows"].append(r["rows"][0]), "given twice"),
    ],
)
def test_wrong_results_are_refused(tmp_path, change, message):
    results = {"rows": fake_rows(), "run": fake_run()}
    change(results)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "r.html", results=results)
    assert not (tmp_path / "r.html").exists()
