"""Networks of equal cost: the width found is the nearest of all, tried one by one."""

import itertools

import flax.linen as nn
import pytest

from cnnjax import models
from cnnjax.analysis import match_width


class Dense(nn.Module):
    """(3 + 1) width parameters and 3 width MACs on three inputs."""

    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width, name="dense")(x)


@pytest.mark.parametrize("target", [1, 4, 5, 6, 7, 39, 41, 1000, 1002])
def test_the_width_is_the_nearest_of_all(target):
    found = match_width(Dense, (3,), target)
    nearest = min(range(1, 400), key=lambda width: abs(4 * width - target))
    assert found == (nearest, 4 * nearest, target, (4 * nearest - target) / target)


def test_macs_and_values_can_be_matched_too():
    assert match_width(Dense, (3,), 3 * 17, match="macs").width == 17
    assert match_width(Dense, (3,), 17, match="activation_values").width == 17


def test_the_target_may_be_another_network():
    def stack(width):
        return models.StackNet(10, 8, (3, 3, 3), (width, width, 8))

    one = models.StackNet(10, 8, (7,), (8,))
    found = match_width(stack, (28, 28, 1), one)

    def num_parameters(windows, widths):
        layers = zip((3, *windows), (8, *widths), (1, 8, *widths), strict=False)
        return sum(f * f * b * w + w for f, w, b in layers) + 7 * 7 * 8 * 10 + 10

    costs = {w: num_parameters((3, 3, 3), (w, w, 8)) for w in range(1, 40)}
    target = num_parameters((7,), (8,))
    assert found.target == target
    assert (
        found.value
        == costs[found.width]
        == min(costs.values(), key=lambda cost: abs(cost - target))
    )


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match=r"match must be one of .*'macs'.*, got 'flops'"):
        match_width(Dense, (3,), 10, match="flops")
    with pytest.raises(ValueError, match="the target must be at least 1, got 0"):
        match_width(Dense, (3,), 0)
    widths = itertools.repeat(Dense(2))
    with pytest.raises(ValueError, match="parameters are 8 at a width of 1,048,576, still below"):
        match_width(lambda width: next(widths), (3,), 9)
