"""The probe: its data give nothing away, sums are right in half of all cases, fields bound."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import pattern
from experiments import ablate, records
from experiments.config import Config
from experiments.programs import make_normalize
from experiments.studies import STUDIES, Task, Trained, sets_of
from experiments.studies.receptive_field_probe import (
    DISTANCES,
    forced_choice,
    measure,
    narrowest,
)

TINY = Config(
    study="receptive_field_probe",
    dataset="two_marks",
    train_size=1000,
    validation_size=1000,
    epochs=2,
    batch_size=100,
    channels=2,
    shift=0,
    seeds=1,
)
# By hand: (field, stride) of six 3x3 layers, r + (k - 1) d S from layer to layer.
FIELDS = {
    "plain": (1 + 6 * 2, 1),
    "dilated": (1 + 2 * (1 + 1 + 2 + 2 + 4 + 4), 1),
    # Two layers, a pool, two at stride 2, a pool, two at stride 4.
    "pooled": (1 + 2 * 2 + 1 + 2 * 2 * 2 + 2 + 2 * 2 * 4, 4),
    # One layer, one at stride 2, four at stride 4.
    "strided": (1 + 2 + 2 * 2 + 4 * 2 * 4, 4),
    "more_dilated": (1 + 2 * (1 + 2 + 4 + 4 + 8 + 8), 1),
}


def study_of(config=TINY):
    return STUDIES[config.study](config, Task((4, 64, 1), 2, 4, ("different", "equal")))


@pytest.fixture(scope="module")
def arms():
    return {arm.name: arm for arm in study_of().arms}


@pytest.fixture(scope="module")
def sets():
    return sets_of(TINY).sets


def marks_of(images):
    """Columns (N, 2) and brightness (N, 2) of the marks, found by their lack of noise."""
    rows = images.images[..., 0].astype(int)
    uniform = (rows == rows[:, :1]).all(axis=1) & ((rows[:, 0] == 0) | (rows[:, 0] == 255))
    assert (uniform.sum(axis=1) == 2).all()
    columns = np.nonzero(uniform)[1].reshape(-1, 2)
    return columns, np.take_along_axis(rows[:, 0], columns, axis=1) > 0


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_every_image_holds_two_marks_in_noise_and_their_equality_is_the_label(sets, part):
    images = getattr(sets, part)
    columns, bright = marks_of(images)
    np.testing.assert_array_equal(images.labels, bright[:, 0] == bright[:, 1])
    assert set(np.diff(columns)[:, 0]) == set(DISTANCES)
    noise = np.delete(images.images[0, :, :, 0], columns[0], axis=1)
    assert noise.min() >= 96
    assert noise.max() < 160
    assert images.images.dtype == np.uint8
    assert images.images.shape[1:] == (4, 64, 1)


def test_neither_one_mark_nor_place_nor_distance_tells_the_label(sets):
    # A correlation of 1,000 independent pairs has a standard deviation of 1 / sqrt(1,000).
    columns, bright = marks_of(sets.training)
    noise = sets.training.images.mean(axis=(1, 2, 3))
    for told in (bright[:, 0], bright[:, 1], columns[:, 0], np.diff(columns)[:, 0], noise):
        correlation = np.corrcoef(told, sets.training.labels)[0, 1]
        assert abs(correlation) < 4.5 / 1000**0.5


def test_quadruples_are_alike_but_for_their_marks_and_stand_by_distance(sets):
    columns, bright = marks_of(sets.test)
    quadruples = sets.test.images.reshape(-1, 4, 4, 64)
    places = columns.reshape(-1, 4, 2)
    np.testing.assert_array_equal(places, np.broadcast_to(places[:, :1], places.shape))
    np.testing.assert_array_equal(
        bright.reshape(-1, 4, 2),
        np.broadcast_to(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), places.shape),
    )
    for quadruple, place in zip(quadruples, places[:, 0], strict=True):
        noise = np.delete(quadruple, place, axis=2)
        assert (noise == noise[:1]).all()
    per_distance = len(places) // len(DISTANCES)
    np.testing.assert_array_equal(np.diff(places[:, 0])[:, 0], np.repeat(DISTANCES, per_distance))


def test_the_data_hang_on_the_split_seed_alone(sets):
    one, again = sets, sets_of(dataclasses.replace(TINY, first_seed=5)).sets
    other = sets_of(dataclasses.replace(TINY, split_seed=1)).sets
    for a, b, c in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        assert (a.images != c.images).any()
    assert not {i.tobytes() for i in one.training.images} & {i.tobytes() for i in one.test.images}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset": "mnist_5k"}, "write --dataset=two_marks, not --dataset=mnist_5k"),
        ({"shift": 2}, "a shift could move a mark out of the image: write --shift=0, not"),
    ],
)
def test_data_in_which_distances_would_not_hold_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        sets_of(dataclasses.replace(TINY, **changes))


# Eighths, so that sums are exact.
eighths = st.integers(-80, 80).map(lambda n: n / 8)


@given(st.lists(eighths, min_size=4, max_size=4))
@settings(max_examples=200, deadline=None)
def test_sums_of_a_function_of_each_mark_are_right_in_exactly_half(values):
    f0, f1, g0, g1 = values
    margins = np.array([f0 + g0, f0 + g1, f1 + g0, f1 + g1])
    assert forced_choice(margins) == 0.5


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4))
@settings(max_examples=200, deadline=None)
def test_forced_choice_counts_pairs_and_halves_ties(margins):
    both, left, right, none = margins
    pairs = [(both, left), (both, right), (none, left), (none, right)]
    expected = sum(1.0 if e > d else 0.5 if e == d else 0.0 for e, d in pairs) / 4
    assert forced_choice(np.array(margins)) == expected


def test_arms_differ_in_nothing_but_their_field(arms):
    image = jnp.zeros((1, 4, 64, 1))
    trees = [
        jax.tree.map(jnp.shape, jax.eval_shape(arm.module.init, jax.random.key(0), image))
        for arm in arms.values()
    ]
    assert list(arms) == list(FIELDS)
    assert all(tree == trees[0] for tree in trees)
    for name, (field, stride) in FIELDS.items():
        account = arms[name].account
        assert (account["receptive_field"], account["stride"]) == (field, str(stride))
        assert {field - 1, field} <= set(DISTANCES)


def drawn(module, seed):
    """Random weights, and running averages such as a training leaves."""
    image = jnp.zeros((1, 4, 64, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(seed)
    # Averages and scales above 0, kernels and biases of either sign.
    low = {"kernel": -1.0, "bias": -0.5, "mean": -0.5, "scale": 0.5, "var": 0.5}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(rng.uniform(low[path[-1].key], 1, leaf.shape)), shapes
    )


def quadruple(rng, left, distance):
    noise = rng.uniform(-1, 1, (4, 64, 1))
    images = np.repeat(noise[None], 4, axis=0)
    for image, marks in zip(images, [(-4, -4), (-4, 4), (4, -4), (4, 4)], strict=True):
        image[:, left], image[:, left + distance] = marks
    return images


@pytest.mark.parametrize("name", ["plain", "pooled"])
def test_no_weights_tell_marks_that_no_position_sees_together(name, arms):
    # h(0, 0) + h(1, 1) = h(0, 1) + h(1, 0) to the last digits wherever the marks stand from a
    # distance of F on, and at some place not at a distance of F - 1.
    module, (field, _) = arms[name].module, FIELDS[name]
    rng = np.random.default_rng(0)
    outside = [(left, field) for left in range(0, 64 - field, 5)] + [(0, field + 1)]
    inside = [(left, field - 1) for left in range(65 - field)]
    images = np.concatenate([quadruple(rng, *place) for place in outside + inside])
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, drawn(module, 1))
        scores = np.asarray(module.apply(variables, jnp.asarray(images), train=False))
    scores = scores.reshape(-1, 4, 2)
    interaction = np.abs(scores[:, 0] + scores[:, 3] - scores[:, 1] - scores[:, 2]).max(axis=1)
    spread = np.ptp(scores, axis=1).max()
    assert interaction[: len(outside)].max() < 1e-12 * spread
    assert interaction[len(outside) :].max() > 1e-9 * spread


def test_measuring_reads_a_hand_made_network_right(arms, sets):
    # It knows the answer up to a distance of 12, and beyond goes by the left mark.
    columns, bright = marks_of(sets.test)
    near = np.diff(columns)[:, 0] <= 12
    margins = np.where(near, 2.0 * sets.test.labels - 1, bright[:, 0])
    arm = arms["plain"]
    trained = Trained(
        arm=arm,
        seed=0,
        variables=drawn(arm.module, 0),
        sets=sets,
        normalize=make_normalize(sets.training),
        scores=lambda images: np.stack([-margins, margins], axis=1),
    )
    measured = measure(trained)
    chosen, influence = measured.curves["forced_choice"], measured.curves["influence"]
    assert chosen.x == DISTANCES
    assert chosen.y == tuple(1.0 if d <= 12 else 0.5 for d in DISTANCES)
    assert chosen.marks == (12.0,)
    assert measured.outcome == pytest.approx((3 + 0.5 * 11) / 14)
    # Margins of 0 count as "different", those of 1 as "equal": half of either kind.
    assert measured.curves["accuracy"].y == chosen.y
    # Column 32 of 64 is the middle; outside of the field nothing has any influence.
    assert influence.x == tuple(range(64))
    assert max(influence.y) == 1.0
    assert influence.marks == (26.0, 38.0)
    assert all((y > 0) == (abs(x - 32) <= 6) for x, y in zip(influence.x, influence.y, strict=True))


@pytest.fixture(scope="module")
def small():
    """An arm of one convolution along the row, which sees 9 columns."""
    text = "INPUT[4x64x1] -> CONV1x3-1[dilation=1x4] -> GAP -> FC-2"
    return dataclasses.replace(study_of().arms[0], module=pattern.to_module(pattern.parse(text)))


def test_the_influence_of_one_layer_is_its_kernel(small, sets):
    # Of one filter it is |weight| by column, whatever the image.
    kernel = jnp.array([0.5, -2.0, 1.0]).reshape(1, 3, 1, 1)
    variables = {"params": {"conv0": {"kernel": kernel, "bias": jnp.ones(1)}}}
    normalize = make_normalize(sets.training)
    trained = Trained(small, 0, variables, sets, normalize, lambda x: np.ones((len(x), 2)))
    influence = measure(trained).curves["influence"]
    found = {x: y for x, y in zip(influence.x, influence.y, strict=True) if y}
    assert found == pytest.approx({28.0: 0.25, 32.0: 1.0, 36.0: 0.5})
    assert influence.marks == (28.0, 36.0)
    # 0.25 + 1 of 1.75 is less than 95 %: all three taps, 8 columns from first to last.
    assert measure(trained).curves["forced_choice"].observed == (8.0,)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95, 1.0])
def test_the_narrowest_columns_are_those_of_trying_all(share):
    influence = np.random.default_rng(int(100 * share)).integers(0, 9, 12).astype(float)
    spans = [
        end - start
        for start in range(12)
        for end in range(start + 1, 13)
        if influence[start:end].sum() >= share * influence.sum()
    ]
    assert narrowest(influence, share) == min(spans)


def test_a_small_run_records_its_curves(tmp_path, monkeypatch, small):
    alone = dataclasses.replace(study_of(), arms=(small,), headline_arm="plain")
    monkeypatch.setitem(STUDIES, "receptive_field_probe", lambda config, task: alone)
    ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run")))
    (record,), _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert record["num_examples"]["test"] == 4 * 50 * len(DISTANCES)
    assert record["measurements"].keys() == {"forced_choice", "accuracy", "influence"}
    curve = record["measurements"]["forced_choice"]
    assert curve["marks"] == [8.0]
    assert record["metrics"]["outcome"] == pytest.approx(np.mean(curve["y"]))
    # One linear layer tells nothing at any distance, but where round-off splits equal sums.
    assert all(abs(y - 0.5) < 0.1 for y in curve["y"])
