"""The checks and the arithmetic of shapes that convolution and its relatives have in common."""

import math
from collections.abc import Sequence

import jax

from cnnjax import geometry
from cnnjax.geometry import Padding, PerAxis
from cnnjax.ops._conv_forms import Form
from cnnjax.ops._windows import Windows


def check_kernel(function: str, shape: Sequence[int]) -> int:
    """The number of window axes of a kernel."""
    if len(shape) < 3:
        raise ValueError(
            f"{function}: kernel must have shape (*window, channels // groups, num_filters) with "
            f"at least one window axis, got {tuple(shape)}"
        )
    return len(shape) - 2


def check_groups(function: str, groups: int, channels: int, kernel_shape: Sequence[int]) -> int:
    """The groups as an integer that goes with the channels of x and with the kernel."""
    (groups,) = geometry.per_axis(function, "groups", groups, 1)
    in_group, num_filters = kernel_shape[-2:]
    if channels % groups or num_filters % groups:
        raise ValueError(
            f"{function}: groups={groups} must divide the {channels} channels of x and the "
            f"{num_filters} filters of the kernel"
        )
    if in_group * groups != channels:
        raise ValueError(
            f"{function}: x has {channels} channels in {groups} group(s), so the kernel needs "
            f"{channels // groups} input channels, got kernel shape {tuple(kernel_shape)}"
        )
    return groups


def check_filters(
    function: str, name: str, groups: int, num_filters: int, kernel_shape: Sequence[int]
) -> int:
    """The groups as an integer that goes with the channels of a convolution's output."""
    (groups,) = geometry.per_axis(function, "groups", groups, 1)
    if kernel_shape[-1] != num_filters:
        raise ValueError(
            f"{function}: {name} has {num_filters} channels, so the kernel needs {num_filters} "
            f"filters, got kernel shape {tuple(kernel_shape)}; the kernel is the one of conv, "
            "(*window, channels // groups, num_filters)"
        )
    if num_filters % groups:
        raise ValueError(
            f"{function}: groups={groups} must divide the {num_filters} filters of the kernel"
        )
    return groups


def check_bias(function: str, bias: jax.Array | None, channels: int) -> None:
    """Refuse a bias that is not one value a channel of the result."""
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"{function}: bias must have shape ({channels},), got {bias.shape}")


def split_output(
    function: str, name: str, shape: Sequence[int], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch axes and the positions of a convolution's output."""
    if len(shape) < rank + 1:
        raise ValueError(
            f"{function}: {name} needs at least {rank + 1} axes (*batch, *output_spatial, "
            f"channels) for a window of {rank} axes, got shape {tuple(shape)}"
        )
    return tuple(shape[: -rank - 1]), tuple(shape[-rank - 1 : -1])


def windows_over(
    function: str,
    spatial: Sequence[int],
    window: Sequence[int],
    *,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
) -> Windows:
    """The windows over an image of these sizes, without batch axes and of one channel."""
    return Windows.of(
        function, (*spatial, 1), window, stride=stride, padding=padding, dilation=dilation
    )


def form_of(windows: Windows, groups: int) -> Form:
    """The statics of a convolution of these windows."""
    return Form(
        windows.spatial,
        windows.window,
        windows.outputs,
        windows.stride,
        windows.padding,
        windows.dilation,
        groups,
    )


def flatten_batch(array: jax.Array, rank: int) -> jax.Array:
    """The array with one batch axis before `rank` spatial axes and the channels."""
    batch, rest = array.shape[: -rank - 1], array.shape[-rank - 1 :]
    return array.reshape(math.prod(batch), *rest)
