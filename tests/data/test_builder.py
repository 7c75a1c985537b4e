import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxinpaint.data import images
from jaxinpaint.data.builders import sections as builder


def noise(*shape, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


def named(stack):
    return [(f"s{z}", pixels) for z, pixels in enumerate(stack)]


@pytest.mark.parametrize(
    "stack",
    [noise(12, 9, 7, 1), noise(3, 9, 7, 3), noise(3, 9, 7, 1, dtype=np.uint16)],
    ids=["grey", "rgb", "grey16"],
)
def test_round_trip_in_axial_order(tmp_path, stack):
    path = builder.write_sections(iter(named(stack)), tmp_path)
    assert path == tmp_path / "serial_sections" / "1.0.0"
    assert [p.name for p in tmp_path.iterdir()] == ["serial_sections"]
    got = list(builder.read_prepared(path, 1000))
    assert [name for name, _ in got] == [f"s{z}" for z in range(len(stack))]
    assert got[0][1].dtype == stack.dtype
    np.testing.assert_array_equal([pixels for _, pixels in got], stack)
    assert builder.find_prepared(path) == builder.find_prepared(tmp_path) == path


def test_the_folder_opens_without_our_code_and_without_tensorflow(tmp_path):
    # In a process that cannot find TensorFlow or jax, and has never seen the builder.
    stack = noise(3, 9, 7, 1, dtype=np.uint16)
    np.save(tmp_path / "stack.npy", stack)
    hide = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find, hidden = PathFinder.find_spec, ('tensorflow', 'jax')\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None:\n"
        "    None if name.split('.')[0] in hidden else find(name, path, target))\n"
        "import numpy as np\n"
    )
    write = hide + (
        "from jaxinpaint.data.builders import sections\n"
        "stack = np.load(sys.argv[1] + '/stack.npy')\n"
        "named = [(f's{z}', pixels) for z, pixels in enumerate(stack)]\n"
        "sections.write_sections(named, sys.argv[1])\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    read = hide + (
        "import tensorflow_datasets as tfds\n"
        "path = sys.argv[1] + '/serial_sections/1.0.0'\n"
        "source = tfds.builder_from_directory(path).as_data_source(split='sections')\n"
        "got = np.stack([source[z]['image'] for z in range(len(source))])\n"
        "assert got.dtype == np.uint16\n"
        "np.testing.assert_array_equal(got, np.load(sys.argv[1] + '/stack.npy'))\n"
        "assert source[2]['name'] == b's2' and source[2]['position'] == 2\n"
        "assert not [n for n in sys.modules if n.startswith('jaxinpaint')]\n"
    )
    root = pathlib.Path(__file__).parents[2]
    for code in (write, read):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""  # TFDS would speak of a download


def test_sections_that_differ_are_both_named(tmp_path):
    for other in (noise(9, 8, 1), noise(9, 7, 3), noise(9, 7, 1, dtype=np.uint16)):
        with pytest.raises(ValueError, match="s0 is uint8 .9, 7, 1., odd is"):
            builder.write_sections(
                [*named(noise(2, 9, 7, 1)), ("odd", other)], tmp_path
            )
    with pytest.raises(ValueError, match="got none"):
        builder.write_sections([], tmp_path)
    with pytest.raises(ValueError, match="PNG files hold"):
        builder.write_sections(named(noise(2, 9, 7, 3, dtype=np.uint16)), tmp_path)


def test_damaged_folders(tmp_path):
    path = builder.write_sections(named(noise(3, 9, 7, 1)), tmp_path)
    (records,) = path.glob("*.array_record*")
    whole = records.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole.replace(b"IHDR", b"XXXX")):
        records.write_bytes(damage)
        with pytest.raises(ValueError, match="1.0.0"):
            list(builder.read_prepared(path, 1000))
    records.unlink()
    with pytest.raises(ValueError, match="1.0.0"):
        list(builder.read_prepared(path, 1000))
    with pytest.raises(ValueError, match="no data set of serial sections"):
        builder.open_prepared(tmp_path / "nothing")


def test_large_sections_are_refused_undecoded(tmp_path):
    path = builder.write_sections(named(noise(2, 9, 7, 1)), tmp_path)
    with pytest.raises(images.ImageFileError, match="s0: 9 x 7 is more than 62"):
        list(builder.read_prepared(path, 62))
