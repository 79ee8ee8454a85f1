"""How the influence within a receptive field is spread: the effective receptive field."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EffectiveReceptiveField", "effective_receptive_field"]

# The mass of a Gaussian within two standard deviations; what lies below is Luo et al.'s cut.
_TWO_SIGMA = 0.9545


@dataclass(frozen=True)
class EffectiveReceptiveField:
    """The Gaussian that fits a map of influences, and how far the map reaches.

    Attributes:
      center: centre of mass along each axis, in pixels of the map.
      sigma: standard deviation along each axis, in pixels: the Gaussian of maximum likelihood, and
        the radius in the theory of Luo et al.
      num_pixels: pixels above 1 - 95.45 % of the largest influence, as Luo et al. count.
      size: side of a square (cube) of as many pixels, num_pixels^(1 / num_axes); for a round
        Gaussian in two dimensions 4.41 sigma.
      radius: radius of a disc (ball) of as many pixels; for a round Gaussian 2.49 sigma.
      fraction: `size` over the side of a square as large as the rectangle around all pixels of
        any influence, the theoretical field where it lies within the image.
      gaussian_distance: total variation between the map and the Gaussian, both summing to 1: 0
        where they agree, 1 where they share nothing.
    """

    center: tuple[float, ...]
    sigma: tuple[float, ...]
    num_pixels: int
    size: float
    radius: float
    fraction: float
    gaussian_distance: float


def effective_receptive_field(influence: Any) -> EffectiveReceptiveField:
    """The effective receptive field of a map of influences, one axis a spatial axis.

    With p the map over its sum, mu = sum p x and sigma^2 = sum p (x - mu)^2 along each axis. For n
    linear layers of uniform k x k weights sigma^2 = n (k^2 - 1) / 12: the field of influence
    grows with the square root of the depth where the theoretical one grows with the depth.

    Args:
      influence: finite numbers, none negative, such as the mean absolute gradient of one output
        position; average over inputs (and weights) first.

    Raises:
      ValueError: a map that is empty, not finite, negative somewhere or zero everywhere.

    >>> field = effective_receptive_field([0.0, 1.0, 2.0, 1.0, 0.0])
    >>> field.center, field.sigma[0] ** 2, field.num_pixels
    ((2.0,), 0.5..., 3)

    Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks", 2016.
    """
    influence = np.asarray(influence, float)
    if not influence.ndim or not influence.size:
        raise ValueError(
            "effective_receptive_field: expected a map with one axis for each spatial axis, got "
            f"shape {influence.shape}"
        )
    if not np.all(np.isfinite(influence)) or influence.min() < 0:
        raise ValueError(
            "effective_receptive_field: influences must be finite and at least 0; take absolute "
            "values before averaging"
        )
    peak = influence.max()
    if not peak:
        raise ValueError(
            "effective_receptive_field: no pixel has any influence; draw more samples, or look "
            "for a dead layer"
        )
    rank = influence.ndim
    # By the peak first: the sum of huge gradients would overflow, of tiny ones lose its digits.
    mass = influence / peak
    mass /= mass.sum()
    places = np.indices(influence.shape)
    center = tuple(float((mass * place).sum()) for place in places)
    variance = [
        float((mass * (place - c) ** 2).sum()) for place, c in zip(places, center, strict=True)
    ]
    num_pixels = int((influence > (1 - _TWO_SIGMA) * peak).sum())
    size = num_pixels ** (1 / rank)
    unit_ball = math.pi ** (rank / 2) / math.gamma(rank / 2 + 1)
    extents = [int(np.ptp(indices)) + 1 for indices in np.nonzero(influence)]
    return EffectiveReceptiveField(
        center=center,
        sigma=tuple(math.sqrt(v) for v in variance),
        num_pixels=num_pixels,
        size=size,
        radius=(num_pixels / unit_ball) ** (1 / rank),
        fraction=size / math.prod(extents) ** (1 / rank),
        gaussian_distance=float(np.abs(mass - _gaussian(influence.shape, center, variance)).sum())
        / 2,
    )


def _gaussian(
    shape: tuple[int, ...], center: tuple[float, ...], variance: list[float]
) -> np.ndarray:
    """The Gaussian at the pixels of a map, summing to 1."""
    density = np.ones(())
    for size, c, v in zip(shape, center, variance, strict=True):
        squares = (np.arange(size) - c) ** 2
        # Nothing spreads along this axis: the whole mass lies in one pixel.
        along = np.exp(-squares / (2 * v)) if v else (squares == squares.min()).astype(float)
        density = np.multiply.outer(density, along / along.sum())
    return density
