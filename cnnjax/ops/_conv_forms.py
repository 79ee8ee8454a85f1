"""The three bilinear maps of one convolution, each other's derivatives, in the fastest layouts.

The number sum(y * conv(x, kernel)) is linear in each of x, kernel and y. Leaving one of them out
gives the three maps here: `correlate(x, kernel)`, shaped like y, `spread(y, kernel)`, shaped like
x, and `gather_kernel(x, y)`, shaped like the kernel. Each is the gradient of the two others.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from cnnjax import geometry
from cnnjax.ops._dtypes import wide

# Products of input and output channels a group up to which XLA's own loop nest beats Eigen.
_TINY_GROUP = 16

# Multiplications from which on patches give the kernel gradient sooner than XLA does on a CPU.
_MANY_PRODUCTS = 2**28
# Numbers in the patches made at a time, for the cache's sake, and at most in those of an image.
_PATCHES_AT_ONCE = 2**19
_PATCHES_OF_AN_IMAGE = 2**22


@dataclasses.dataclass(frozen=True)
class Form:
    """The statics of a convolution whose arrays have one batch axis; one value an axis.

    Attributes:
      spatial: pixels of x.
      window: taps of the kernel.
      outputs: positions of y.
      stride: step between positions in pixels.
      padding: (low, high) pixels.
      dilation: spacing of the taps.
      groups: blocks of channels.
    """

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @property
    def spans(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap, an axis."""
        return tuple(map(geometry.window_span, self.window, self.dilation))

    @property
    def reach(self) -> tuple[int, ...]:
        """Pixels from the first position's to the last position's first tap, both counted."""
        return tuple(
            geometry.window_span(n, s) for n, s in zip(self.outputs, self.stride, strict=True)
        )

    @property
    def extents(self) -> tuple[int, ...]:
        """Pixels from the first position's first tap to the last position's last tap, an axis."""
        return tuple(reach + span - 1 for reach, span in zip(self.reach, self.spans, strict=True))

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Zeros around x, an axis, with which every tap of every position lies on it."""
        return tuple(
            (low, max(extent - low - size, 0))
            for (low, _), extent, size in zip(self.padding, self.extents, self.spatial, strict=True)
        )

    @property
    def tap_slices(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each tap in row-major order the first pixel and the end of what it sees, an axis."""
        starts = itertools.product(
            *(range(0, w * d, d) for w, d in zip(self.window, self.dilation, strict=True))
        )
        return [(start, tuple(map(operator.add, start, self.reach))) for start in starts]

    @property
    def is_pointwise(self) -> bool:
        """Whether every pixel is multiplied by one matrix, and nothing else happens."""
        ones = (1,) * self.rank
        return (
            self.window == self.stride == ones
            and self.groups == 1
            and not any(map(any, self.padding))
        )

    def avoiding_abort(self) -> tuple["Form", tuple[int, ...]]:
        """This form with a position more in front where XLA would abort, and how many an axis.

        XLA's CPU backend exchanges the operands of an ungrouped convolution when the second has
        more pixels than the first. It takes an axis for a batch axis in disguise, and leaves it
        out of the exchange, when that axis has no padding, an undilated second operand of n
        pixels, n - 1 holes between the pixels of the first, and a stride of n - 1. It forgets
        to ask whether the first operand has n pixels too; where it has not, a check fails and
        takes the process with it (jaxlib 0.10 and 0.12). Derivatives of all orders can meet
        that in four ways. One position more in front, whose value is dropped or zero, changes
        the padding, and XLA leaves the axis alone.
        """
        if self.groups > 1 or self.rank == 1:
            return self, (0,) * self.rank
        extra = tuple(int(self._is_mistaken(axis)) for axis in range(self.rank))
        if not any(extra):
            return self, extra
        longer = dataclasses.replace(
            self,
            outputs=tuple(map(operator.add, self.outputs, extra)),
            padding=tuple(
                (low + more * stride, high)
                for (low, high), more, stride in zip(self.padding, extra, self.stride, strict=True)
            ),
        )
        return longer, extra

    def _is_mistaken(self, axis: int) -> bool:
        size, window, outputs = self.spatial[axis], self.window[axis], self.outputs[axis]
        stride, dilation, low = self.stride[axis], self.dilation[axis], self.padding[axis][0]
        span, reach = self.spans[axis], self.reach[axis]
        # Paddings and sizes of the convolutions in which y, and the kernel, has holes.
        y_fits = low == span - 1 and reach == size + low
        kernel_fits = low == reach - 1 and span == size + low
        return (
            y_fits
            and ((window == stride == 2 and dilation == 1) or size == stride == dilation + 1 > 1)
        ) or (
            kernel_fits
            and ((outputs == dilation == 2 and stride == 1) or size == dilation == stride + 1 > 1)
        )


def shifted_taps(x: jax.Array, form: Form) -> list[jax.Array]:
    """For each tap in row-major order its pixels, (batch, *outputs, channels)."""
    padded = jnp.pad(x, [(0, 0), *form.margins, (0, 0)])
    return [
        lax.slice(padded, (0, *start, 0), (len(x), *end, x.shape[-1]), (1, *form.stride, 1))
        for start, end in form.tap_slices
    ]


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    holes: tuple[int, ...] | None = None,
    dilation: tuple[int, ...],
    groups: int = 1,
    batch_groups: int = 1,
    tiny: bool = False,
) -> jax.Array:
    """XLA's convolution in the layout that its CPU backend runs fast, inside loops too.

    That is channels last, which it hands to Eigen. Eigen is slow for `tiny` groups of channels,
    XLA's own loop nest fast, and inside loops any other layout of the kernel chooses that.
    """
    rank = kernel.ndim - 2
    # (batch, feature, *spatial) of the input, (out, in, *window) of the kernel, as axis numbers.
    channels_last = (0, rank + 1, *range(1, rank + 1))
    kernel_layout = (rank + 1, rank, *range(rank))
    if tiny:
        kernel, kernel_layout = jnp.swapaxes(kernel, -1, -2), (rank, rank + 1, *range(rank))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        lhs_dilation=holes,
        rhs_dilation=dilation,
        dimension_numbers=lax.ConvDimensionNumbers(channels_last, kernel_layout, channels_last),
        feature_group_count=groups,
        batch_group_count=batch_groups,
    )


def _is_tiny(kernel: jax.Array, form: Form) -> bool:
    out_group = kernel.shape[-1] // form.groups
    return form.groups > 1 and kernel.shape[-2] * out_group <= _TINY_GROUP


def _in_front(y: jax.Array, extra: tuple[int, ...]) -> jax.Array:
    """Zeros in front of (batch, *spatial, channels)."""
    if not any(extra):
        return y
    return jnp.pad(y, [(0, 0), *((more, 0) for more in extra), (0, 0)])


def _correlate(x: jax.Array, kernel: jax.Array, form: Form) -> jax.Array:
    form, extra = form.avoiding_abort()
    out = _convolve(
        x,
        kernel,
        stride=form.stride,
        padding=form.padding,
        dilation=form.dilation,
        groups=form.groups,
        tiny=_is_tiny(kernel, form),
    )
    return out[(slice(None), *(slice(more, None) for more in extra))] if any(extra) else out


def _spread(y: jax.Array, kernel: jax.Array, form: Form) -> jax.Array:
    """Slide the flipped kernel over y, its pixels `stride` apart."""
    form, extra = form.avoiding_abort()
    rank, groups = form.rank, form.groups
    flipped = jnp.flip(kernel, range(rank))
    if groups == 1:
        flipped = jnp.swapaxes(flipped, -1, -2)
    else:
        in_group, num_filters = kernel.shape[-2:]
        blocks = flipped.reshape(*form.window, in_group, groups, num_filters // groups)
        flipped = jnp.moveaxis(blocks, rank, -1).swapaxes(-2, -3)
        flipped = flipped.reshape(*form.window, num_filters // groups, groups * in_group)
    padding = tuple(
        (span - 1 - low, size + low - reach)
        for size, span, reach, (low, _) in zip(
            form.spatial, form.spans, form.reach, form.padding, strict=True
        )
    )
    return _convolve(
        _in_front(y, extra),
        flipped,
        stride=(1,) * rank,
        padding=padding,
        holes=form.stride,
        dilation=form.dilation,
        groups=groups,
        tiny=_is_tiny(kernel, form),
    )


def _gather_kernel(x: jax.Array, y: jax.Array, form: Form) -> jax.Array:
    positions, taps = math.prod(form.outputs), math.prod(form.window)
    channels, filters = x.shape[-1], y.shape[-1]
    by_patches = (
        jax.default_backend() == "cpu"
        and form.groups == 1
        and len(x) * positions * taps * channels * filters >= _MANY_PRODUCTS
        and positions * taps * channels <= _PATCHES_OF_AN_IMAGE
    )
    return (_gather_by_patches if by_patches else _gather_by_convolution)(x, y, form)


def _gather_by_patches(x: jax.Array, y: jax.Array, form: Form) -> jax.Array:
    """Products of patches and y added up, a few images at a time: `--suite=ops` measures it."""
    batch, channels, filters = len(x), x.shape[-1], y.shape[-1]
    depth = math.prod(form.window) * channels

    # A checkpoint: what transposes this would else make the patches of all images before the loop.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        patches = jnp.concatenate(shifted_taps(x, form), axis=-1).reshape(-1, depth)
        return wide(patches).T @ wide(y.reshape(-1, filters))

    def add_product(total: jax.Array, run: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return total + product(*run), None

    images = min(max(_PATCHES_AT_ONCE // (math.prod(form.outputs) * depth), 1), batch)
    divisor = next(size for size in range(images, 0, -1) if batch % size == 0)
    if 2 * divisor >= images:
        # No image is left over: the loop reads the batch where it lies, where else it would a copy.
        images = divisor
    whole = batch // images * images
    runs = tuple(a[:whole].reshape(-1, images, *a.shape[1:]) for a in (x, y))
    total, _ = lax.scan(add_product, wide(jnp.zeros((depth, filters), x.dtype)), runs)
    if whole < batch:
        total = total + product(x[whole:], y[whole:])
    return total.astype(x.dtype).reshape(*form.window, channels, filters)


def _gather_by_convolution(x: jax.Array, y: jax.Array, form: Form) -> jax.Array:
    """Slide y, its pixels `stride` apart, over x: images are the channels that are summed over."""
    form, extra = form.avoiding_abort()
    rank, groups = form.rank, form.groups
    # XLA has a fast way with groups of single channels, and a slow one with all other groups of
    # the batch axis, which the channels are here: make those groups of images instead.
    single = groups == x.shape[-1] == y.shape[-1]
    if single or groups == 1:
        inputs = jnp.moveaxis(x, (-1, 0), (0, -1))
    else:
        blocks = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        inputs = jnp.moveaxis(blocks, (-1, 0), (0, -1))
        inputs = inputs.reshape(*inputs.shape[:-2], groups * x.shape[0])
    padding = tuple(
        (low, reach + span - 1 - size - low)
        for size, span, reach, (low, _) in zip(
            form.spatial, form.spans, form.reach, form.padding, strict=True
        )
    )
    out = _convolve(
        inputs,
        jnp.moveaxis(_in_front(y, extra), 0, rank),
        stride=form.dilation,
        padding=padding,
        dilation=form.stride,
        groups=1 if single else groups,
        batch_groups=groups if single else 1,
    )
    return jnp.moveaxis(out, 0, rank)


def _product_rule(map_: Callable, first: Callable, second: Callable) -> Callable:
    """The derivative of a bilinear map, as tangents whose transposes are fast.

    Reverse mode is the transpose of this rule, and JAX transposes a convolution by exchanging
    the roles of its axes. From the channels-last layout that gives convolutions which the CPU
    backend runs by a naive loop nest when they stand inside a `lax.scan` or `while` body, about
    twenty times slower than outside it. So each tangent is written as the transpose of one of
    the two other maps in the fast layout: transposed again it is that map. Standard primitives
    throughout, hence forward mode, higher orders and `vmap` hold as usual.
    `python -m experiments.benchmark --suite=forms` measures it.

    Args:
      map_: the map, of (operand, operand, form).
      first: for (second operand, form), a function from outputs to first operands.
      second: for (first operand, form), a function from outputs to second operands.
    """

    def rule(
        form: Form,
        primals: tuple[jax.Array, jax.Array],
        tangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero],
    ) -> tuple[jax.Array, jax.Array]:
        a, b = primals
        out = map_(a, b, form)
        parts = [
            jax.linear_transpose(transposed, out)(tangent)[0]
            for transposed, tangent in zip((first(b, form), second(a, form)), tangents, strict=True)
            if not isinstance(tangent, SymbolicZero)
        ]
        return out, sum(parts[1:], parts[0])

    return rule


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def correlate(x: jax.Array, kernel: jax.Array, form: Form) -> jax.Array:
    """y[u, k] = sum over taps t and channels c of x[u S + t d - low, c] kernel[t, c, k]."""
    return _convolve(
        x,
        kernel,
        stride=form.stride,
        padding=form.padding,
        dilation=form.dilation,
        groups=form.groups,
        tiny=_is_tiny(kernel, form),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def spread(y: jax.Array, kernel: jax.Array, form: Form) -> jax.Array:
    """x[p, c] = sum of y[u, k] kernel[t, c, k] over all u, t and k with u S + t d - low = p."""
    return _spread(y, kernel, form)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def gather_kernel(x: jax.Array, y: jax.Array, form: Form) -> jax.Array:
    """kernel[t, c, k] = sum over images and positions u of x[u S + t d - low, c] y[u, k]."""
    return _gather_kernel(x, y, form)


correlate.defjvp(
    _product_rule(
        correlate,
        lambda kernel, form: lambda y: _spread(y, kernel, form),
        lambda x, form: lambda y: _gather_kernel(x, y, form),
    ),
    symbolic_zeros=True,
)
spread.defjvp(
    _product_rule(
        spread,
        lambda kernel, form: lambda x: _correlate(x, kernel, form),
        lambda y, form: lambda x: _gather_kernel(x, y, form),
    ),
    symbolic_zeros=True,
)
gather_kernel.defjvp(
    _product_rule(
        gather_kernel,
        lambda y, form: lambda kernel: _spread(y, kernel, form),
        lambda x, form: lambda kernel: _correlate(x, kernel, form),
    ),
    symbolic_zeros=True,
)
