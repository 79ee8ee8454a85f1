"""A validation set cut from the training set, so that nothing is ever chosen on test data."""

import operator
from typing import SupportsIndex

import numpy as np

from cnnjax.data.images import Images

__all__ = ["split_validation", "stratified_indices"]


def split_validation(
    images: Images, num_validation: SupportsIndex, seed: SupportsIndex
) -> tuple[Images, Images]:
    """Cuts a stratified validation set of an exact size, fixed by the seed.

    The classes share the validation images in proportion to their sizes, to within one image
    (see `stratified_indices`, which is the algorithm and its guarantee of stability). Both parts
    keep the order of `images`, are disjoint, and together are all of it.

    Args:
      images: the training set, N images. The test set has no place here.
      num_validation: images of the validation set, 1 to N - 1.
      seed: which validation set, 0 or more.

    Returns:
      (train, validation), of N - num_validation and num_validation images.

    Raises:
      TypeError: `num_validation` or `seed` is not an integer.
      ValueError: `num_validation` leaves one of the parts empty, or `seed` is negative.

    >>> digits = Images(
    ...     np.zeros((10, 2, 2, 1), np.uint8), np.arange(10, dtype=np.int32) % 2, ("even", "odd")
    ... )
    >>> train, validation = split_validation(digits, 4, seed=0)
    >>> sorted(validation.labels.tolist()), len(train.labels)
    ([0, 0, 1, 1], 6)
    """
    chosen = stratified_indices(
        images.labels, num_validation, seed, caller="split_validation", size="num_validation"
    )
    in_validation = np.zeros(len(images.labels), bool)
    in_validation[chosen] = True
    train, validation = (
        Images(images.images[mask], images.labels[mask], images.class_names)
        for mask in (~in_validation, in_validation)
    )
    return train, validation


def stratified_indices(
    labels: np.ndarray,
    num_chosen: SupportsIndex,
    seed: SupportsIndex,
    *,
    caller: str = "stratified_indices",
    size: str = "num_chosen",
) -> np.ndarray:
    """Chooses indices at random, each class in proportion to its size, fixed by the seed.

    Of N labels, n_c of class c, class c gives floor(num_chosen n_c / N), and the classes with the
    largest remainders give one more (lower label first among equals). Image i of the N draws the
    i-th 64-bit word of the bit stream PCG64(seed); the images of a class with the smallest words
    are chosen. NumPy promises never to change that stream, unlike the methods of its Generator,
    so the choice is the same on every version and platform.

    Args:
      labels: integers of shape (N,).
      num_chosen: how many indices, 1 to N - 1.
      seed: which choice, 0 or more.
      caller: the function that an error names.
      size: the argument that an error names.

    Returns:
      int64 array of shape (num_chosen,), ascending.

    Raises:
      TypeError: `num_chosen` or `seed` is not an integer.
      ValueError: `num_chosen` is not in 1 to N - 1, or `seed` is negative.

    >>> stratified_indices(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0).tolist()
    [2, 3, 4]
    """
    try:
        chosen, seed = operator.index(num_chosen), operator.index(seed)
    except TypeError:
        raise TypeError(
            f"{caller}: {size} and seed must be integers, got {num_chosen!r} and {seed!r}"
        ) from None
    total = len(labels)
    if not 1 <= chosen < total:
        raise ValueError(
            f"{caller}: {size} must be between 1 and {total - 1} so that of {total} images some "
            f"are left on either side, got {chosen}"
        )
    if seed < 0:
        raise ValueError(f"{caller}: seed must be 0 or more, got {seed}")
    classes, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = [divmod(chosen * int(count), total) for count in counts]
    quota = np.array([whole for whole, _ in quotas])
    by_remainder = sorted(range(len(classes)), key=lambda c: (-quotas[c][1], c))
    quota[by_remainder[: chosen - int(quota.sum())]] += 1
    words = np.random.PCG64(seed).random_raw(total)
    # Sorted by class, then by word: the images of a class lie together, first drawn first.
    order = np.lexsort((words, class_of))
    first_of_class = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank_in_class = np.arange(total) - np.repeat(first_of_class, counts)
    return np.sort(order[rank_in_class < np.repeat(quota, counts)])
