"""Slow oracles in NumPy loops, straight from the definitions; they share no code with cnnjax.

Arrays are channels last with any number of batch axes, kernels are (*window, in, out). `padding`
is a (low, high) pair for each spatial axis, every other static one value for each axis.
"""

import itertools

import numpy as np


def window_starts(size, window, stride=1, low=0, high=0, dilation=1, fit="floor"):
    """First pixel of every window along one axis, counted one by one from -low on."""
    last_tap = dilation * (window - 1)
    starts = []
    start = -low
    while start + last_tap <= size + high - 1:
        starts.append(start)
        start += stride
    reaches_the_end = bool(starts) and starts[-1] + last_tap == size + high - 1
    if fit == "ceil" and not reaches_the_end and start < size:
        starts.append(start)
    return starts


def conv_loops(x, kernel, bias=None, *, stride, padding, dilation, groups=1):
    """Cross-correlation: one multiply-accumulate at a time; pixels outside the input are zero."""
    rank = kernel.ndim - 2
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    starts = [
        window_starts(size, window, s, low, high, d)
        for size, window, s, (low, high), d in zip(
            spatial, kernel.shape, stride, padding, dilation, strict=False
        )
    ]
    in_group, num_filters = kernel.shape[-2:]
    out = np.zeros((*batch, *(len(s) for s in starts), num_filters), x.dtype)
    for position in np.ndindex(*out.shape):
        *outer, filter_index = position
        index, place = tuple(outer[: len(batch)]), outer[len(batch) :]
        group = filter_index // (num_filters // groups)
        total = 0.0 if bias is None else bias[filter_index]
        for tap in np.ndindex(*kernel.shape[:rank]):
            pixel = tuple(
                starts[axis][place[axis]] + tap[axis] * dilation[axis] for axis in range(rank)
            )
            inside = all(0 <= p < size for p, size in zip(pixel, spatial, strict=True))
            for channel in range(in_group):
                value = x[(*index, *pixel, group * in_group + channel)] if inside else 0.0
                total = total + value * kernel[(*tap, channel, filter_index)]
        out[position] = total
    return out


def pool_loops(x, reduce, *, window, stride, padding, fit="floor"):
    """`reduce(pixels, num_counted)` over each window's pixels inside the input.

    `num_counted` is how many places of the window lie on the input or on its padding.
    """
    rank = len(window)
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    starts = [
        window_starts(size, w, s, low, high, fit=fit)
        for size, w, s, (low, high) in zip(spatial, window, stride, padding, strict=True)
    ]
    out = np.zeros((*batch, *(len(s) for s in starts), x.shape[-1]), x.dtype)
    for position in np.ndindex(*out.shape):
        *outer, channel = position
        index, place = tuple(outer[: len(batch)]), outer[len(batch) :]
        pixels, num_counted = [], 0
        for tap in itertools.product(*(range(w) for w in window)):
            pixel = tuple(starts[axis][place[axis]] + tap[axis] for axis in range(rank))
            if all(0 <= p < size for p, size in zip(pixel, spatial, strict=True)):
                pixels.append(x[(*index, *pixel, channel)])
            num_counted += all(
                -low <= p < size + high
                for p, size, (low, high) in zip(pixel, spatial, padding, strict=True)
            )
        out[position] = reduce(np.array(pixels, x.dtype), num_counted)
    return out


def largest(pixels, num_counted):
    del num_counted
    return pixels.max()


def mean_of_seen(pixels, num_counted):
    del num_counted
    return pixels.sum() / len(pixels)


def mean_of_counted(pixels, num_counted):
    return pixels.sum() / num_counted


def root_of_squares(pixels, num_counted):
    del num_counted
    return np.sqrt((pixels.astype(float) ** 2).sum())


def channels_first(array):
    """(batch, *spatial, channels) to PyTorch's (batch, channels, *spatial)."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def channels_last(array):
    """The inverse of `channels_first`."""
    return np.moveaxis(array, 1, -1)


def torch_kernel(kernel):
    """(*window, in, out) to PyTorch's (out, in, *window)."""
    return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))


def from_torch_kernel(kernel):
    """The inverse of `torch_kernel`."""
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def response_norm_loops(x, *, window, weight, beta, k, axes):
    """x / (k + weight * sum of squares over the window around each place of `axes`)^beta.

    The window has w // 2 places before and (w - 1) // 2 after; outside the array there is nothing.
    """
    out = np.empty_like(x)
    axes = tuple(axes)
    for place in np.ndindex(*x.shape):
        total = 0.0
        for tap in itertools.product(*(range(-(w // 2), (w - 1) // 2 + 1) for w in window)):
            pixel = list(place)
            for axis, offset in zip(axes, tap, strict=True):
                pixel[axis] += offset
            if all(0 <= pixel[axis] < x.shape[axis] for axis in axes):
                total += x[tuple(pixel)] ** 2
        out[place] = x[place] / (k + weight * total) ** beta
    return out


def conv_transpose_loops(
    y, kernel, bias=None, *, output_shape, stride, padding, dilation, groups=1
):
    """Each value of y leaves its multiples of the kernel behind; what falls outside is lost."""
    rank = kernel.ndim - 2
    batch = y.shape[: -rank - 1]
    in_group, num_filters = kernel.shape[-2:]
    out = np.zeros((*batch, *output_shape, groups * in_group), y.dtype)
    for position in np.ndindex(*y.shape):
        *outer, filter_index = position
        index, place = tuple(outer[: len(batch)]), outer[len(batch) :]
        group = filter_index // (num_filters // groups)
        for tap in np.ndindex(*kernel.shape[:rank]):
            pixel = tuple(
                place[axis] * stride[axis] + tap[axis] * dilation[axis] - padding[axis][0]
                for axis in range(rank)
            )
            if all(0 <= p < size for p, size in zip(pixel, output_shape, strict=True)):
                for channel in range(in_group):
                    weight = kernel[(*tap, channel, filter_index)]
                    out[(*index, *pixel, group * in_group + channel)] += y[position] * weight
    return out if bias is None else out + bias


def patches_loops(x, window, *, stride, padding, dilation):
    """Row by row what each window sees: taps in row-major order, channels fastest."""
    rank = len(window)
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    starts = [
        window_starts(size, w, s, low, high, d)
        for size, w, s, (low, high), d in zip(
            spatial, window, stride, padding, dilation, strict=True
        )
    ]
    outputs = tuple(map(len, starts))
    out = np.zeros((*batch, *outputs, *window, x.shape[-1]), x.dtype)
    for place in np.ndindex(*outputs):
        for tap in np.ndindex(*window):
            pixel = tuple(
                starts[axis][place[axis]] + tap[axis] * dilation[axis] for axis in range(rank)
            )
            if all(0 <= p < size for p, size in zip(pixel, spatial, strict=True)):
                out[(..., *place, *tap, slice(None))] = x[(..., *pixel, slice(None))]
    return out.reshape(*batch, *outputs, -1)
