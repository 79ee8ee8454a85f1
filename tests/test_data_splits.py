"""Laws of the validation split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.data import Images, split_validation, stratified_indices

labels_and_sizes = st.lists(st.integers(0, 5), min_size=2, max_size=60).flatmap(
    lambda labels: st.tuples(st.just(labels), st.integers(1, len(labels) - 1))
)


def numbered(labels: list[int]) -> Images:
    """Images whose first pixel is their own index."""
    images = np.zeros((len(labels), 2, 3, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return Images(images, np.array(labels, np.int32), tuple("abcdef"))


def indices(images: Images) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


@given(labels_and_sizes, st.integers(0, 2**40))
def test_parts_are_disjoint_complete_in_order_and_of_the_exact_sizes(case, seed):
    labels, size = case
    train, validation = split_validation(numbered(labels), size, seed)
    assert len(validation.labels) == size
    assert sorted(indices(train) + indices(validation)) == list(range(len(labels)))
    for part in (train, validation):
        assert indices(part) == sorted(indices(part))
        assert part.labels.tolist() == [labels[i] for i in indices(part)]
        assert part.labels.dtype == np.int32
        assert part.images.dtype == np.uint8
        assert part.class_names == tuple("abcdef")


@given(labels_and_sizes, st.integers(0, 100))
def test_every_class_gives_its_share_to_within_one_image(case, seed):
    labels, size = case
    chosen = stratified_indices(np.array(labels), size, seed)
    for c in set(labels):
        share = size * labels.count(c) / len(labels)
        assert abs(sum(labels[i] == c for i in chosen) - share) < 1


@given(labels_and_sizes, st.integers(0, 100))
def test_same_seed_gives_the_same_split_whatever_the_pixels(case, seed):
    labels, size = case
    again = numbered(labels)
    again = again._replace(images=again.images.copy())
    again.images[:, 1] = 7
    first, second = (
        split_validation(numbered(labels), size, seed),
        split_validation(again, size, seed),
    )
    assert indices(first[1]) == indices(second[1])


def test_seeds_give_different_splits():
    labels = np.arange(1000) % 10
    a, b = stratified_indices(labels, 100, 0), stratified_indices(labels, 100, 1)
    assert 0 < len(np.intersect1d(a, b)) < 40


def test_every_image_of_a_class_is_equally_likely():
    labels = np.array([0] * 6 + [1] * 6)
    counts = np.zeros(12)
    for seed in range(600):
        counts[stratified_indices(labels, 4, seed)] += 1
    # Binomial(600, 1/3): mean 200, standard deviation 11.5.
    assert np.abs(counts - 200).max() < 5 * 11.5


def test_choice_is_the_smallest_words_of_the_pcg64_stream_and_never_changes():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    words = np.random.PCG64(3).random_raw(8)
    expected = sorted(
        [i for c in (0, 1) for i in sorted(range(c, 8, 2), key=words.__getitem__)[:2]]
    )
    assert stratified_indices(labels, 4, 3).tolist() == expected
    # Published choices must stand: a change here changes everyone's validation set.
    assert stratified_indices(np.arange(40) % 4, 8, 0).tolist() == [2, 3, 11, 13, 18, 20, 21, 32]


@pytest.mark.parametrize("size", [0, -1, 6, 7])
def test_sizes_that_leave_a_part_empty_are_refused(size):
    with pytest.raises(
        ValueError,
        match=r"split_validation: num_validation must be between 1 and 5 .*got " + str(size),
    ):
        split_validation(numbered([0, 1, 2, 0, 1, 2]), size, 0)


def test_sizes_and_seeds_of_the_wrong_kind_are_refused():
    with pytest.raises(
        TypeError, match=r"num_validation and seed must be integers, got 0\.5 and 0"
    ):
        split_validation(numbered([0, 1, 2]), 0.5, 0)
    with pytest.raises(ValueError, match=r"seed must be 0 or more, got -1"):
        split_validation(numbered([0, 1, 2]), 1, -1)
