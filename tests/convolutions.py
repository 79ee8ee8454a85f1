"""Convolutions to try laws on, and random ones: shared by the tests of conv and its relatives."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def small_integers(*shape, seed=0):
    """Values whose products and sums are exact, so that results agree bit for bit."""
    return np.random.default_rng([seed, *shape]).integers(-4, 5, shape).astype(np.float32)


# One case a line: what a law must hold for. (batch, spatial, window, channels, filters, statics)
CASES = {
    "1d": ((2,), (9,), (3,), 2, 3, {}),
    "1d_strided_same": ((), (10,), (4,), 2, 2, {"stride": 3, "padding": "SAME"}),
    "2d": ((2,), (6, 5), (3, 2), 2, 3, {}),
    "2d_no_batch_axis": ((), (6, 5), (3, 3), 2, 3, {"padding": 1}),
    "2d_two_batch_axes": ((2, 3), (5, 4), (2, 2), 1, 2, {"stride": 2}),
    "2d_full": ((1,), (3, 4), (3, 2), 2, 1, {"padding": "FULL"}),
    "2d_same_stride_2": ((1,), (6, 7), (3, 3), 2, 2, {"stride": 2, "padding": "SAME"}),
    "2d_dilated": ((1,), (8, 7), (2, 3), 2, 2, {"dilation": (3, 2), "padding": ((1, 2), (0, 1))}),
    "2d_grouped": ((2,), (5, 5), (3, 3), 4, 6, {"groups": 2, "stride": (2, 1)}),
    "2d_depthwise": ((1,), (5, 5), (3, 3), 3, 6, {"groups": 3, "padding": 1}),
    "2d_1x1": ((2,), (4, 3), (1, 1), 3, 2, {}),
    "2d_unseen_pixels": ((1,), (8, 8), (3, 3), 1, 1, {"stride": 4}),
    "3d": ((1,), (4, 3, 5), (2, 2, 3), 2, 2, {"stride": (2, 1, 1), "padding": 1}),
    "3d_two_batch_axes": ((2, 1), (3, 3, 3), (2, 2, 2), 1, 2, {"dilation": (1, 2, 1)}),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Compiling is what takes the time: laws that hold case by case alike see a few unlike cases.
_UNLIKE = ("1d_strided_same", "2d_dilated", "2d_grouped", "3d_two_batch_axes")
unlike_cases = pytest.mark.parametrize("case", [CASES[name] for name in _UNLIKE], ids=_UNLIKE)


def draw_arrays(case, make=random):
    batch, spatial, window, channels, filters, statics = case
    groups = statics.get("groups", 1)
    x = make(*batch, *spatial, channels, seed=1)
    kernel = make(*window, channels // groups, filters, seed=2)
    return x, kernel, make(filters, seed=3)


def spelled_out(case):
    """The statics as one value an axis and pairs, by the formulas of the field."""
    _, spatial, window, _, _, statics = case
    rank = len(window)

    def per_axis(value):
        return tuple(value) if isinstance(value, tuple) else (value,) * rank

    stride, dilation = (per_axis(statics.get(name, 1)) for name in ("stride", "dilation"))
    padding = statics.get("padding", "VALID")
    spans = [d * (w - 1) + 1 for w, d in zip(window, dilation, strict=True)]
    if padding == "VALID":
        pairs = ((0, 0),) * rank
    elif padding == "FULL":
        pairs = tuple((span - 1, span - 1) for span in spans)
    elif padding == "SAME":
        totals = [
            max((-(-size // s) - 1) * s + span - size, 0)
            for size, s, span in zip(spatial, stride, spans, strict=True)
        ]
        pairs = tuple((total // 2, total - total // 2) for total in totals)
    elif isinstance(padding, int):
        pairs = ((padding, padding),) * rank
    else:
        pairs = padding
    groups = statics.get("groups", 1)
    return {"stride": stride, "padding": pairs, "dilation": dilation, "groups": groups}


def plain_xla(x, kernel, bias, case):
    """The same numbers from `lax.conv_general_dilated` as its documentation would write it."""
    rank = kernel.ndim - 2
    axes = "DHW"[-rank:]
    statics = spelled_out(case)
    out = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-rank - 1 :]),
        kernel,
        statics["stride"],
        statics["padding"],
        rhs_dilation=statics["dilation"],
        feature_group_count=statics["groups"],
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    return out.reshape(*x.shape[: -rank - 1], *out.shape[1:]) + jnp.broadcast_to(
        bias, (*x.shape[: -rank - 1], *out.shape[1:])
    )


@st.composite
def problems(draw):
    """Shapes and statics of a convolution that has at least one output position."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        window = draw(st.integers(1, 4 if rank < 3 else 2))
        dilation = draw(st.integers(1, 3))
        low, high = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        smallest = max(dilation * (window - 1) + 1 - low - high, 1)
        size = draw(st.integers(smallest, smallest + (5 if rank < 3 else 3)))
        axes.append((size, window, draw(st.integers(1, 3)), (low, high), dilation))
    spatial, window, stride, padding, dilation = map(tuple, zip(*axes, strict=True))
    channels, filters = (groups * draw(st.integers(1, 2)) for _ in range(2))
    statics = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (draw(st.integers(1, 2)),), spatial, window, channels, filters, statics


# What XLA's CPU backend (jaxlib 0.10 and 0.12) aborts the process on while it compiles
# derivatives of plain `lax.conv_general_dilated`: it exchanges the operands of a convolution and
# takes an axis for a batch axis that is none. The first two abort at the first derivative, the
# others at the second.
ABORTING = {
    "dilated": (
        (1,),
        (4, 2),
        (2, 2),
        2,
        2,
        {"stride": (2, 1), "padding": ((1, 1), (2, 0)), "dilation": (1, 3), "groups": 1},
    ),
    "undilated": (
        (1,),
        (4, 2),
        (2, 3),
        2,
        2,
        {"stride": (2, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    ),
    "holes_in_the_kernel": (
        (1,),
        (6, 4),
        (4, 2),
        2,
        2,
        {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (2, 1), "groups": 1},
    ),
    "as_many_pixels_as_the_stride": (
        (1,),
        (2, 4),
        (4, 2),
        2,
        2,
        {"stride": (2, 1), "padding": ((3, 4), (0, 0)), "dilation": (1, 1), "groups": 1},
    ),
    "3d": (
        (1,),
        (2, 4, 5),
        (4, 2, 1),
        1,
        2,
        {
            "stride": (2, 3, 1),
            "padding": ((3, 4), (1, 0), (3, 3)),
            "dilation": (1, 4, 4),
            "groups": 1,
        },
    ),
    "two_strides": (
        (1,),
        (4, 6),
        (3, 2),
        2,
        2,
        {"stride": (1, 2), "padding": ((1, 1), (0, 0)), "dilation": (2, 1), "groups": 1},
    ),
}
