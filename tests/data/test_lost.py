import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxinpaint.data import images, sections
from jaxinpaint.data.lost import _reduced, lost_sections
from tests.data.test_derived import config_of, spec


def tissue(count=9, dtype=np.uint8, channels=1):
    """Sections that drift by a pixel, none with a zero."""
    rng = np.random.default_rng(1)
    wide = gaussian_filter(rng.normal(0, 1, (88, 124)), 2)
    wide = 128 + 60 * wide / wide.std() / 3
    stack = [wide[:80, z : z + 96] + rng.normal(0, 3, (80, 96)) for z in range(count)]
    volume = np.clip(stack, 1, 255)[..., None].astype(dtype)
    return np.repeat(volume * (257 if dtype == np.uint16 else 1), channels, axis=-1)


def other(seed=7):
    """A section of another place."""
    wide = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (80, 96)), 2)
    return np.clip(128 + 20 * wide / wide.std(), 1, 255)[..., None].astype(np.uint8)


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 1), (np.uint8, 3), ("u2", 1)])
def test_sound_stacks_lose_nothing(dtype, channels):
    assert lost_sections(tissue(dtype=np.dtype(dtype).type, channels=channels)) == ()


def test_more_than_five_percent_of_zeros():
    volume = tissue()
    flat = volume.reshape(9, -1)
    flat[2, : 80 * 96 // 20] = 0  # 384 of 7680 pixels are 5 %, not more
    flat[6, : 80 * 96 // 20 + 1] = 0
    flat[7] = 0
    assert lost_sections(volume) == (6, 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blank_sections(dtype):
    volume = tissue(dtype=dtype)
    level = 1 if dtype == np.uint8 else 257
    volume[3] = 90 * level
    volume[3, ::2] += level  # a standard deviation of half a level
    volume[6] = 90 * level
    volume[6, :, ::2] += 3 * level  # of 1.5: not blank, but nothing like the next
    assert lost_sections(volume) == (3, 6)
    assert lost_sections(volume[2:4]) == (1,)  # by its own pixels alone
    assert lost_sections(volume[6:8]) == ()


@pytest.mark.parametrize("at", [0, 1, 4, 7, 8])
def test_a_section_like_neither_neighbor(at):
    volume = tissue()
    volume[at] = other()
    assert lost_sections(volume) == (at,)


def test_neighbors_of_lost_sections_are_kept():
    volume = tissue(15)
    volume[1], volume[6], volume[8] = 0, other(3), other(5)
    # 7 has two broken neighbours and cannot be told from them; nothing could guide it.
    assert lost_sections(volume) == (1, 6, 7, 8)
    volume[8] = tissue(15)[8]
    assert lost_sections(volume) == (1, 6)


def test_stacks_of_which_nothing_can_be_said():
    noise = np.random.default_rng(0).integers(1, 256, (8, 80, 96, 1), np.uint8)
    assert set(lost_sections(noise)) <= set(range(8))
    assert lost_sections(noise[:2]) == ()
    assert lost_sections(tissue(2)[:, :3]) == ()
    volume = tissue(3)
    volume[1] = 0
    assert lost_sections(volume) == (1,)


def test_means_before_the_blur_are_the_blur_before_means():
    section = tissue(1)[0]
    blurred = gaussian_filter(section[..., 0].astype(float), 3.0)
    want = blurred.reshape(20, 4, 24, 4).mean(axis=(1, 3))
    # Nearly: the grid of means is coarse for a blur of 0.75.
    got = _reduced(section)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.999


def test_lost_sections_are_read_nowhere(tmp_path):
    volume = tissue(12)
    volume[4] = 0
    config = config_of(tmp_path, volume, **{"data.validation_fraction": 0.0})
    config.data.flag_lost = True
    data = sections.build(config, spec("previous", "following"))
    assert (data.summary["lost"], data.summary["damaged"]) == ([4], [])
    assert 4 not in sum(data.summary["split"].values(), [])
    assert data.summary["training_targets"] == [1, 2, 6, 7]
    for step in range(20):
        batch = data.batch(step)
        assert all(batch[name].all() for name in ("image", "previous", "following"))
    config.data.flag_lost = False
    data = sections.build(config, spec("previous", "following"))
    assert data.summary["lost"] == []
    assert data.summary["training_targets"] == [1, 2, 3, 4, 5, 6, 7]


def test_a_lost_section_guides_no_test_case(tmp_path):
    volume = tissue(12)
    volume[10] = 0
    config = config_of(tmp_path, volume, **{"data.validation_fraction": 0.0})
    config.data.flag_lost = True
    data = sections.build(config, spec("neighbor"))
    assert data.summary["split"]["test"] == [8, 9, 11]
    cases = list(data.test_cases())
    assert {case.name[:10] for case in cases} == {"section_08", "section_09"}
    for case in cases:
        assert case.neighbor.all()
        assert (case.following is None) == case.name.startswith("section_09")


def test_damage_and_loss_together(tmp_path):
    folder = tmp_path / "damage"
    folder.mkdir()
    volume, mask = tissue(12), np.zeros((80, 96, 1), np.uint8)
    volume[4], mask[3] = 0, 255
    for z in (4, 6):
        images.write_image(folder / f"{z:02d}.png", mask)
    config = config_of(tmp_path, volume, **{"data.damage": str(folder)})
    config.data.flag_lost = True
    data = sections.build(config, spec("neighbor"))
    assert (data.summary["lost"], data.summary["damaged"]) == ([4], [4, 6])
