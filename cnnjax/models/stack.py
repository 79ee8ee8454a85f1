"""A small ConvNet whose middle is a stack of stride-1 convolutions, the part under study.

INPUT -> CONV3 -> RELU -> POOL2 -> [CONV -> RELU]*L -> POOL2 -> FC: what the stack sees of its
input depends on its windows alone, so that networks which differ in the stack and in nothing
else can be compared.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.layers import Conv

__all__ = ["Stack", "StackNet"]


class Stack(nn.Module):
    """Stride-1 convolutions that keep the size, each but the last optionally rectified.

    Attributes:
      windows: taps of each layer, odd, from the input on; L layers.
      widths: filters of each layer, L values.
      nonlinear: whether a ReLU stands between the layers (one always follows the last).
      dtype: compute dtype; that of the input by default.
    """

    windows: tuple[int, ...]
    widths: tuple[int, ...]
    nonlinear: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, height, width, channels) to (batch, height, width, widths[-1])."""
        if len(self.windows) != len(self.widths) or not self.windows:
            raise ValueError(
                f"Stack: windows {self.windows} and widths {self.widths} need one value for each "
                "layer, and at least one layer"
            )
        if any(window % 2 == 0 for window in self.windows):
            raise ValueError(
                f"Stack: windows must be odd, so that padding (F - 1) / 2 keeps the size, got "
                f"{self.windows}"
            )
        last = len(self.windows) - 1
        for i, (window, width) in enumerate(zip(self.windows, self.widths, strict=True)):
            layer = Conv(
                width,
                (window, window),
                padding=(window - 1) // 2,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = layer(x)
            if self.nonlinear or i == last:
                x = nn.relu(x)
        return x


class StackNet(nn.Module):
    """The small ConvNet around a `Stack`.

    Attributes:
      num_classes: scores per image.
      channels: filters of the stem, which the stack receives.
      windows: taps of each layer of the stack.
      widths: filters of each layer of the stack.
      nonlinear: whether a ReLU stands between the layers of the stack.
      dtype: compute dtype; that of the input by default. Scores are float32 or wider.

    >>> import jax, jax.numpy as jnp
    >>> net = StackNet(10, 16, windows=(3, 3, 3), widths=(16, 16, 16))
    >>> variables = net.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
    >>> net.apply(variables, jnp.ones((4, 28, 28, 1)), train=False).shape
    (4, 10)
    >>> sorted(variables["params"]["stack"])
    ['conv0', 'conv1', 'conv2']
    """

    num_classes: int
    channels: int
    windows: tuple[int, ...]
    widths: tuple[int, ...]
    nonlinear: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores (batch, num_classes) of images (batch, height, width, image_channels)."""
        del train  # No dropout and no batch statistics: training and evaluation agree.
        x = Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name="stem")(x)
        x = ops.max_pool(nn.relu(x), window=2)
        x = Stack(self.windows, self.widths, self.nonlinear, self.dtype, name="stack")(x)
        x = ops.max_pool(x, window=2)
        x = x.reshape(x.shape[0], -1)
        scores = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
