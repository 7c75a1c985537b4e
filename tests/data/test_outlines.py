import json

import numpy as np
import pytest

from jaxinpaint.data.outlines import draw_polygon, outline_label, read_outlines


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(name, coordinates, kind="Polygon"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"classification": {"name": name}} if name else {},
    }


def write(tmp_path, features, bare=False):
    path = tmp_path / "a.geojson"
    whole = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(features if bare else whole))
    return path


def is_inside(rings, x, y):
    """Even-odd by the angle that each ring turns about a point."""
    inside = False
    for ring in rings:
        ring = np.array(ring) - (x, y)
        angle = np.arctan2(ring[:, 1], ring[:, 0])
        step = np.diff(np.append(angle, angle[0]))
        turns = round(((step + np.pi) % (2 * np.pi) - np.pi).sum() / (2 * np.pi))
        inside ^= bool(turns % 2)
    return inside


def test_a_pixel_belongs_when_its_centre_is_inside(tmp_path):
    path = write(tmp_path, [feature("Normal", [square(1, 2, 4, 3)])])
    want = np.zeros((5, 6, 2), np.uint8)
    want[2, 1:4, 0] = 1
    np.testing.assert_array_equal(outline_label(path, 5, 6, 1.0), want)
    # By half a pixel less a little, and more.
    for shift, columns in ((0.49, slice(1, 4)), (0.51, slice(2, 5))):
        moved = write(tmp_path, [feature("NG", [square(1 + shift, 2, 4 + shift, 3)])])
        want[...] = 0
        want[2, columns, 0] = 1
        np.testing.assert_array_equal(outline_label(moved, 5, 6, 1.0), want)


def test_coordinates_are_divided_by_the_downsample(tmp_path):
    path = write(tmp_path, [feature("GS", [square(2, 4, 8, 6)])], bare=True)
    want = np.zeros((5, 6, 2), np.uint8)
    want[2, 1:4, 1] = 1
    np.testing.assert_array_equal(outline_label(path, 5, 6, 2.0), want)


def test_inner_rings_are_holes_and_polygons_of_one_feature_join(tmp_path):
    ring = [square(0, 0, 6, 6), square(2, 2, 4, 4)]
    path = write(
        tmp_path,
        [feature("sclerotic", [ring, [square(3, 3, 5, 5)]], kind="MultiPolygon")],
    )
    want = np.ones((6, 6), np.uint8)
    want[2:4, 2:4] = 0
    want[3, 3] = 1  # of the second polygon
    label = outline_label(path, 6, 6, 1.0)
    np.testing.assert_array_equal(label[..., 1], want)
    assert not label[..., 0].any()


@pytest.mark.parametrize("seed", range(5))
def test_uneven_and_crossing_polygons_are_those_of_the_winding(seed):
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-5, 25, (count, 2)) for count in (3, 7, 12)]
    mask = np.zeros((18, 21), np.uint8)
    draw_polygon(mask, rings)
    want = [[is_inside(rings, x + 0.5, y + 0.5) for x in range(21)] for y in range(18)]
    np.testing.assert_array_equal(mask.astype(bool), want)
    assert 0 < mask.mean() < 1


def test_neighbours_that_share_an_edge_share_no_pixel():
    """The edge runs through pixel centres."""
    left, right = np.zeros((2, 8, 8), np.uint8)
    draw_polygon(left, [np.array([(0, 0), (4.5, 0), (2.5, 8), (0, 8.0)])])
    draw_polygon(right, [np.array([(4.5, 0), (8, 0), (8, 8), (2.5, 8.0)])])
    np.testing.assert_array_equal(left + right, 1)


def test_what_lies_outside_the_image_is_cut(tmp_path):
    path = write(
        tmp_path,
        [
            feature("normal", [square(-9, -9, 2, 2)]),
            feature("normal", [square(50, 50, 60, 60)]),
            feature("sclerosed", [square(3, -1, 99, 99)]),
        ],
    )
    label = outline_label(path, 4, 5, 1.0)
    assert label[..., 0].sum() == 4 and label[:2, :2, 0].all()
    assert label[..., 1].sum() == 8 and label[:, 3:, 1].all()


@pytest.mark.parametrize(
    "features, message",
    [
        (
            [
                feature("Tubule", [square(0, 0, 1, 1)]),
                feature("", []),
                feature("ng", []),
            ],
            r"a.geojson: unknown classes \['', 'Tubule'\].*'sclerosed'",
        ),
        ([feature("ng", [0, 0], kind="Point")], "feature 0 is a Point; .*Polygon"),
        ([feature("ng", [[[0, 0], [1, 1]]])], "feature 0 is no polygon"),
        ([feature("ng", [[[0, 0], [1, 1], [2, None]]])], "feature 0 is no polygon"),
        ([feature("ng", [])], "feature 0 is no polygon"),
        ("text", "neither a FeatureCollection"),
    ],
)
def test_what_is_no_outline_is_refused(tmp_path, features, message):
    with pytest.raises(ValueError, match=message):
        read_outlines(write(tmp_path, features))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "b.geojson"
    path.write_text('{"features": [')
    with pytest.raises(ValueError, match="b.geojson: cannot be read as GeoJSON"):
        read_outlines(path)
    with pytest.raises(FileNotFoundError):
        read_outlines(tmp_path / "c.geojson")
