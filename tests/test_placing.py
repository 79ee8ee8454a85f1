"""What images show, placed on a canvas; and the studies of padding and of sharing, which place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, ops
from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.models import Conv
from cnnjax.models.layers import LocallyConnected
from experiments import ablate, records
from experiments.config import Config
from experiments.programs import make_normalize
from experiments.studies import STUDIES, Task, Trained, cut, sets_of
from experiments.studies.padding import measure
from experiments.studies.placing import at_border, at_random, centered, fitted
from experiments.studies.sets import Sets

PADDING = Config(
    study="padding",
    validation_size=500,
    train_size=300,
    epochs=2,
    batch_size=50,
    channels=2,
    shift=0,
    seeds=1,
)
SHARING = dataclasses.replace(PADDING, study="sharing")


@pytest.fixture(scope="module")
def digits():
    return tuple(datasets.load("mnist_5k", split) for split in ("train", "test"))


def ink(image):
    """What an image shows, cut out with loops."""
    rows = [i for i in range(image.shape[0]) if image[i].any()]
    columns = [j for j in range(image.shape[1]) if image[:, j].any()]
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], rows[0], columns[0]


def margins(image):
    """Black rows above and below, columns left and right."""
    content, top, left = ink(image)
    height, width = content.shape[:2]
    return top, image.shape[0] - top - height, left, image.shape[1] - left - width


def test_placing_moves_every_pixel_of_what_an_image_shows_and_adds_none(digits):
    few = Images(digits[1].images[:40], digits[1].labels[:40], digits[1].class_names)
    for placed in (
        centered(few),
        at_random(few, 3),
        at_border(few, 0, 3),
        at_border(few, 2, 3, corner=True),
    ):
        assert placed.images.shape == (40, 32, 32, 1)
        np.testing.assert_array_equal(placed.labels, few.labels)
        for before, after in zip(few.images, placed.images, strict=True):
            np.testing.assert_array_equal(ink(before)[0], ink(after)[0])


def test_what_is_centred_has_equal_margins_to_a_pixel(digits):
    for image in centered(digits[1]).images[:40]:
        above, below, left, right = margins(image)
        assert below - above in (0, 1)
        assert right - left in (0, 1)


@pytest.mark.parametrize("distance", [0, 1, 2, 4, 6])
def test_the_nearest_border_is_at_the_distance_and_all_borders_are_drawn(distance, digits):
    few = Images(digits[1].images[:80], digits[1].labels[:80], ())
    nearest = [margins(image) for image in at_border(few, distance, 0).images]
    assert {min(four) for four in nearest} == {distance}
    assert {int(np.argmin(four)) for four in nearest if distance < 6} in ({0, 1, 2, 3}, set())
    corners = [margins(image) for image in at_border(few, distance, 0, corner=True).images]
    for above, below, left, right in corners:
        assert min(above, below) == min(left, right) == distance


def test_anywhere_is_anywhere():
    # One pixel of ink: each of 1,024 places has 8 of 8,192 draws, Poisson with deviation 2.8.
    dots = np.zeros((8192, 4, 4, 1), np.uint8)
    dots[:, 1, 2] = 7
    images = Images(dots, np.zeros(8192, np.int32), ("dot",))
    counts = at_random(images, 0).images.sum(axis=(0, 3)) / 7
    assert counts.sum() == 8192
    assert counts.max() < 27
    assert (counts == 0).sum() < 8
    # A chi-squared of 1,023 degrees of freedom: 1,023 +- 45.
    assert abs(((counts - 8) ** 2 / 8).sum() - 1023) < 5 * 45
    again, other = at_random(images, 0), at_random(images, 0, number=1)
    np.testing.assert_array_equal(again.images, at_random(images, 0).images)
    assert (again.images != other.images).any()


def test_photographs_are_halved_by_means_until_they_fit():
    rng = np.random.default_rng(0)
    pictures = rng.integers(1, 256, (3, 64, 64, 3)).astype(np.uint8)
    part = Images(pictures, np.zeros(3, np.int32), ("x",))
    (halved, _, _) = fitted(Sets(part, part, part))
    assert halved.images.shape == (3, 16, 16, 3)
    once = np.array(
        [
            [
                [
                    np.floor(p[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) + 0.5)
                    for j in range(32)
                ]
                for i in range(32)
            ]
            for p in pictures
        ]
    )
    twice = np.floor(sum(once[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 + 0.5)
    np.testing.assert_array_equal(halved.images, twice)


def test_digits_fit_as_they_are(digits):
    sets = Sets(digits[0], digits[1], digits[1])
    assert fitted(sets).training.images is digits[0].images


def test_what_cannot_be_placed_is_refused(digits):
    odd = Images(np.ones((1, 33, 33, 1), np.uint8), np.zeros(1, np.int32), ("x",))
    with pytest.raises(ValueError, match="images of 33x33 pixels cannot be halved"):
        fitted(Sets(odd, odd, odd))
    with pytest.raises(ValueError, match="distance must be 0 to 6 pixels"):
        at_border(digits[1], 7, 0)
    for config in (PADDING, SHARING):
        with pytest.raises(ValueError, match=f"{config.study} says itself .* write --shift=0, not"):
            cut(dataclasses.replace(config, shift=2), *digits)


# ---- padding ----


@pytest.fixture(scope="module")
def padded(digits):
    return STUDIES["padding"](PADDING, Task((32, 32, 1), 10, 12))


def test_training_and_test_images_lie_anywhere_and_share_no_image(digits):
    sets, source = cut(PADDING, *digits)
    assert source is None
    assert [len(part.labels) for part in sets] == [300, 500, 1000]
    tops = [margins(image)[0] for image in sets.training.images]
    assert min(tops) == 0
    assert max(tops) >= 12


def test_arms_differ_in_padding_alone(padded):
    image = jnp.zeros((1, 32, 32, 1))
    trees, fields = [], []
    for arm in padded.arms:
        shapes = jax.eval_shape(arm.module.init, jax.random.key(0), image)
        trees.append(jax.tree.map(jnp.shape, shapes))
        body = arm.module.clone(layers=arm.module.layers[:-2])
        row = analysis.receptive_field(body, image, train=False).axes[0]
        fields.append((row.size, row.stride, row.padding, len(row.first)))
    assert [arm.name for arm in padded.arms] == ["valid", "same", "padded_once"]
    assert trees[0] == trees[1] == trees[2]
    # By hand: 3, 5, pooled 6, then 2 (3 - 1) twice, 14, pooled 16, then 4 (3 - 1), 24; padding
    # 1 + 1 + 2 + 2 + 4.
    assert fields == [(24, 4, 0, 3), (24, 4, 10, 8), (24, 4, 10, 8)]
    for arm, (size, _, pad, positions) in zip(padded.arms, fields, strict=True):
        columns = arm.account
        assert (columns["receptive_field"], columns["padding"]) == (size, pad)
        assert columns["last_size"] == f"{positions}x{positions}"
    equal = {"layers", "receptive_field", "parameters", "steps"}
    accounts = [arm.account for arm in padded.arms]
    assert {name for name in accounts[0] if len({a[name] for a in accounts}) == 1} == equal


def test_accuracy_by_distance_is_that_of_the_scores(padded, digits):
    # A classifier that is right unless ink touches the uppermost row.
    sets, _ = cut(PADDING, *digits)
    labels = sets.test.labels

    def scores(images):
        wrong = images[:, 0].any(axis=(1, 2))
        return np.eye(10)[np.where(wrong, (labels + 1) % 10, labels)]

    trained = Trained(padded.arms[0], 0, None, sets, make_normalize(sets.training), scores)
    measured = measure(trained)
    border, corner = measured.curves["border"], measured.curves["corner"]
    assert border.x == corner.x == (0, 1, 2, 4, 6)
    assert border.y[1:] == corner.y[1:] == (1, 1, 1, 1)
    # One border of four, and two corners of four: binomial, 5 deviations.
    assert abs(border.y[0] - 0.75) < 5 * (0.75 * 0.25 / 1000) ** 0.5
    assert abs(corner.y[0] - 0.5) < 5 * (0.25 / 1000) ** 0.5
    assert measured.outcome == border.y[0]


@pytest.mark.slow
def test_a_small_run_compares_accuracies_at_the_border(tmp_path, monkeypatch, padded):
    two = dataclasses.replace(padded, arms=padded.arms[:2])
    monkeypatch.setitem(STUDIES, "padding", lambda config, task: two)
    ablate.ablate(dataclasses.replace(PADDING, run_dir=str(tmp_path / "run")))
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["arm"] for record in found] == ["valid", "same"]
    for record in found:
        assert record["metrics"]["outcome"] == record["measurements"]["border"]["y"][0]
        assert record["outcome"] == "accuracy at the border"


# ---- sharing ----


@pytest.fixture(scope="module")
def shared(digits):
    sets, source = cut(SHARING, *digits)
    return STUDIES["sharing"](SHARING, Task((32, 32, 1), 10, 12, source=source)), sets, source


def test_centred_and_shifted_are_the_same_images(shared):
    _, sets, source = shared
    for one, other in zip(sets, source, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        for a, b in zip(one.images[:30], other.images[:30], strict=True):
            np.testing.assert_array_equal(ink(a)[0], ink(b)[0])
        assert (one.images != other.images).any()


def test_sharing_has_arms_in_pairs_whose_columns_are_what_is_said(shared):
    study, _, source = shared
    arms = {arm.name: arm for arm in study.arms}
    kinds = ["conv", "local", "conv_wide", "dense"]
    assert list(arms) == [f"{kind}_{place}" for place in ("centred", "shifted") for kind in kinds]
    for kind in kinds:
        one, other = arms[f"{kind}_centred"], arms[f"{kind}_shifted"]
        assert one.module == other.module
        assert one.sets is None
        assert one.against is None
        assert other.sets is source
        assert other.against == "conv_shifted"
    conv, local, wide, dense = (arms[f"{kind}_centred"].account for kind in kinds)
    for column in ("macs", "activation_values", "width"):
        assert conv[column] == local[column]
    # By hand, at 2 filters: 16 * 16 and 8 * 8 positions, each with its own kernels and biases.
    head = 8 * 8 * 4 * 10 + 10
    assert conv["parameters"] == (25 * 2 + 2) + (9 * 2 * 4 + 4) + head
    assert local["parameters"] == 16 * 16 * (25 * 2 + 2) + 8 * 8 * (9 * 2 * 4 + 4) + head
    for column in (wide, dense):
        assert abs(column["parameters"] / local["parameters"] - 1) < 0.05


def test_sharing_has_no_arms_without_two_placings():
    with pytest.raises(ValueError, match="two placings of a data set"):
        STUDIES["sharing"](SHARING, Task((32, 32, 1), 10, 1))


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": "SAME"}, {"dilation": 2, "padding": 1}]
)
def test_a_locally_connected_layer_with_equal_kernels_is_a_convolution(options):
    conv, local = Conv(5, (3, 2), **options), LocallyConnected(5, (3, 2), **options)
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 2, 3, 5)).astype("f"), rng.normal(size=5).astype("f")
    expected = conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    shapes = jax.eval_shape(local.init, jax.random.key(0), x)["params"]
    positions = expected.shape[1:3]
    assert shapes["bias"].shape == expected.shape[1:]
    variables = {
        "kernel": ops.unshare(kernel, positions),
        "bias": np.broadcast_to(bias, shapes["bias"].shape),
    }
    assert variables["kernel"].shape == shapes["kernel"].shape
    np.testing.assert_allclose(local.apply({"params": variables}, x), expected, atol=1e-5)


def test_kernels_of_a_locally_connected_layer_are_drawn_as_those_of_a_convolution(quick_to_compile):
    # He: variance 2 / (9 * 4); 16 positions of 9 * 4 * 50 weights each, all different.
    layer = LocallyConnected(50, (3, 3), use_bias=False)
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 6, 6, 4)))
    kernel = np.asarray(variables["params"]["kernel"]).reshape(16, -1)
    assert list(variables["params"]) == ["kernel"]
    np.testing.assert_allclose(kernel.var(axis=1), 2 / 36, rtol=0.2)
    assert abs(np.corrcoef(kernel) - np.eye(16)).max() < 5 / 1800**0.5


@pytest.mark.slow
def test_a_small_run_of_sharing_learns_shifted_images(tmp_path, monkeypatch, shared):
    study, _, _ = shared
    arms = {arm.name: arm for arm in study.arms}
    two = dataclasses.replace(
        study,
        arms=(arms["conv_shifted"], arms["local_shifted"]),
        baseline="conv_shifted",
        headline_arm="local_shifted",
    )
    monkeypatch.setitem(STUDIES, "sharing", lambda config, task: two)
    ablate.ablate(dataclasses.replace(SHARING, run_dir=str(tmp_path / "run")))
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["arm"] for record in found] == ["conv_shifted", "local_shifted"]


def test_all_arms_of_both_studies_are_built_from_flags(capsys):
    for config in (PADDING, SHARING):
        ablate.ablate(config, dry_run=True)
        assert sets_of(config).sets.training.images.shape == (300, 32, 32, 1)
    output = capsys.readouterr().out
    assert "held equal: layers, receptive field, parameters, steps\n" in output
