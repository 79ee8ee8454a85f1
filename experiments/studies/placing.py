"""What an image shows, cut out and placed on a black canvas where a study wants it.

Of digits on black that is the box of their ink, at most 20 pixels high and wide in MNIST. A
photograph fills its image: it is halved, by means of 2x2 pixels, until it is no larger either.
Places are drawn from the bit streams of PCG64, which NumPy promises never to change.
"""

import numpy as np

from cnnjax.data import Images
from experiments.config import Config
from experiments.studies.sets import Sets

__all__ = ["CANVAS", "LARGEST", "at_border", "at_random", "centered", "fitted", "refuse_shifts"]

CANVAS = 32
LARGEST = 20


def refuse_shifts(config: Config, why: str) -> None:
    """Refuse the augmentation by shifts where it would undo where things lie.

    Args:
      config: the run's.
      why: what a shift could do, for the message.

    Raises:
      ValueError: --shift is not 0.
    """
    if config.shift:
        raise ValueError(
            f"--study={config.study} says itself where things lie, and a shift {why}: write "
            f"--shift=0, not --shift={config.shift}"
        )


def fitted(sets: Sets) -> Sets:
    """The sets with images halved, all alike, until what each shows fits 20x20 pixels.

    Args:
      sets: images whose sizes can be halved as often as needed.

    Raises:
      ValueError: a size that is odd on the way.

    >>> whole = Images(np.full((1, 32, 32, 3), 9, np.uint8), np.zeros(1, np.int32), ("car",))
    >>> fitted(Sets(whole, whole, whole)).test.images.shape
    (1, 16, 16, 3)
    """
    while max(int(_boxes(part.images)[:, 2:].max()) for part in sets) > LARGEST:
        sets = Sets(*(part._replace(images=_halved(part.images)) for part in sets))
    return sets


def at_random(images: Images, seed: int, number: int = 0) -> Images:
    """Each image's content at a place that is drawn for it, all places equally likely.

    Args:
      images: as `fitted` leaves them.
      seed: of the places.
      number: of the set, so that no two share their draws.
    """
    boxes = _boxes(images.images)
    words = _words(seed, number, (len(boxes), 2))
    room = (CANVAS + 1 - boxes[:, 2:]).astype(np.uint64)
    return _placed(images, boxes, (words % room).astype(int))


def centered(images: Images) -> Images:
    """Each image's content in the middle, or above and left of it by half a pixel.

    Args:
      images: as `fitted` leaves them.
    """
    boxes = _boxes(images.images)
    return _placed(images, boxes, (CANVAS - boxes[:, 2:]) // 2)


def at_border(images: Images, distance: int, seed: int, *, corner: bool = False) -> Images:
    """Each image's content at a distance from a border that is drawn for it.

    Along the border it lies in the middle, or, in a corner, at the same distance from another
    border.

    Args:
      images: as `fitted` leaves them, or placed before.
      distance: black pixels between the content and the border, 0 to 6.
      seed: of the borders.
      corner: whether it lies in a corner.

    Raises:
      ValueError: a distance at which other borders could be nearer.

    >>> ink = Images(np.full((1, 2, 3, 1), 9, np.uint8), np.zeros(1, np.int32), ("bar",))
    >>> np.argwhere(at_border(ink, 0, seed=0).images[0, :, :, 0]).min(axis=0).tolist()
    [15, 29]
    """
    if not 0 <= distance <= (CANVAS - LARGEST) // 2:
        raise ValueError(
            f"at_border: distance must be 0 to {(CANVAS - LARGEST) // 2} pixels, so that no other "
            f"border is nearer, got {distance}"
        )
    boxes = _boxes(images.images)
    middle, far = (CANVAS - boxes[:, 2:]) // 2, CANVAS - boxes[:, 2:] - distance
    # Two bits for the axis and the end of it, one for the other axis's end in a corner.
    words = _words(seed, 0, (len(boxes),))
    across = (words >> np.uint64(63)).astype(int)
    ends = np.stack([words >> np.uint64(62), words >> np.uint64(61)], axis=1) & np.uint64(1)
    at_end = np.where(ends.astype(bool), far, distance)
    if corner:
        return _placed(images, boxes, at_end)
    moved = np.arange(2) == across[:, None]
    return _placed(images, boxes, np.where(moved, at_end, middle))


def _words(seed: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    stream = np.random.PCG64(np.random.SeedSequence([seed, number]))
    return np.asarray(stream.random_raw(int(np.prod(shape)))).reshape(shape)


def _boxes(images: np.ndarray) -> np.ndarray:
    """Top, left, height and width of what is not black, (N, 4); nothing is a box of one pixel."""
    ink = images.max(axis=-1) > 0
    edges = []
    for axis in (2, 1):
        along = ink.any(axis=axis)
        first, last = along.argmax(axis=1), along.shape[1] - 1 - along[:, ::-1].argmax(axis=1)
        edges.append((first, np.where(along.any(axis=1), last, 0) - first + 1))
    (top, height), (left, width) = edges
    return np.stack([top, left, height, width], axis=1)


def _halved(images: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels, rounded."""
    num, height, width, channels = images.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"fitted: images of {height}x{width} pixels cannot be halved; what they show must fit "
            f"{LARGEST}x{LARGEST}, or their sizes be even"
        )
    blocks = images.reshape(num, height // 2, 2, width // 2, 2, channels)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def _placed(images: Images, boxes: np.ndarray, corners: np.ndarray) -> Images:
    """The content of each box with its upper left corner at another place."""
    canvas = np.zeros((len(boxes), CANVAS, CANVAS, images.images.shape[-1]), np.uint8)
    for image, picture, box, corner in zip(canvas, images.images, boxes, corners, strict=True):
        (top, left, height, width), (down, right) = box, corner
        content = picture[top : top + height, left : left + width]
        image[down : down + height, right : right + width] = content
    return images._replace(images=canvas)
