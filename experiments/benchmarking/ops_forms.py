"""What the suite "ops" measures: each operation, ours and the other forms that XLA offers.

A form is a function of arrays. "ours" is the library's, "plain JAX" what one would write without
it; the rest are what ours was chosen among.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import ops
from experiments.benchmarking import ops_torch
from experiments.benchmarking.setting import IMAGE_SHAPE, Setting

__all__ = [
    "BOTH",
    "FORWARD",
    "LOOP",
    "MODES",
    "OURS",
    "PLAIN",
    "Form",
    "Operation",
    "gathered_fractional_max_pool",
    "operations",
]

Form = Callable[..., jax.Array]
Share = Literal["image", "channel"]

OURS, PLAIN = "ours", "plain JAX"
FORWARD, BOTH, LOOP = "forward", "forward and gradient", "forward and gradient in a loop"
MODES = (FORWARD, BOTH, LOOP)

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Graham's ratio of sqrt 2, as a fraction that leaves a whole number of the stem's 28 pixels.
_OUT_OF_SEVEN = 5


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
      title: what the table calls it, shapes included.
      arrays: the arguments of every form that are differentiated.
      forms: by name; `OURS` and `PLAIN` are among them.
      peer: PyTorch's form, a function of `ops_torch`.
      modes: of `MODES`, a row each.
      extras: arguments of our forms that follow the arrays, for example a key.
    """

    title: str
    arrays: tuple[np.ndarray, ...]
    forms: Mapping[str, Form]
    peer: ops_torch.Peer
    modes: tuple[str, ...] = (FORWARD, BOTH)
    extras: tuple[jax.Array, ...] = ()


def operations(setting: Setting) -> dict[str, Operation]:
    """The rows by the names that `--only` takes.

    Args:
      setting: batch size B and channels C decide the shapes: pools see the stem's output,
        (B, 28, 28, C), convolutions what a deeper layer sees, (B, 14, 14, 4 C).
    """
    batch, channels = setting.config.batch_size, setting.config.channels
    height, width = IMAGE_SHAPE[:2]
    shallow = (batch, height, width, channels)
    deep = (batch, height // 2, width // 2, 4 * channels)
    return {
        "conv_3x3": _conv(deep, 3),
        "conv_7x7": _conv(deep, 7),
        "conv_1x1": _conv(deep, 1),
        "conv_depthwise_3x3": _depthwise(deep, 3),
        "max_pool_2x2": _max_pool(shallow, 2, 2),
        "max_pool_3x3": _max_pool(shallow, 3, 2),
        "fractional_max_pool": _fractional_max_pool(shallow, "image"),
        "fractional_max_pool_per_channel": _fractional_max_pool(shallow, "channel"),
        "local_response_norm": _local_response_norm(deep),
        "im2col_3x3": _im2col(deep, 3),
    }


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape, np.float32)


def _rectified(shape: tuple[int, ...]) -> np.ndarray:
    """What a network pools and normalises: half of the values are zeros, and tie."""
    return np.maximum(_random(shape), 0)


def _taps(x: jax.Array, window: int) -> list[jax.Array]:
    """For each tap of an odd window in row-major order, its pixel at every position."""
    height, width = x.shape[1:3]
    margin = window // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return [
        padded[:, row : row + height, column : column + width]
        for row in range(window)
        for column in range(window)
    ]


# ---- convolutions ----


def _conv(shape: tuple[int, ...], window: int) -> Operation:
    filters = shape[-1]

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv(x, kernel, padding="SAME")

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)

    def patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv_as_matmul(x, kernel, padding="SAME")

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        weights = kernel.reshape(-1, *kernel.shape[2:])
        products = [tap @ weight for tap, weight in zip(_taps(x, window), weights, strict=True)]
        return sum(products[1:], products[0])

    forms: dict[str, Form] = {OURS: ours, PLAIN: plain, "patches, one product": patches}
    if window > 1:
        forms["shifted products"] = shifted
    return Operation(
        f"conv {window}x{window}, {shape} to {filters}",
        (_random(shape), _random((window, window, shape[-1], filters))),
        forms,
        functools.partial(ops_torch.conv, padding=window // 2),
        MODES,
    )


def _depthwise(shape: tuple[int, ...], window: int) -> Operation:
    channels = shape[-1]

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv(x, kernel, padding="SAME", groups=channels)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=_LAYOUT,
            feature_group_count=channels,
        )

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        weights = kernel.reshape(-1, 1, 1, 1, channels)
        products = [tap * weight for tap, weight in zip(_taps(x, window), weights, strict=True)]
        return sum(products[1:], products[0])

    return Operation(
        f"depthwise conv {window}x{window}, {shape}",
        (_random(shape), _random((window, window, 1, channels))),
        {OURS: ours, PLAIN: plain, "shifted products": shifted},
        functools.partial(ops_torch.conv, padding=window // 2, groups=channels),
        MODES,
    )


# ---- pools ----


def _max_pool(shape: tuple[int, ...], window: int, stride: int) -> Operation:
    def ours(x: jax.Array) -> jax.Array:
        return ops.max_pool(x, window=window, stride=stride)

    def plain(x: jax.Array) -> jax.Array:
        size, step = (1, window, window, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -np.inf, lax.max, size, step, "VALID")

    return Operation(
        f"max pool {window}x{window} stride {stride}, {shape}",
        (_rectified(shape),),
        {OURS: ours, PLAIN: plain},
        functools.partial(ops_torch.max_pool, window=window, stride=stride),
    )


def _fractional_max_pool(shape: tuple[int, ...], share: Share) -> Operation:
    window, size = 2, shape[1]
    output_size = size * _OUT_OF_SEVEN // 7

    def ours(x: jax.Array, key: jax.Array) -> jax.Array:
        return ops.fractional_max_pool(
            x,
            key,
            output_size=output_size,
            window=window,
            regions="overlapping_window",
            share=share,
        )

    def plain(x: jax.Array, key: jax.Array) -> jax.Array:
        return gathered_fractional_max_pool(
            x, key, output_size=output_size, window=window, share=share
        )

    return Operation(
        f"fractional max pool {size} to {output_size}, window {window}, a grid for each {share}, "
        f"{shape}",
        (_rectified(shape),),
        {OURS: ours, PLAIN: plain},
        functools.partial(ops_torch.fractional_max_pool, window=window, output_size=output_size),
        extras=(jax.random.key(0),),
    )


def gathered_fractional_max_pool(
    x: jax.Array, key: jax.Array, *, output_size: int, window: int, share: Share
) -> jax.Array:
    """Graham's pseudorandom overlapping pool of square images as a gather of all windows' pixels.

    Args:
      x: shape (batch, size, size, channels).
      key: of the grids.
      output_size: positions of the output an axis.
      window: pixels of a region an axis.
      share: "image" for one grid an image, "channel" for one an image and channel.
    """
    step = (x.shape[1] - window) / (output_size - 1)

    def taps(u: jax.Array) -> jax.Array:
        starts = jnp.floor((jnp.arange(output_size) + u) * step) - jnp.floor(u * step)
        starts = starts.at[-1].set(x.shape[1] - window).astype(jnp.int32)
        return starts[:, None] + jnp.arange(window).reshape(1, -1)

    def pool(pixels: jax.Array, u: jax.Array) -> jax.Array:
        rows, columns = taps(u[0]), taps(u[1])
        return jnp.max(pixels[rows[:, :, None, None], columns[None, None]], (1, 3))

    if share == "channel":
        u = jax.random.uniform(key, (x.shape[0], x.shape[-1], 2))
        return jax.vmap(jax.vmap(pool, (2, 0), 2))(x, u)
    return jax.vmap(pool)(x, jax.random.uniform(key, (x.shape[0], 2)))


# ---- normalisation ----


def _local_response_norm(shape: tuple[int, ...]) -> Operation:
    size, alpha, beta, k = 5, 1e-4, 0.75, 2.0

    def ours(x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, size=size, alpha=alpha, beta=beta, k=k, alpha_over="mean")

    def summed(squares: jax.Array) -> jax.Array:
        sides = ((0, 0),) * 3 + ((size // 2, size // 2),)
        return lax.reduce_window(squares, np.float32(0), lax.add, (1, 1, 1, size), (1,) * 4, sides)

    def sliced(squares: jax.Array) -> jax.Array:
        padded = jnp.pad(squares, ((0, 0),) * 3 + ((size // 2, size // 2),))
        return sum(
            (padded[..., tap : tap + shape[-1]] for tap in range(1, size)),
            padded[..., : shape[-1]],
        )

    def banded(squares: jax.Array) -> jax.Array:
        channel = np.arange(shape[-1])
        band = np.abs(channel[:, None] - channel) <= size // 2
        return squares @ band.astype(np.float32)

    def formula(energy: Callable[[jax.Array], jax.Array]) -> Form:
        return lambda x: x / (k + alpha / size * energy(x * x)) ** beta

    def roots(x: jax.Array) -> jax.Array:
        root = jnp.sqrt(k + alpha / size * sliced(x * x))
        return x / (root * jnp.sqrt(root))

    return Operation(
        f"local response norm over {size} channels, {shape}",
        (_rectified(shape),),
        {
            OURS: ours,
            PLAIN: formula(summed),
            "shifted slices, pow": formula(sliced),
            "banded product, pow": formula(banded),
            "shifted slices, roots, autodiff": roots,
        },
        functools.partial(ops_torch.local_response_norm, size=size, alpha=alpha, beta=beta, k=k),
    )


# ---- patches ----


def _im2col(shape: tuple[int, ...], window: int) -> Operation:
    def ours(x: jax.Array) -> jax.Array:
        return ops.extract_patches(x, window, padding="SAME")

    def plain(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated_patches(
            x, (window, window), (1, 1), "SAME", dimension_numbers=_LAYOUT
        )

    def concatenated(x: jax.Array) -> jax.Array:
        return jnp.concatenate(_taps(x, window), -1)

    return Operation(
        f"im2col {window}x{window}, {shape}",
        (_random(shape),),
        {OURS: ours, PLAIN: plain, "shifted slices, concatenated": concatenated},
        functools.partial(ops_torch.unfold, window=window, padding=window // 2),
    )
