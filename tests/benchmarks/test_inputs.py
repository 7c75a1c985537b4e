import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import inputs

SPEC = {
    "image": jax.ShapeDtypeStruct((12, 64, 64, 3), jnp.float32),
    "mask": jax.ShapeDtypeStruct((12, 64, 64, 1), jnp.float32),
    "label": jax.ShapeDtypeStruct((12, 64, 64), jnp.int32),
    "kind": jax.ShapeDtypeStruct((12,), jnp.int32),
}


def test_any_size_and_batch_of_what_a_system_declares():
    got = {name: e.shape for name, e in inputs.shapes(SPEC, 32, 2).items()}
    assert got == {
        "image": (2, 32, 32, 3),
        "mask": (2, 32, 32, 1),
        "label": (2, 32, 32),
        "kind": (2,),
    }


def test_the_hole_is_the_square_it_says():
    mask = inputs.draw(inputs.shapes(SPEC, 8, 2), 0)["mask"]
    assert mask.dtype == np.uint8 and mask[..., 0].sum(axis=(1, 2)).tolist() == [16, 16]
    assert (mask[:, 2:6, 2:6] == 1).all()


def test_images_are_noise_over_all_levels():
    image = inputs.draw(inputs.shapes(SPEC, 128, 1), 0)["image"]
    assert image.dtype == np.uint8
    counts = np.bincount(image.ravel(), minlength=256)  # 192 of each on average
    assert counts.min() > 100 and counts.max() < 300


def test_the_batch_is_the_levels_at_the_declared_dtypes():
    spec = inputs.shapes(SPEC, 8, 1)
    levels = inputs.draw(spec, 3)
    levels["image"][0, 0, 0] = (0, 255, 51)
    batch = inputs.to_batch({n: jnp.asarray(a) for n, a in levels.items()}, spec)
    assert {n: a.dtype for n, a in batch.items()} == {
        n: e.dtype for n, e in spec.items()
    }
    np.testing.assert_allclose(batch["image"][0, 0, 0], [-1.0, 1.0, -0.6], rtol=1e-6)
    assert set(np.unique(batch["mask"])) == {0.0, 1.0}
    np.testing.assert_array_equal(inputs.to_bytes(batch["image"]), levels["image"])


def test_levels_round_half_up_and_stop_at_the_ends():
    values = jnp.array([-1.5, -1.0, 0.0, 1.0, 2.0])  # 0 is 127.5
    assert inputs.to_bytes(values).tolist() == [0, 0, 128, 255, 255]


def test_sets_differ_and_outgrow_the_caches():
    few = {"image": jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)}  # 12 MiB
    assert len(inputs.draw_sets(few)) == inputs.LEAST_SETS
    many = {"image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)}
    sets = inputs.draw_sets(many)
    assert len(sets) == inputs.MOST_SETS
    assert len({one.levels["image"].tobytes() for one in sets}) == len(sets)
    keys = {tuple(jax.random.key_data(one.key).tolist()) for one in sets}
    assert len(keys) == len(sets)
