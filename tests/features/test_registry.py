import math
import re

import jax
import numpy as np
import pytest

from jaxinpaint.features import registry
from jaxinpaint.features.convert import convert, foreign

NAMES = """
    vgg16 vgg19 alexnet densenet121 inception_fid efficientnet_b3 lpips_alex lpips_vgg
""".split()
# Parameters as torchvision, pytorch-fid, EfficientNet-PyTorch and LPIPS count them,
# running statistics apart.
PARAMETERS = {
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "alexnet": 61_100_840,
    "densenet121": 7_978_856,
    "efficientnet_b3": 12_233_232,
    "lpips_alex": 1_152,
    "lpips_vgg": 1_472,
}
LARGE = ("vgg16", "vgg19", "alexnet")  # hundreds of megabytes in memory
each = pytest.mark.parametrize("name", NAMES)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_names_are_those_of_the_contract():
    assert list(registry.WEIGHTS) == NAMES


@each
def test_the_public_file_is_named(name):
    entry = registry.WEIGHTS[name]
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert all(re.fullmatch(r"https://\S+\.pth", url) for url in entry.urls)
    assert entry.urls[0].endswith(f"/{entry.file}")
    assert entry.what and entry.uses and entry.licence
    # A publisher's habit: the digest's first digits are in the file's name.
    if stated := re.search(r"-([0-9a-f]{8})\.pth$", entry.file):
        assert entry.sha256.startswith(stated[1])
    else:
        assert name.startswith("lpips")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_whole_network_has_the_published_number_of_parameters(name):
    assert count(registry.WEIGHTS[name].shapes()["params"]) == PARAMETERS[name]


@each
def test_the_whole_network_fills_the_public_file(name):
    entry = registry.WEIGHTS[name]
    if entry.size is None:
        pytest.skip("the size of the public file is not known")
    shapes = entry.shapes()
    tensors = len(jax.tree.leaves(shapes))
    # What is not data is a name and a record for each tensor, 400 bytes at most.
    assert 0 < entry.size - 4 * count(shapes) < 400 * tensors


@each
def test_the_table_maps_every_leaf_of_the_network_once(name):
    entry = registry.WEIGHTS[name]
    shapes = entry.shapes()
    # The memory of one element, seen in every shape.
    blank = jax.tree.map(lambda x: np.broadcast_to(np.float32(1), x.shape), shapes)
    layers = entry.layers(())
    given = foreign(blank, layers)
    assert len(given) == len(jax.tree.leaves(shapes))
    if name not in LARGE:
        back = convert(given, layers, entry.ignored)
        same = jax.tree.map(lambda x, y: x.shape == y.shape, back, shapes)
        assert all(jax.tree.leaves(same))


def test_the_linear_layers_have_their_public_names():
    entry = registry.WEIGHTS["lpips_alex"]
    given = {
        f"lin{i}.model.1.weight": np.full((1, width, 1, 1), i, np.float32)
        for i, width in enumerate((64, 192, 384, 256, 256))
    }
    got = convert(given, entry.layers(given))
    same = jax.tree.map(lambda x, y: x.shape == y.shape, got, entry.shapes())
    assert all(jax.tree.leaves(same))
    assert got["params"]["lin3"]["kernel"].shape == (1, 1, 256, 1)
    assert (got["params"]["lin3"]["kernel"] == 3).all()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'vgg'.*vgg16"):
        registry.find("vgg")
    assert registry.find("vgg19") is registry.WEIGHTS["vgg19"]
