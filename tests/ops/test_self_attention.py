import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.checks import ShapeMismatchError
from jaxinpaint.ops.self_attention import self_attention
from tests.compiling import quick


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def arrays(n=11, batch=2, d=3, c=5):
    draw = np.random.default_rng(0)
    make = lambda *shape: draw.normal(size=shape).astype(np.float32)
    return make(batch, n, d), make(batch, n, d), make(batch, n, c)


def literal(query, key, value):
    out = np.zeros(value.shape)
    for b in range(len(query)):
        for q in range(query.shape[1]):
            scores = [float(query[b, q] @ k) for k in key[b]]
            weights = [np.exp(s) for s in scores]
            for weight, v in zip(weights, value[b], strict=True):
                out[b, q] += weight / sum(weights) * v
    return out


@pytest.mark.parametrize("chunk", [0, 1, 4, 11, 100])
def test_the_formula_in_loops(chunk):
    got = quick(lambda *x: self_attention(*x, chunk=chunk))(*arrays())
    np.testing.assert_allclose(got, literal(*arrays()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [3, 4, 8])
def test_chunks_change_neither_value_nor_gradient(chunk):
    weight = np.random.default_rng(1).normal(size=(2, 8, 5)).astype(np.float32)

    def run(chunk):
        loss = lambda *x: (self_attention(*x, chunk=chunk) * weight).sum()
        return quick(jax.value_and_grad(loss, (0, 1, 2)))(*arrays(8))

    (whole, want), (total, got) = run(0), run(chunk)
    np.testing.assert_allclose(total, whole, rtol=1e-5)
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_query_sees_another_image():
    query, key, value = arrays()
    other = value.copy()
    other[1] += 1
    got = self_attention(query, key, other, chunk=4)
    want = self_attention(query, key, value, chunk=4)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1] + 1, rtol=1e-5, atol=1e-5)


def test_large_scores_overflow_nothing():
    query, key, value = arrays()
    got = self_attention(1e4 * query, key, value, chunk=4)
    best = np.einsum("bqd,bkd->bqk", query, key).argmax(axis=-1)
    want = np.take_along_axis(value, best[..., None], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bfloat16_keeps_its_dtype_and_adds_up_in_float32():
    x = [jnp.asarray(a, jnp.bfloat16) for a in arrays(64, c=2)]
    x[2] = jnp.ones_like(x[2])
    for chunk in (0, 5):
        got = self_attention(*x, chunk=chunk)
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(got), 1.0, rtol=1e-2)
    scores = jax.make_jaxpr(lambda *x: self_attention(*x, chunk=0))(*x)
    exponentials = [e for e in scores.eqns if e.primitive.name == "exp"]
    assert [e.outvars[0].aval.dtype for e in exponentials] == [jnp.float32]


def test_memory_of_the_gradient_shrinks_with_the_chunk():
    shape = lambda c: jax.ShapeDtypeStruct((1, 1024, c), jnp.float32)

    def needed(chunk):
        loss = lambda *x: self_attention(*x, chunk=chunk).sum()
        step = quick(jax.grad(loss, (0, 1, 2)))
        compiled = step.lower(shape(8), shape(8), shape(16)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert needed(64) < needed(0) / 4


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 8), (2, 8, 3), (2, 8, 5)), r"query must be \[B, N, D\], got \[2, 8\]"),
        (((2, 8, 3), (2, 9, 3), (2, 8, 5)), r"key must be \[2, 8, 3\]"),
        (((2, 8, 3), (2, 8, 3), (1, 8, 5)), r"value must be \[2, 8, C\]"),
    ],
)
def test_shapes_that_disagree(shapes, message):
    with pytest.raises(ShapeMismatchError, match=f"self_attention: {message}"):
        self_attention(*map(jnp.zeros, shapes), chunk=0)


def test_a_negative_chunk():
    with pytest.raises(ValueError, match="chunk is -1; give a number of queries"):
        self_attention(*arrays(), chunk=-1)
