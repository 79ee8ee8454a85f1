"""The three notions of equality in the study of stacks and large kernels."""

import re

import jax.numpy as jnp

from experiments.config import Config
from experiments.studies import STUDIES, Task


def costs(windows, widths):
    """Parameters and MACs at 28x28x1 with 8 channels and 10 classes, layer by layer."""
    parameters, macs = 9 * 8 + 8, 28 * 28 * 9 * 8
    before = 8
    for window, width in zip(windows, widths, strict=True):
        weights = window**2 * before * width
        parameters, macs, before = parameters + weights + width, macs + 14 * 14 * weights, width
    head = 7 * 7 * before * 10
    return parameters + head + 10, macs + head


def test_the_widened_stack_is_the_nearest_in_parameters_and_in_macs():
    study = STUDIES["stack_vs_large_kernel"](Config(channels=8), Task((28, 28, 1), 10, 100))
    arms = {arm.name: arm for arm in study.arms}
    assert all(arm.account["receptive_field"] == 7 for arm in study.arms)
    assert all(arm.module.dtype is None for arm in study.arms)
    wide = arms["three_3x3_wide"]
    for index, column in enumerate(("parameters", "macs")):
        target = costs((7,), (8,))[index]
        assert arms["one_7x7"].account[column] == target
        of_width = {w: costs((3, 3, 3), (w, w, 8))[index] for w in range(1, 30)}
        nearest = min(of_width, key=lambda w: abs(of_width[w] - target))
        assert wide.module.widths == (nearest, nearest, 8)
        assert wide.account[column] == of_width[nearest]
        residual = f"{of_width[nearest] / target - 1:+.1%}"
        assert residual in re.findall(r"[+-]\d\.\d%", wide.differs_in)


def test_the_networks_compute_in_what_the_flag_says():
    config = Config(compute_dtype="bfloat16")
    study = STUDIES["stack_vs_large_kernel"](config, Task((28, 28, 1), 10, 100))
    assert [arm.module.dtype for arm in study.arms] == [jnp.bfloat16] * 5
