"""The study of translation: crops, what is measured of them, and what theory says of features."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import pattern
from cnnjax.data import Images
from experiments import ablate
from experiments.config import Config
from experiments.studies import STUDIES, Sets, Task, Trained, cut
from experiments.studies.translation import (
    consistency,
    crop,
    equivariance_error,
    inner_positions,
    trunk_of,
)

RNG = np.random.default_rng(0)
CONFIG = Config(study="translation", validation_size=4, canvas_padding=0, channels=2)


def images_of(number, side, channels=1):
    pixels = RNG.integers(0, 256, (number, side, side, channels), np.uint8)
    return Images(pixels, np.arange(number, dtype=np.int32) % 2, ("even", "odd"))


@pytest.fixture(scope="module")
def study():
    whole = cut(CONFIG, images_of(12, 32, 3), images_of(6, 32, 3))
    task = Task((24, 24, 3), 10, 100, source=whole.source)
    return STUDIES["translation"](CONFIG, task)


# ---- data ----


def test_crops_are_the_middle_of_their_images_and_the_whole_is_kept_beside():
    training, test = images_of(12, 20), images_of(6, 20)
    sets, whole = cut(CONFIG, training, test)
    assert [len(part.labels) for part in sets] == [8, 4, 6]
    np.testing.assert_array_equal(sets.test.images, test.images[:, 4:16, 4:16])
    np.testing.assert_array_equal(whole.test.images, test.images)
    for part, of_whole in zip(sets, whole, strict=True):
        np.testing.assert_array_equal(part.labels, of_whole.labels)
        np.testing.assert_array_equal(part.images, of_whole.images[:, 4:16, 4:16])


def test_padding_puts_black_around_so_that_nothing_falls_off():
    training, test = images_of(12, 20), images_of(6, 20)
    sets, whole = cut(dataclasses.replace(CONFIG, canvas_padding=4), training, test)
    np.testing.assert_array_equal(sets.test.images, test.images)
    assert whole.test.images.shape == (6, 28, 28, 1)
    assert int(whole.test.images.astype(int).sum()) == int(test.images.astype(int).sum())
    assert not whole.test.images[:, :4].any()


def test_crops_of_different_columns_are_shifts_of_each_other():
    images = images_of(2, 20).images
    for column in range(8):
        one, next_one = crop(images, column), crop(images, column + 1)
        np.testing.assert_array_equal(one[:, :, 1:], next_one[:, :, :-1])


def test_images_smaller_than_the_shifts_are_refused():
    with pytest.raises(ValueError, match=r"crops 8 pixels off .* \(10, 10\); pad them by"):
        cut(CONFIG, images_of(12, 10), images_of(6, 10))


def test_a_study_without_the_whole_images_is_refused():
    with pytest.raises(ValueError, match="has no arms without the images"):
        STUDIES["translation"](CONFIG, Task((24, 24, 3), 10, 100))


# ---- arms ----


def test_arms_differ_in_pooling_head_or_augmentation_alone(study):
    def shapes(arm):
        x = jnp.zeros((1, 24, 24, 3))
        tree = jax.eval_shape(lambda: arm.module.init(jax.random.key(0), x))["params"]
        return jax.tree.map(lambda leaf: leaf.shape, tree)

    arms = {arm.name: arm for arm in study.arms}
    trees = {name: shapes(arm) for name, arm in arms.items()}
    assert list(arms) == ["max", "blurred_max", "average", "strided", "dense_head", "shifted_max"]
    dense = trees.pop("dense_head")
    assert all(tree == trees["max"] for tree in trees.values())
    # All 6 x 6 positions of 8 channels in place of the mean over them.
    assert dense["fc0"].pop("kernel") == (6 * 6 * 8, 10)
    assert trees["max"]["fc0"].pop("kernel") == (8, 10)
    assert dense == trees["max"]
    assert {name: dict(arm.settings) for name, arm in arms.items() if arm.settings} == {
        "shifted_max": {"shift": 4, "shift_mode": "reflect"}
    }
    assert arms["shifted_max"].module == arms["max"].module


def test_every_arm_has_the_volumes_of_the_baseline(study):
    x = jnp.zeros((1, 24, 24, 3))
    for arm in study.arms:
        run = trunk_of(arm.module, (24, 24, 3)).init_with_output
        volume, _ = jax.eval_shape(run, jax.random.key(0), x)
        assert volume.shape == (1, 6, 6, 8)


# ---- measurements ----


def test_consistency_counts_equal_answers_pair_by_pair():
    answers = RNG.integers(0, 3, (5, 7))
    expected = []
    for far in range(1, 5):
        pairs = [(i, i + far) for i in range(5 - far)]
        same = sum(answers[i, n] == answers[j, n] for i, j in pairs for n in range(7))
        expected.append(same / (7 * len(pairs)))
    np.testing.assert_allclose(consistency(answers), expected, rtol=1e-12)


def test_equivariance_error_of_features_by_hand():
    # One row of three columns, one channel: the expected ones are 1 2, their middles, and 2 4.
    features = np.array([[1.0, 2, 4], [1.5, 3, 9], [2, 1, 9]]).reshape(3, 1, 1, 3, 1)
    expected = [0, 0, 3 / np.sqrt(2**2 + 4**2)]
    np.testing.assert_allclose(equivariance_error(features, 2), expected, rtol=1e-12)
    assert equivariance_error(np.zeros((3, 1, 1, 3, 1)), 2).tolist() == [0, 0, 0]


def test_inner_positions_are_those_whose_every_tap_is_a_pixel():
    net = pattern.to_module(pattern.parse("INPUT[12x16x1] -> CONV3-2 -> POOL2 -> CONV3-2"))
    # A position u of the last layer sees pixels 2 (u - 1) - 1 to 2 (u + 1) + 2: eight of them.
    assert inner_positions(net) == (slice(2, 4), slice(2, 6))


def drawn(net, shape):
    """Variables of a network that never trained; drawn by NumPy, as nothing is compiled for it."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))
    values = jax.tree.map(lambda leaf: np.float32(rng.standard_normal(leaf.shape)), shapes)
    # Variances are positive.
    return values | {"batch_stats": jax.tree.map(np.abs, values.get("batch_stats", {}))}


def features_of(arm, side=40):
    """The network up to its features, and a function of images."""
    trunk = trunk_of(arm.module, (side, side, 3))
    variables = drawn(trunk, (1, side, side, 3))
    return trunk, lambda x: np.asarray(trunk.apply(variables, x, train=False))


@pytest.mark.parametrize("name", ["max", "blurred_max", "average", "strided"])
def test_a_shift_by_the_stride_moves_features_by_a_position_and_one_by_a_pixel_does_not(
    study, name
):
    arm = next(arm for arm in study.arms if arm.name == name)
    image = np.random.default_rng(1).standard_normal((2, 40, 44, 3)).astype(np.float32)
    trunk, features = features_of(arm)
    here, pixel, position = (features(image[:, :, s : s + 40]) for s in (0, 1, 4))
    # The widest field is 24 pixels with at most 10 before its position's: 3 positions at each end.
    assert all(inner.start <= 3 and inner.stop >= 7 for inner in inner_positions(trunk))
    np.testing.assert_allclose(position[:, 3:7, 3:6], here[:, 3:7, 4:7], atol=1e-5)
    size = np.abs(here[:, 3:7, 3:7]).max()
    assert np.abs(pixel[:, 3:7, 3:7] - here[:, 3:7, 3:7]).max() > 0.05 * size
    # At the border, where padding is seen, even a shift by the stride changes what is there.
    assert np.abs(position[:, :, 0] - here[:, :, 1]).max() > 1e-3 * size


def test_without_strides_a_shift_by_any_pixel_moves_features_along():
    net = pattern.to_module(pattern.parse("INPUT[16x16x1] -> [CONV3-4 -> RELU]*2"))
    image = np.random.default_rng(2).standard_normal((1, 16, 19, 1)).astype(np.float32)
    variables = drawn(net, (1, 16, 16, 1))
    for shift in (1, 2, 3):
        here, moved = (net.apply(variables, image[:, :, s : s + 16]) for s in (0, shift))
        np.testing.assert_allclose(
            moved[:, 2:-2, 2 : -2 - shift], here[:, 2:-2, 2 + shift : -2], atol=1e-5
        )


def trained_with(study, name, scores):
    arm = next(arm for arm in study.arms if arm.name == name)
    test = images_of(6, 24, 3)
    variables = drawn(arm.module, (1, 24, 24, 3))
    return Trained(
        arm=arm,
        seed=0,
        variables=variables,
        sets=Sets(test, test, test),
        normalize=lambda images: images.astype(jnp.float32) / 255,
        scores=scores,
    )


def test_measurements_of_a_network_whose_answers_are_known(study):
    calls = iter(range(9))

    def scores(images):
        # Right at the first five crops, then wrong: labels are 0 1 0 1 0 1.
        right = np.eye(2)[np.arange(len(images)) % 2]
        return right if next(calls) < 5 else 1 - right

    measured = study.measure(trained_with(study, "max", scores))
    # Of the 9 - k pairs k apart, min(k, 5, 4, 9 - k) have one crop among the first five alone.
    expected = [1 - min(k, 4, 9 - k) / (9 - k) for k in range(1, 9)]
    np.testing.assert_allclose(measured.curves["consistency"].y, expected, rtol=1e-12)
    assert measured.outcome == pytest.approx(np.mean(expected), rel=1e-12)
    assert measured.curves["accuracy"].x == tuple(range(-4, 5))
    assert measured.curves["accuracy"].y == (1, 1, 1, 1, 1, 0, 0, 0, 0)
    equivariance = measured.curves["equivariance"]
    assert (equivariance.x, equivariance.marks) == ((0, 1, 2, 3, 4), (0, 4))
    assert equivariance.y[0] == 0
    assert equivariance.y[4] < 1e-5
    assert min(equivariance.y[1:4]) > 0.05


def test_a_network_that_always_says_the_same_is_consistent_and_not_accurate(study):
    measured = study.measure(
        trained_with(study, "dense_head", lambda images: np.tile([1.0, 0.0], (len(images), 1)))
    )
    assert measured.outcome == 1
    assert set(measured.curves["accuracy"].y) == {0.5}


# ---- runs ----


def test_a_dry_run_says_what_is_held_equal(capsys):
    config = Config(study="translation", validation_size=3700, channels=2, shift=0)
    ablate.ablate(config, dry_run=True)
    printed = capsys.readouterr().out
    assert "held equal: steps\n" in printed
    assert "300 training, 3,700 validation and 1,000 test images" in printed


@pytest.mark.slow
def test_a_tiny_run_records_what_it_measured(tmp_path, monkeypatch):
    whole = STUDIES["translation"]

    def two(config, task):
        study = whole(config, task)
        arms = tuple(arm for arm in study.arms if arm.name in ("max", "blurred_max"))
        return dataclasses.replace(study, arms=arms)

    monkeypatch.setitem(STUDIES, "translation", two)
    config = Config(
        study="translation",
        validation_size=3700,
        epochs=2,
        channels=2,
        seeds=1,
        run_dir=str(tmp_path / "run"),
    )
    ablate.ablate(config)
    lines = (tmp_path / "run" / "runs.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["arm"] for record in records] == ["max", "blurred_max"]
    for record in records:
        assert record["outcome"] == "prediction consistency under shifts"
        measured = record["measurements"]
        assert record["metrics"]["outcome"] == pytest.approx(np.mean(measured["consistency"]["y"]))
        assert len(measured["accuracy"]["y"]) == 9
        assert max(measured["equivariance"]["y"][::4]) < 1e-5
    page = (tmp_path / "run" / "REPORT.md").read_text()
    assert "prediction consistency under shifts" in page.lower()
