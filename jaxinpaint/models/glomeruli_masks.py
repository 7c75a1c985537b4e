"""The DCGAN that draws outlines of sclerosed glomeruli.

Images are 64 x 64 pixels, in [-1, 1] with three channels, as the paper has them: it
turns them to grey afterwards.

Source: An image inpainting-based data augmentation method for improved sclerosed
glomerular identification performance with the segmentation model EfficientNetB3-Unet.
The paper gives no sizes; those of DCGAN's public example. Section 2.5 of this
project's specification.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import expect_dtype, expect_shape
from jaxinpaint.layers.patchgan import NARROW, around_one, convolve

SIDE = 64


def batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """Batch norm as both networks have it; scales begin as N(1, 0.02^2)."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=around_one,
        dtype=dtype,
        name=name,
    )


def expect_width(where: str, width: int) -> None:
    """Refuses a width that is no number of channels."""
    if width < 1:
        raise ValueError(f"{where}: width is {width}; give 1 or more, 64 as published.")


class MaskGenerator(nn.Module):
    """From noise to a picture of an outline, four times doubled.

    Attributes:
      width: channels at 32 x 32, 64 as published; twice as many a level below.
      latent: numbers an image is made of, 100.
      dtype: of compute; parameters, statistics, the last layer and the image that is
        returned are float32.
    """

    width: int
    latent: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, latent: jax.Array, *, train: bool) -> jax.Array:
        """Draws pictures of outlines.

        Args:
          latent: [B, latent] float32, standard normal.
          train: normalise by the batch, and update the running statistics, which
            needs `mutable=["batch_stats"]`; otherwise by these, each image alone.

        Returns:
          [B, 64, 64, 3] float32 in [-1, 1]; white is the glomerulus.

        Raises:
          ShapeMismatchError: another number of latent numbers.
          DTypeError: not float32.
          ValueError: a width below 1.

        Source: section 2.5, layers T1 to T5.
        """
        where = "glomeruli_masks.MaskGenerator"
        expect_width(where, self.width)
        b, n = expect_shape(where, "latent", latent, f"B {self.latent}")
        expect_dtype(where, "latent", latent, "float32")

        def enlarge(
            x: jax.Array, features: int, number: int, dtype: jnp.dtype
        ) -> jax.Array:
            first = number == 1  # a pixel becomes 4 x 4; behind it sides double
            return nn.ConvTranspose(
                features,
                (4, 4),
                strides=(1, 1) if first else (2, 2),
                padding="VALID" if first else "SAME",
                use_bias=False,
                kernel_init=NARROW,
                dtype=dtype,
                name=f"deconv{number}",
            )(x)

        x = latent.reshape(b, 1, 1, n)
        for number, share in enumerate((8, 4, 2, 1), start=1):
            x = enlarge(x, share * self.width, number, self.dtype)
            x = nn.relu(batch_norm(f"bn{number}", self.dtype, train)(x))
        x = enlarge(x.astype(jnp.float32), 3, 5, jnp.dtype("float32"))
        return jnp.tanh(x)


class MaskDiscriminator(nn.Module):
    """Judges whether an outline was drawn by a person.

    Attributes:
      width: channels at 32 x 32, 64 as published; twice as many a level below.
      dtype: of compute; parameters, statistics and the last layer are float32.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Judges pictures of outlines.

        Args:
          image: [B, 64, 64, 3] float32 in [-1, 1].
          train: as in `MaskGenerator`.

        Returns:
          Logits [B] float32.

        Raises:
          ShapeMismatchError: another size.
          DTypeError: not float32.
          ValueError: a width below 1.

        Source: section 2.5, layers S1 to S5.
        """
        where = "glomeruli_masks.MaskDiscriminator"
        expect_width(where, self.width)
        expect_shape(where, "image", image, f"B {SIDE} {SIDE} 3")
        expect_dtype(where, "image", image, "float32")

        x = convolve(image, self.width, 2, False, self.dtype, "conv1")
        x = nn.leaky_relu(x, 0.2)
        for number, share in enumerate((2, 4, 8), start=2):
            x = convolve(x, share * self.width, 2, False, self.dtype, f"conv{number}")
            x = nn.leaky_relu(batch_norm(f"bn{number}", self.dtype, train)(x), 0.2)
        last = nn.Conv(
            1,
            (4, 4),
            padding="VALID",
            use_bias=False,
            kernel_init=NARROW,
            name="conv5",
        )
        return last(x.astype(jnp.float32)).reshape(-1)
