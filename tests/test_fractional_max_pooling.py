"""The study of fractional pooling: networks of equal depth, the frame, and averages over grids."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models
from cnnjax.data import Images
from experiments import ablate, records
from experiments.config import Config
from experiments.studies import STUDIES, Sets, Task, Trained, cut
from experiments.studies.arms import batches

# The function of the same name hides it.
module_of_study = importlib.import_module("experiments.studies.fractional_max_pooling")

# Fractional networks that see 7 pixels, 2x2 ones that see 6 (as deep) and 11 (shallow).
SMALL = Config(
    study="fractional_max_pooling",
    fractional_filters=4,
    num_poolings=2,
    num_grids=3,
    num_grid_images=3,
)
TASK = Task((11, 11, 1), 10, 12)
ORDINARY = ("max_pooling", "max_pooling_shallow")
FRACTIONAL = {
    "pseudorandom_overlapping": ("pseudorandom", "overlapping_window", "image"),
    "pseudorandom_disjoint": ("pseudorandom", "disjoint", "image"),
    "random_overlapping": ("random", "overlapping_window", "image"),
    "random_disjoint": ("random", "disjoint", "image"),
    "grid_a_batch": ("pseudorandom", "overlapping_window", "batch"),
    "grid_a_channel": ("pseudorandom", "overlapping_window", "channel"),
}


@pytest.fixture(scope="module")
def study():
    return STUDIES["fractional_max_pooling"](SMALL, TASK)


@pytest.fixture(scope="module")
def arms(study):
    return {arm.name: arm for arm in study.arms}


def drawn(module, image, seed=0):
    """Variables of a network from NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, *image)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_fractional_arms_differ_in_their_grids_alone(arms):
    assert tuple(arms) == (*ORDINARY, *FRACTIONAL)
    first = arms["pseudorandom_overlapping"]
    for name, (randomness, regions, share) in FRACTIONAL.items():
        module = arms[name].module
        assert (module.randomness, module.regions, module.share) == (randomness, regions, share)
        same = {"randomness": "pseudorandom", "regions": "overlapping_window", "share": "image"}
        assert module.clone(**same) == first.module
    # Each with the arm that differs in one thing; the first with 2x2, by what the paper has it.
    against = {name: arms[name].against for name in FRACTIONAL}
    assert against.pop("pseudorandom_overlapping") is None
    assert against.pop("random_disjoint") == "pseudorandom_disjoint"
    assert set(against.values()) == {"pseudorandom_overlapping"}
    assert [name for name, arm in arms.items() if arm.published] == ["random_overlapping"]


def test_the_baseline_has_the_weights_of_the_fractional_networks(arms):
    def shapes(name):
        return jax.eval_shape(arms[name].module.init, jax.random.key(0), jnp.ones((1, 11, 11, 1)))

    for name in FRACTIONAL:
        assert shapes(name) == shapes("max_pooling")
    # Two layers of 2x2 before its one pooling, then one, then 1x1; filters 4, 8, 12, 16.
    sizes = [4 * 4 + 4, 4 * 4 * 8 + 8, 4 * 8 * 12 + 12, 12 * 16 + 16, 16 * 10 + 10]
    assert arms["max_pooling"].account["parameters"] == sum(sizes)
    # The shallow one has as many layers here, so that the same width has the same parameters.
    assert arms["max_pooling_shallow"].account["parameters"] == sum(sizes)
    assert arms["max_pooling_shallow"].module.filters == 4


def test_what_is_drawn_costs_what_the_account_says(arms):
    for name in ("pseudorandom_overlapping", "random_disjoint"):
        costs = analysis.account(arms[name].module, (11, 11, 1))
        assert costs.macs == arms[name].account["macs"]
        # 7 pixels: 2x2 to 6, 6 to 4, 2x2 to 3, 3 to 2, 2x2 to 1, 1x1, and the classifier.
        by_hand = 36 * 4 * 4 + 9 * 4 * 4 * 8 + 4 * 8 * 12 + 12 * 16 + 16 * 10
        assert costs.macs == by_hand


def leaky(x):
    return np.where(x > 0, x, 0.333 * x)


def by_hand(params, x, num_convs, pooled_after):
    """2x2 convolutions and ordinary 2x2 pooling in NumPy, then 1x1 and dense."""
    params = jax.tree.map(np.float64, params)
    for i in range(num_convs):
        kernel, bias = params[f"conv{i}"]["kernel"], params[f"conv{i}"]["bias"]
        size = x.shape[1] - kernel.shape[0] + 1
        taps = [
            x[:, row : row + size, column : column + size] @ kernel[row, column]
            for row in range(kernel.shape[0])
            for column in range(kernel.shape[1])
        ]
        x = leaky(sum(taps) + bias)
        if i in pooled_after:
            half = size // 2
            x = x.reshape(len(x), half, 2, half, 2, -1).max(axis=(2, 4))
    return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]


def test_a_ratio_of_two_is_ordinary_pooling_and_draws_nothing():
    net = models.create(
        "fractional_mnist",
        filters=1,
        num_poolings=2,
        ratio=2,
        convs_per_pooling=2,
        image_size=(14, 14),
    )
    variables = drawn(net, (14, 14, 1))
    x = np.random.default_rng(1).normal(size=(2, 14, 14, 1)).astype(np.float32)
    expected = by_hand(variables["params"], x, 6, pooled_after=(1, 3))
    np.testing.assert_allclose(net.apply(variables, x), expected, rtol=1e-4)
    # No stream is asked for, and one that is given changes nothing.
    np.testing.assert_allclose(net.apply(variables, x, train=True), expected, rtol=1e-4)
    streams = {"fractional": jax.random.key(0)}
    found = net.apply(variables, x, train=True, rngs=streams)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_ratio_of_one_and_a_half_is_fractional_where_it_divides_too():
    net = models.create("fractional_mnist", filters=1, num_poolings=1, ratio=1.5)
    x = np.random.default_rng(1).normal(size=(1, 4, 4, 1)).astype(np.float32)
    variables = drawn(net, (4, 4, 1))
    with pytest.raises(ValueError, match='grids are drawn from the stream "fractional"'):
        net.apply(variables, x, train=True)


def test_no_convolutions_before_a_pooling_are_refused():
    with pytest.raises(ValueError, match="FractionalNet: convs_per_pooling must be at least 1"):
        models.create("fractional_mnist", convs_per_pooling=0)


@pytest.mark.parametrize(
    ("size", "brought"),
    [
        (4, lambda x: np.pad(x, [(0, 0), (1, 2), (1, 2), (0, 0)])),
        (10, lambda x: x[:, 1:8, 1:8]),
        (11, lambda x: x[:, 2:9, 2:9]),
    ],
)
def test_a_centred_network_pads_or_takes_the_middle(size, brought):
    options = {"filters": 1, "num_poolings": 2, "image_size": (7, 7)}
    centred = models.create("fractional_mnist", centred=True, **options)
    published = models.create("fractional_mnist", **options)
    variables = drawn(published, (7, 7, 1))
    x = np.random.default_rng(1).normal(size=(2, size, size, 1)).astype(np.float32)
    expected = published.apply(variables, brought(x))
    np.testing.assert_array_equal(centred.apply(variables, x), expected)


def digits(num, size=28):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num, size, size, 1)).astype(np.uint8)
    return Images(images, np.arange(num, dtype=np.int32) % 10, tuple("0123456789"))


def test_images_lie_in_the_middle_of_a_black_frame():
    config = dataclasses.replace(SMALL, num_poolings=6, validation_size=10)
    test = digits(30)
    sets = cut(config, digits(30), test).sets
    assert [len(part.labels) for part in sets] == [20, 10, 30]
    # The shallow network of four poolings sees 47 pixels.
    assert {part.images.shape[1:] for part in sets} == {(47, 47, 1)}
    np.testing.assert_array_equal(sets.test.images[:, 9:37, 9:37], test.images)
    assert sets.test.images.sum() == test.images.astype(int).sum()


def test_images_that_no_network_of_the_flags_sees_whole_are_refused():
    config = dataclasses.replace(SMALL, num_poolings=4)
    with pytest.raises(ValueError, match=r"see 14 pixels, and images of mnist_5k have 28; take"):
        cut(config, digits(30), digits(30))
    with pytest.raises(ValueError, match=r"images must be 11x11 .* got \(28, 28\)"):
        STUDIES["fractional_max_pooling"](SMALL, Task((28, 28, 1), 10, 12))


@pytest.mark.parametrize(
    ("num_poolings", "ratio", "halvings"),
    [(3, 2**0.5, "1.5"), (5, 1.3, "1.89"), (6, 1.0, "0"), (6, 0.5, "0"), (3, 2 ** (2 / 3), "2")],
)
def test_ratios_without_whole_halvings_are_refused(num_poolings, ratio, halvings):
    config = dataclasses.replace(SMALL, num_poolings=num_poolings, ratio=ratio)
    with pytest.raises(ValueError, match=rf"make {halvings} halvings, which 2x2 poolings"):
        cut(config, digits(30), digits(30))


def bits(key):
    return tuple(jax.random.key_data(key).tolist())


def trained_on(arm, labels, scores, seed=0):
    images = Images(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels), ("a", "b"))
    return Trained(arm, seed, {}, Sets(images, images, images), lambda x: x, scores)


def test_probabilities_are_averaged_and_the_outcome_is_of_one_pass(study, arms, monkeypatch):
    # Probability of class 1 of four images in three passes; the curve is of the first three.
    passes = np.array([[0.9, 0.4, 0.6, 0.7], [0.2, 0.9, 0.1, 0], [0.1, 0.9, 0.2, 0]])
    seen = []

    def fake(module):
        def of_batch(variables, x, key):
            if bits(key) not in seen:
                seen.append(bits(key))
            ones = passes[len(seen) - 1, : len(x)]
            return np.stack([1 - ones, ones], axis=-1)

        return of_batch

    monkeypatch.setattr(module_of_study, "_of_batch", fake)
    trained = trained_on(arms["random_disjoint"], [1, 1, 0, 1], None)
    measured = study.measure(trained)
    # One pass: right, wrong, wrong, right. Two: means 0.55, 0.65, 0.35, all right. Three: 0.4.
    assert measured.outcome == 0.5
    assert measured.curves["passes"].x == (1.0, 2.0, 3.0)
    assert measured.curves["passes"].y == (1 / 3, 1.0, 2 / 3)
    assert len(set(seen)) == 3
    again, seen[:] = list(seen), []
    study.measure(trained)
    assert seen == again
    seen.clear()
    study.measure(trained._replace(seed=1))
    assert not set(seen) & set(again)


def test_a_batch_that_is_not_full_counts_its_images_alone(study, arms, monkeypatch):
    monkeypatch.setattr(module_of_study, "batches", functools.partial(batches, size=2))
    keys = []

    def fake(module):
        def of_batch(variables, x, key):
            assert len(x) == 2
            keys.append(bits(key))
            return np.eye(2)[[1, 0]]

        return of_batch

    monkeypatch.setattr(module_of_study, "_of_batch", fake)
    measured = study.measure(trained_on(arms["random_disjoint"], [1, 0, 1], None))
    assert measured.outcome == 1.0
    # Three passes of two batches, all of which draw grids of their own.
    assert len(set(keys)) == 6


def test_grids_that_are_fixed_are_passed_once_and_make_a_level_curve(study, arms):
    answers = np.eye(2)[[1, 1, 0, 0]]
    scores = functools.partial(np.take, answers, axis=0)
    trained = trained_on(arms["max_pooling"], [1, 0, 0, 0], lambda x: scores(np.arange(len(x))))
    measured = study.measure(trained)
    assert measured.outcome == 0.75
    assert measured.curves["passes"].y == (2 / 3,) * 3


@pytest.mark.parametrize(
    ("num_grids", "x"), [(1, (1,)), (12, (1, 2, 3, 5, 8, 12)), (4, (1, 2, 3, 4))]
)
def test_the_curve_ends_at_as_many_passes_as_asked_for(num_grids, x):
    small = dataclasses.replace(SMALL, num_grids=num_grids)
    study = STUDIES["fractional_max_pooling"](small, TASK)
    trained = trained_on(study.arms[0], [1], lambda images: np.eye(2)[[1]])
    assert study.measure(trained).curves["passes"].x == x


def test_one_pass_of_a_network_is_that_of_its_stream(study, arms):
    module = arms["random_overlapping"].module
    variables = jax.tree.map(lambda leaf: 0.3 * leaf, drawn(module, (11, 11, 1)))
    x = np.random.default_rng(1).normal(size=(3, 11, 11, 1)).astype(np.float32)
    of_batch = module_of_study._of_batch(module)
    one, again, other = (of_batch(variables, x, jax.random.key(seed)) for seed in (0, 0, 1))
    scores = module.apply(variables, x, rngs={"fractional": jax.random.key(0)})
    exponentials = np.exp(np.float64(scores) - np.max(scores, axis=-1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.slow
def test_all_arms_train_and_are_measured(tmp_path):
    config = Config(
        study="fractional_max_pooling",
        fractional_filters=1,
        num_grids=2,
        num_grid_images=20,
        validation_size=3900,
        epochs=2,
        batch_size=20,
        seeds=1,
        checkpoint_seconds=0.0,
        run_dir=str(tmp_path / "run"),
    )
    ablate.ablate(config)
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["arm"] for record in found] == [*ORDINARY, *FRACTIONAL]
    for record in found:
        assert len(record["measurements"]["passes"]["y"]) == 2
        assert record["metrics"]["outcome"] * 1000 == round(record["metrics"]["outcome"] * 1000)
        assert record["outcome"] == "test accuracy of one pass"
