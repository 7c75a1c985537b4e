"""Convolutions and batch norm whose features are padded to a multiple of channels.

Parameters and statistics have the shapes of the plain layers, so a checkpoint does
not know of the padding (`jaxinpaint.ops.channels`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.ops.channels import gather, spread


class AlignedConv(nn.Module):
    """A convolution without bias, stride 1, zeros as far as an odd kernel reaches.

    Attributes:
      inputs: parts of the input's channels.
      outputs: parts of the output's channels.
      size: of the kernel, odd.
      kernel_init: of the kernel [size, size, sum(inputs), sum(outputs)].
      multiple: of channels that every part is padded to.
      dtype: of compute; the kernel is float32.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int
    kernel_init: nn.initializers.Initializer
    multiple: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, inputs with zeros] -> [B, H, W, outputs with zeros]."""
        shape = (self.size, self.size, sum(self.inputs), sum(self.outputs))
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        kernel = spread(kernel, 2, self.inputs, self.multiple)
        kernel = spread(kernel, 3, self.outputs, self.multiple)
        pad = (self.size // 2, self.size // 2)
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class AlignedEnlarge(nn.Module):
    """Transposed convolution 2 x 2, stride 2, with bias.

        out[2 i + a, 2 j + b] = in[i, j] K[1 - a, 1 - b] + bias

    No two taps meet, so it is one matrix product and a new order of its result.
    Weights of frameworks that do not flip need `K = W[::-1, ::-1]`.

    Attributes:
      inputs: parts of the input's channels.
      width: channels of the output, one part.
      kernel_init: of the kernel [2, 2, sum(inputs), width]; the bias begins at zero.
      multiple: of channels that every part is padded to.
      dtype: of compute; parameters are float32.
    """

    inputs: tuple[int, ...]
    width: int
    kernel_init: nn.initializers.Initializer
    multiple: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, inputs] -> [B, 2 H, 2 W, width]."""
        b, h, w, _ = x.shape
        shape = (2, 2, sum(self.inputs), self.width)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        kernel = spread(kernel, 2, self.inputs, self.multiple)
        kernel = spread(kernel, 3, (self.width,), self.multiple)
        bias = spread(bias, 0, (self.width,), self.multiple)
        taps = kernel[::-1, ::-1].transpose(2, 0, 1, 3)
        x = jnp.tensordot(x, taps, 1) + bias.reshape(1, 1, 1, 1, 1, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


class AlignedNorm(nn.Module):
    """Batch norm, as `flax.linen.BatchNorm` computes it.

    Variance is the mean square less the squared mean, not below 0, and the running
    one is that of the batch too, without Bessel's correction.

    Attributes:
      parts: of the channels.
      use_scale: multiply by a learned scale too; an offset is always added.
      decay: of the running averages.
      epsilon: added to the variance.
      multiple: of channels that every part is padded to.
      dtype: of the result; statistics, scale and offset are float32.
    """

    parts: tuple[int, ...]
    use_scale: bool
    decay: float
    epsilon: float
    multiple: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises [B, H, W, parts with zeros]; the zeros stay zeros.

        Args:
          x: any float dtype.
          train: by the batch, and the running averages move, which needs
            `mutable=["batch_stats"]`; otherwise by these.
        """
        shape = (sum(self.parts),)
        mean_state = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var_state = self.variable("batch_stats", "var", jnp.ones, shape)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean = x.mean((0, 1, 2))
            var = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0.0)
            if not self.is_initializing():
                for state, now in ((mean_state, mean), (var_state, var)):
                    now = gather(now, 0, self.parts, self.multiple)
                    state.value = self.decay * state.value + (1 - self.decay) * now
        else:
            mean, var = self._wide(mean_state.value), self._wide(var_state.value)
        gain = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            gain *= self._wide(self.param("scale", nn.initializers.ones, shape))
        offset = self._wide(self.param("bias", nn.initializers.zeros, shape))
        over = lambda v: v.reshape(1, 1, 1, -1)
        return ((x - over(mean)) * over(gain) + over(offset)).astype(self.dtype)

    def _wide(self, vector: jax.Array) -> jax.Array:
        return spread(vector, 0, self.parts, self.multiple)
