"""New glomeruli on toy slides: what is written, and that nothing else changes."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import jaxinpaint
from jaxinpaint.data.mask_library import taken_library
from jaxinpaint.evaluation.synthesizing import synthesize_slides
from tests.evaluation import toy_slides as toy

SLIDES = (toy.slide("b", 1), toy.slide("a", 2), toy.slide("t", 3, split="test1"))
WRITTEN = ("images", "masks/normal", "masks/sclerosed", "provenance")


def run(output, slides=SLIDES, tools=None, config=None, **options):
    return synthesize_slides(
        config or toy.config(),
        slides,
        tools or toy.tools(),
        output,
        toy.OPTIONS._replace(**options),
    )


def pixels(path):
    return np.asarray(Image.open(path))


def manifest(output):
    return [json.loads(x) for x in (output / "manifest.jsonl").read_text().splitlines()]


def contents(output):
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "set"
    return output, run(output, rounds=2)


def test_what_is_written_is_listed(made):
    output, report = made
    names = {"a__syn5_0", "b__syn5_0", "a__syn5_1", "b__syn5_1"}
    for place in WRITTEN:
        assert {p.stem for p in (output / place).iterdir()} == names
    assert json.loads((output / "splits.json").read_text()) == {
        "train": ["a__syn5_0", "b__syn5_0", "a__syn5_1", "b__syn5_1"]
    }
    with open(output / "slides.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "id": "b__syn5_0",
        "stain": "PAS",
        "mpp": "1.0",
        "group": "patient of b",
        "split": "train",
        "synthetic": "1",
    }
    assert report["outputs"] == 4 and report["rounds"] == 2
    assert report["placements"] == len(manifest(output)) == 12
    assert json.loads((output / "report.json").read_text()) == report


def test_the_resolution_that_is_written_is_the_slides_own(tmp_path):
    slides = [toy.slide("a", 1, mpp=2.0), toy.slide("b", 2, mpp=None)]
    run(tmp_path / "set", slides=slides)
    with open(tmp_path / "set" / "slides.csv", newline="") as file:
        told = {row["id"]: row["mpp"] for row in csv.DictReader(file)}
    assert told == {"a__syn5_0": "2.0", "b__syn5_0": ""}


def test_bytes_outside_and_normal_glomeruli_are_kept(made):
    output, _ = made
    for slide in SLIDES[:2]:
        image = slide.region(0, 0, slide.height, slide.width)
        label = slide.label()
        for n in range(2):
            name = f"{slide.id}__syn5_{n}.png"
            new, fresh = (
                pixels(output / "images" / name),
                pixels(output / "provenance" / name),
            )
            assert set(np.unique(fresh)) == {0, 255}
            changed = (new != image).any(-1)
            np.testing.assert_array_equal(changed, fresh == 255)
            assert (new[fresh == 255] == toy.PAINT).all()
            normal = pixels(output / "masks/normal" / name)
            np.testing.assert_array_equal(normal, 255 * label[..., 0])
            sclerosed = pixels(output / "masks/sclerosed" / name)
            want = np.maximum(255 * label[..., 1], fresh)
            np.testing.assert_array_equal(sclerosed, want)
            assert not (label.any(-1) & (fresh == 255)).any()


def test_the_manifest_tells_where_every_pixel_comes_from(made):
    output, _ = made
    contours = toy.library()
    lines = manifest(output)
    for name in {line["output"] for line in lines}:
        own = [line for line in lines if line["output"] == name]
        fresh = np.zeros((256, 256), np.uint8)
        for k, line in enumerate(own):
            top, left = line["origin"]
            mask = contours.masks[line["contour"]]
            fresh[top : top + 64, left : left + 64] |= 255 * mask
            assert line["placement"] == k and line["area"] == mask.sum()
            assert line["centre"] == [top + 31.5, left + 31.5]
        np.testing.assert_array_equal(
            pixels(output / "provenance" / f"{name}.png"), fresh
        )
        for place, digest in own[0]["files"].items():
            data = (output / place / f"{name}.png").read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest
    first = lines[0]
    assert first["source"] == "a" and first["source_sha256"] == SLIDES[1].digest
    assert first["generator"] == {"step": 12, "digest": "abc"}
    assert first["version"] == jaxinpaint.__version__ and first["seed"] == 5
    assert first["library_digest"] == contours.digest()
    assert first["contour_source"] == f"m{first['contour']}"
    number = int(np.random.default_rng([5, 0, 0]).integers(6))  # slide a comes first
    assert first["contour"] == number and first["scale"] == 1.0


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    run(tmp_path / "again", rounds=2)
    assert contents(tmp_path / "again") == contents(made[0])
    run(tmp_path / "other", seed=6)
    one, two = manifest(tmp_path / "other"), manifest(made[0])
    assert [line["origin"] for line in one] != [line["origin"] for line in two[:6]]


def test_rounds_differ(made):
    lines = manifest(made[0])
    origins = {n: [x["origin"] for x in lines if x["round"] == n] for n in (0, 1)}
    assert origins[0] != origins[1]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(made, tmp_path, calls):
    painter, output = toy.Painter(), tmp_path / "set"

    def dying(batch):
        if len(painter.shapes) == calls:
            raise Killed
        return painter(batch)

    with pytest.raises(Killed):
        run(output, tools=toy.tools(dying), rounds=2)
    assert len(list((output / "images").iterdir())) == calls
    # A list that is empty says that nothing is to be trained on; none would say all.
    assert len(json.loads((output / "splits.json").read_text())["train"]) == calls
    after = toy.Painter()
    run(output, tools=toy.tools(after), rounds=2)
    assert len(after.shapes) == 4 - calls  # what is there is not made again
    assert contents(output) == contents(made[0])


def test_a_kill_between_files_and_manifest_leaves_nothing_wrong(
    made, tmp_path, monkeypatch
):
    from jaxinpaint.evaluation import synthetic_set

    output, write = tmp_path / "set", synthetic_set.write_image

    def dying(path, image):
        if "sclerosed" in str(path) and path.stem == "b__syn5_0":
            raise Killed
        write(path, image)

    monkeypatch.setattr(synthetic_set, "write_image", dying)
    with pytest.raises(Killed):
        run(output, rounds=2)
    assert json.loads((output / "splits.json").read_text())["train"] == ["a__syn5_0"]
    monkeypatch.undo()
    run(output, rounds=2)
    assert contents(output) == contents(made[0])


def test_more_rounds_go_on(made, tmp_path):
    run(tmp_path / "set", rounds=1)
    run(tmp_path / "set", rounds=2)
    assert contents(tmp_path / "set") == contents(made[0])
    config = toy.config()
    config.steps, config.data.threads, config.data.source = 9, 1, "elsewhere"
    run(tmp_path / "set", rounds=2, config=config)  # none of them decides a byte


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 6}, "begun with seed 5, now it is 6"),
        ({"gap": 3}, "begun with gap 2, now it is 3"),
        ({"config": ("synthesis.grid_step", 8)}, r"config.synthesis.grid_step 4, now"),
        ({"tools": {"generator": {"step": 13, "digest": "abc"}}}, "generator.step 12"),
        ({"slides": (toy.slide("a", 9), SLIDES[0])}, "slides.a.image"),
    ],
)
def test_another_run_is_refused(tmp_path, change, message):
    run(tmp_path / "set")
    before = contents(tmp_path / "set")
    change = dict(change)
    if "config" in change:
        key, value = change["config"]
        change["config"] = toy.config()
        change["config"].update_from_flattened_dict({key: value})
    if "tools" in change:
        change["tools"] = toy.tools()._replace(**change["tools"])
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "set", **change)
    assert contents(tmp_path / "set") == before


def test_a_file_that_was_changed_is_named(tmp_path):
    run(tmp_path / "set")
    path = tmp_path / "set" / "masks" / "normal" / "a__syn5_0.png"
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(path)
    with pytest.raises(ValueError, match="normal/a__syn5_0.png: is not the file"):
        run(tmp_path / "set")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no synthesised set"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_tiles_are_counted_until_there_are_enough(tmp_path):
    counted = []

    def tiles(slide, image, generated):
        counted.append(int(generated.sum()))
        assert slide.id in "ab" and image.shape == (256, 256, 3)
        assert generated.dtype == bool
        return 2

    tools = toy.tools()._replace(tiles=tiles)
    report = run(tmp_path / "set", tools=tools, rounds=None, tiles=5)
    # Two slides a round give four; the fifth tile costs a whole second round.
    assert report["tiles"] == 8 and report["outputs"] == 4 and report["rounds"] == 2
    rounds = [(line["source"], line["round"]) for line in manifest(tmp_path / "set")]
    assert set(rounds) == {("a", 0), ("b", 0), ("a", 1), ("b", 1)}
    assert all(counted)
    again = run(tmp_path / "set", tools=tools, rounds=None, tiles=5)
    assert again == report and len(counted) == 4


def test_nothing_to_be_found_ends(tmp_path):
    full = toy.slide("a")
    full = full._replace(label=lambda: np.ones((256, 256, 2), np.uint8) * [1, 0])
    with pytest.raises(ValueError, match="round 0 found no place on any of 1 slides"):
        run(tmp_path / "set", slides=[full], rounds=None, tiles=5)
    report = run(tmp_path / "other", slides=[full, SLIDES[0]], rounds=1)
    assert report["skipped"] == ["a"] and report["outputs"] == 1
    assert report["fewer"] == ["a__syn5_0: 0 of 3 glomeruli"]


@pytest.mark.parametrize("seed", range(50))
def test_no_overlap_over_fifty_seeds(tmp_path, seed):
    slide = toy.slide("a", 100 + seed, side=160, glomeruli=4)
    report = run(tmp_path / "set", slides=[slide], seed=seed)
    label, fresh = slide.label().any(-1), np.zeros((160, 160), int)
    contours = toy.library()
    for line in manifest(tmp_path / "set") if report["outputs"] else []:
        top, left = line["origin"]
        fresh[top : top + 64, left : left + 64] += contours.masks[line["contour"]]
    assert fresh.max() <= 1 and not (label & (fresh > 0)).any()
    assert report["outputs"] == 1


def test_one_program_serves_every_slide(tmp_path):
    painter = toy.Painter()
    crowded = toy.slide("c", 4, side=100, glomeruli=0)  # has room for one window
    run(tmp_path / "set", slides=[*SLIDES, crowded], tools=toy.tools(painter))
    assert set(painter.shapes) == {(3, 64, 64, 3)} and len(painter.shapes) == 3


def test_feathered_pixels_are_marked_as_generated(tmp_path):
    run(tmp_path / "set", slides=SLIDES[:1], feather=3.0)
    image = SLIDES[0].region(0, 0, 256, 256)
    new = pixels(tmp_path / "set/images/b__syn5_0.png")
    fresh = pixels(tmp_path / "set/provenance/b__syn5_0.png") == 255
    np.testing.assert_array_equal(new[~fresh], image[~fresh])
    assert not (new[fresh] == toy.PAINT).all(-1).all()


def positions(tmp_path, text):
    path = tmp_path / "positions.csv"
    path.write_text("id,x,y\n" + text)
    return path


def bare(name="a"):
    return toy.slide(name, 1, glomeruli=0)


def test_places_of_a_person(tmp_path):
    path = positions(tmp_path, "a,60,50\na,60.5,180\na,200,50\na,200,180\n")
    slides = [bare(), bare("b")]
    report = run(tmp_path / "set", slides=slides, positions=path)
    lines = manifest(tmp_path / "set")
    assert [line["origin"] for line in lines] == [
        [19, 29],
        [149, 29],
        [19, 169],
        [149, 169],
    ]
    assert report["outputs"] == 1 and not report["skipped"] + report["fewer"]
    path.write_text("id,x,y\na,61,50\n")
    with pytest.raises(ValueError, match="begun with positions"):
        run(tmp_path / "set", slides=slides, positions=path)


def test_places_that_break_a_rule(tmp_path):
    path = positions(tmp_path, "a,60,50\na,70,50\n")
    with pytest.raises(ValueError, match="position 1, x 70, y 50: .* is 10, 64 is req"):
        run(tmp_path / "one", slides=[bare()], positions=path)
    report = run(
        tmp_path / "two", slides=[bare()], positions=path, on_bad_position="skip"
    )
    assert report["placements"] == 1 and len(report["left_out"]) == 1
    assert report == run(
        tmp_path / "two", slides=[bare()], positions=path, on_bad_position="skip"
    )
    strange = positions(tmp_path, "a,60,50\nt,70,50\n")
    with pytest.raises(ValueError, match=r"\['t'\] are no training slides"):
        run(tmp_path / "three", positions=strange)


@pytest.mark.parametrize(
    "slides, message",
    [
        ([SLIDES[2]], "none of 1 slides is in the split 'train'"),
        ([toy.slide("a", synthetic=True)], "slide a is synthetic"),
        ([toy.slide("a", side=60)], "slide a is 60 x 60 .* windows of 64"),
    ],
)
def test_slides_that_nothing_is_put_on(tmp_path, slides, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "set", slides=slides)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rounds": None}, "either --rounds or --tiles"),
        ({"tiles": 3}, "either --rounds or --tiles"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"per_roi": 0}, "--per-roi is 0"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**32}, r"--seed is 4294967296; it must be below 2\^32"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "set", **options)


def test_contours_of_another_size_are_refused(tmp_path):
    maps = [("m", toy.disc(40, 9, 20, 20))]
    small = taken_library(maps, size=48, min_area=25, max_radius=20)
    with pytest.raises(ValueError, match="windows of 48 .* of 64"):
        run(tmp_path / "set", tools=toy.tools(contours=small))
