"""The studies of how networks are trained: augmentation, dropout, first weights, ensembles."""

import dataclasses
import functools
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import pattern
from cnnjax.data import Images
from cnnjax.pattern import specs
from cnnjax.pattern.sizing import layer_names
from cnnjax.training import Draws, stream
from experiments import ablate, programs
from experiments.config import Config
from experiments.studies import STUDIES, Sets, Task, Trained
from experiments.studies.ensemble import Ensemble

DIGITS = Images(
    np.random.default_rng(5).integers(0, 256, (40, 28, 28, 1), np.uint8),
    np.arange(40) % 10,
    tuple("0123456789"),
)
TASK = Task((28, 28, 1), 10, 100, training=DIGITS)


def study(name, task=TASK, **flags):
    config = Config(study=name, channels=2, **flags)
    return STUDIES[name](config, task), config


def shapes(module):
    x = jnp.zeros((1, *TASK.image_shape))
    return jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), x))


def fake(arm, **more):
    return Trained(
        **{"arm": arm, "seed": 0, "variables": {}, "sets": None, "normalize": None, "scores": None}
        | more
    )


# Augmentation.
SHIFTED = {"flip": True, "shift": 3}
DEPARTURES = {
    "none": {},
    "flips": {"flip": True},
    "alternating_flips": {"flip": True, "flip_kind": "alternating"},
    "shifts": {"shift": 3},
    "flips_shifts": SHIFTED,
    "reflected": {**SHIFTED, "shift_mode": "reflect"},
    "cutout": {**SHIFTED, "cutout": 8},
    "mixup": {**SHIFTED, "mixup": 0.5},
    "label_smoothing": {**SHIFTED, "label_smoothing": 0.1},
    "color_jitter": {**SHIFTED, "color_jitter": 0.2},
    "pca_lighting": {**SHIFTED, "pca_lighting": 0.1},
    "test_flips": {**SHIFTED, "tta_flip": True},
}
AGAINST = dict.fromkeys(DEPARTURES, "flips_shifts")
AGAINST |= {"none": None, "flips": "none", "shifts": "none", "flips_shifts": "none"}
AGAINST |= {"alternating_flips": "flips"}


def test_each_augmentation_is_what_it_is_compared_with_and_one_thing_more():
    found, config = study(
        "augmentation", augmentations=",".join(list(DEPARTURES)[1:]), shift=3, mixup=0.5, flip=True
    )
    off = Config(study="augmentation", channels=2, shift=0, augmentations=config.augmentations)
    assert [arm.name for arm in found.arms] == list(DEPARTURES)
    for arm in found.arms:
        expected = dataclasses.replace(off, **DEPARTURES[arm.name])
        assert config.with_settings(arm.settings) == expected
        assert arm.against == AGAINST[arm.name]
        assert arm.module == found.arms[0].module
        assert arm.account == found.arms[0].account


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("augmentation", {"augmentations": "flips"}, "must name flips_shifts"),
        ("augmentation", {"augmentations": "flips_shifts,alternating_flips"},
         "alternating_flips is compared with flips; name it too"),
        ("augmentation", {"augmentations": "flip,flips_shifts"}, "unknown --augmentations 'flip'"),
        ("ensemble", {"ensemble_sizes": "3,5"}, "growing whole numbers from 1 on"),
        ("ensemble", {"ensemble_sizes": "1,two"}, "got '1,two'"),
        ("recipe", {"without": "flips"}, "names flips, which the recipe does not have"),
        ("recipe", {"without": "smoothing"}, "unknown --without 'smoothing'"),
    ],
)  # fmt: skip
def test_a_study_of_nothing_is_refused(name, flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        study(name, **flags)


# What the flags of augmentation mean, on the images themselves.
IMAGES = jnp.asarray(np.random.default_rng(0).integers(1, 256, (6, 8, 8, 3)), jnp.uint8)
DRAWS = Draws(jax.random.key(1), jax.random.key(2), jnp.arange(6), jnp.int32(0))


def augmented(**flags):
    components = programs.datasets.color_components(np.asarray(IMAGES))
    config = Config(**{"shift": 0, **flags})
    return programs.augment(config, DRAWS, IMAGES, components=components, fill=0)


def test_each_flag_of_augmentation_does_something_and_none_by_itself_nothing():
    assert (augmented() == IMAGES).all()
    for flags in (
        {"shift": 2},
        {"flip": True},
        {"flip": True, "flip_kind": "alternating"},
        {"color_jitter": 0.5},
        {"pca_lighting": 0.5},
        {"cutout": 3},
    ):
        assert (augmented(**flags) != IMAGES).any(), flags
    # Reflected borders are never black; the images are not.
    assert (augmented(shift=3) == 0).any()
    assert (augmented(shift=3, shift_mode="reflect") != 0).all()


def test_a_flag_of_augmentation_moves_no_draw_of_another():
    square = (augmented(cutout=3) == 0).all(-1)
    assert (square.sum((1, 2)) > 0).all()
    for others in ({"shift": 2, "shift_mode": "reflect"}, {"flip": True}, {"pca_lighting": 0.001}):
        np.testing.assert_array_equal((augmented(cutout=3, **others) == 0).all(-1), square)


# Dropout.
def test_arms_of_dropout_differ_in_where_values_are_dropped_alone():
    found, _ = study("dropout")
    rates = {
        "none": [],
        "input_20": [("input0", 0.2)],
        "pooling_25": [("pool0", 0.25), ("pool1", 0.25)],
        "pooling_50": [("pool0", 0.5), ("pool1", 0.5)],
        "dense_25": [("relu2", 0.25)],
        "dense_50": [("relu2", 0.5)],
    }
    first = found.arms[0]
    for arm in found.arms:
        layers = list(zip(layer_names(arm.module.layers), arm.module.layers, strict=True))
        dropped = [
            (before, layer.rate)
            for (before, _), (name, layer) in itertools.pairwise(layers)
            if name.startswith("dropout")
        ]
        assert dropped == rates[arm.name]
        kept = [layer for name, layer in layers if not name.startswith("dropout")]
        assert kept == list(first.module.layers)
        assert shapes(arm.module) == shapes(first.module)
        assert arm.account == first.account


def test_the_gap_of_dropout_is_training_minus_test_accuracy():
    found, _ = study("dropout")
    names = ("0", "1")
    # The fake network says 1 where the first pixel is bright.
    bright = np.zeros((8, 2, 2, 1), np.uint8)
    bright[:6] = 255
    sets = Sets(
        *(
            Images(bright, np.array(labels, np.int32), names)
            for labels in ([1] * 6 + [0, 1], [0] * 8, [1] * 4 + [0, 1, 1, 0])
        )
    )
    measured = found.measure(
        fake(found.arms[0], sets=sets, scores=lambda x: np.eye(2)[(x[:, 0, 0, 0] > 9).astype(int)])
    )
    assert measured.curves["training_accuracy"].y == (7 / 8,)
    # Of the test images four, then one of four, are called right.
    assert measured.curves["gap"].y == (7 / 8 - 6 / 8,)
    assert measured.curves["gap"].x == (TASK.num_steps,)


# First weights.
def test_arms_of_first_weights_differ_in_their_spread_or_in_normalisation():
    found, _ = study("initialisation")
    kernels = {}
    plain = found.arms[0].module.layers
    for arm in found.arms:
        kernels[arm.name] = arm.module.kernel_init(jax.random.key(0), (3, 3, 2, 2))
        normalised = arm.name.endswith("batch_norm")
        of_norms = [layer for layer in arm.module.layers if isinstance(layer, specs.BatchNorm)]
        assert len(of_norms) == 9 * normalised
        assert [layer for layer in arm.module.layers if layer not in of_norms] == list(plain)
    # 3 x 3 x 2 inputs and as many outputs: He's are sqrt 2 times the others', with the same key.
    he = np.asarray(kernels["he"])
    for name, factor in (("glorot", 0.5**0.5), ("lecun", 0.5**0.5), ("he_batch_norm", 1)):
        np.testing.assert_allclose(kernels[name], factor * he, rtol=1e-5)
    np.testing.assert_array_equal(kernels["normal_001"], kernels["normal_001_batch_norm"])
    assert 0.005 < kernels["normal_001"].std() < 0.015
    columns = np.asarray(kernels["orthogonal"]).reshape(18, 2)
    np.testing.assert_allclose(columns.T @ columns, 2 * np.eye(2), atol=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_deviations_of_the_first_step_are_those_of_matrix_products(normalised):
    found, _ = study("initialisation")
    norm = "BN -> " if normalised else ""
    text = f"INPUT[2x2x3] -> CONV1-4 -> {norm}RELU -> CONV1-5 -> {norm}RELU -> GAP -> FC-2"
    arm = dataclasses.replace(found.arms[0], module=pattern.to_module(pattern.parse(text)))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 3)).astype(np.uint8)
    learnt = Images(pixels, np.zeros(20, np.int32), ("0", "1"))

    def normalize(images):
        return jnp.asarray(images, jnp.float32) / 100

    measured = found.measure(
        fake(arm, seed=7, sets=Sets(learnt, learnt, learnt), normalize=normalize)
    )
    key = stream(7, "initialisation")
    params = arm.module.init(key, jnp.zeros((1, 2, 2, 3)), train=False)["params"]
    x, expected = pixels.reshape(-1, 3) / 100, []
    for name in ("conv0", "conv1"):
        x = x @ np.float64(params[name]["kernel"][0, 0])
        if normalised:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        expected.append(np.log10(x.std()))
        x = np.maximum(x, 0)
    (curve,) = measured.curves.values()
    assert curve.x == (1, 2)
    np.testing.assert_allclose(curve.y, expected, rtol=1e-4, atol=1e-5)


# Ensembles.
class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


def test_an_ensemble_gives_each_score_in_training_and_the_mean_probability_after():
    module = Ensemble(Linear, 3)
    x = jax.random.normal(jax.random.key(0), (5, 2, 2, 1))
    variables = module.init(jax.random.key(1), x)
    heads = [variables["params"][f"member{i}"]["head"] for i in range(3)]
    scores = [
        np.float64(x).reshape(5, 4) @ np.float64(head["kernel"]) + np.float64(head["bias"])
        for head in heads
    ]
    for got, expected in zip(module.apply(variables, x, train=True), scores, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    mean = np.mean([np.exp(s) / np.exp(s).sum(-1, keepdims=True) for s in scores], axis=0)
    np.testing.assert_allclose(np.exp(module.apply(variables, x)), mean, rtol=1e-4)
    assert len({float(head["kernel"].sum()) for head in heads}) == 3


def test_members_that_two_ensembles_share_start_from_the_same_weights():
    x = jnp.zeros((1, 2, 2, 1))
    one, three = (Ensemble(Linear, k).init(jax.random.key(4), x)["params"] for k in (1, 3))
    jax.tree.map(np.testing.assert_array_equal, one["member0"], three["member0"])


def test_ensembles_have_whole_multiples_of_one_network_and_the_wide_one_as_many_parameters():
    found, _ = study("ensemble", ensemble_sizes="1,2,4")
    accounts = {arm.name: arm.account for arm in found.arms}
    assert list(accounts) == ["members_1", "members_2", "members_4", "wide"]
    for size in (2, 4):
        for column in ("parameters", "macs"):
            one = accounts["members_1"][column]
            assert accounts[f"members_{size}"][column] == size * one
    # No other width comes nearer.
    wanted, width = accounts["members_4"]["parameters"], accounts["wide"]["width"]

    def parameters(width):
        w = width
        convolutions = 4 * 1 * w + 9 * w * 2 * w + 9 * 2 * w * 4 * w
        return convolutions + 3 * (w + 2 * w + 4 * w) + 4 * w * 10 + 10

    assert accounts["wide"]["parameters"] == parameters(width)
    nearest = min(range(1, 50), key=lambda w: abs(parameters(w) - wanted))
    assert width == nearest


def test_the_curve_over_members_is_the_accuracy_of_their_mean_probabilities():
    found, _ = study("ensemble", ensemble_sizes="1,3")
    rng = np.random.default_rng(0)
    arm = dataclasses.replace(found.arms[1], module=Ensemble(Linear, 3))
    images = Images(
        rng.integers(0, 256, (40, 2, 2, 1)).astype(np.uint8),
        rng.integers(0, 3, 40).astype(np.int32),
        ("0", "1", "2"),
    )
    params = {
        f"member{i}": {"head": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}}
        for i in range(3)
    }

    def normalize(x):
        return jnp.asarray(x, jnp.float32) / 255

    measured = found.measure(
        fake(
            arm,
            variables={"params": jax.tree.map(jnp.asarray, params)},
            sets=Sets(images, images, images),
            normalize=normalize,
        )
    )
    flat = images.images.reshape(40, 4) / 255
    chances = []
    for member in params.values():
        raised = np.exp(flat @ member["head"]["kernel"] + member["head"]["bias"])
        chances.append(raised / raised.sum(-1, keepdims=True))

    def accuracy(*members):
        return np.mean(sum(chances[m] for m in members).argmax(-1) == images.labels)

    curve = measured.curves["accuracy_by_members"]
    expected = [
        np.mean([accuracy(0), accuracy(1), accuracy(2)]),
        np.mean([accuracy(0, 1), accuracy(1, 2), accuracy(2, 0)]),
        accuracy(0, 1, 2),
    ]
    assert curve.x == (1, 2, 3)
    np.testing.assert_allclose(curve.y, expected, rtol=1e-12)
    assert not found.measure(fake(found.arms[0])).curves


def test_the_recipe_and_its_parts():
    found, config = study(
        "recipe", label_smoothing=0.1, flip=True, without="label_smoothing,flips,shifts"
    )
    settings = {arm.name: dict(arm.settings) for arm in found.arms}
    assert settings == {
        "whole": {},
        "without_label_smoothing": {"label_smoothing": 0.0},
        "without_flips": {"flip": False},
        "without_shifts": {"shift": 0},
    }
    assert all(arm.account == found.arms[0].account for arm in found.arms)
    assert config.flip


def test_the_recipe_alone_is_one_arm_of_an_airbench_network():
    found, _ = study("recipe", without="")
    assert [arm.name for arm in found.arms] == [found.baseline] == [found.headline_arm] == ["whole"]
    assert found.question == "What does the recipe reach?"
    # Biases of the whitening, kernels of 3x3 and biases of the norms, and the scores.
    widths = [8, 2, 2, 8, 8, 16, 16]
    expected = 8 + sum(9 * a * b + b for a, b in itertools.pairwise(widths)) + 16 * 10
    assert found.arms[0].account["parameters"] == expected


def test_the_recipe_whitens_what_the_network_gets():
    found, _ = study("recipe", without="whitening,identity")
    whole, drawn, uniform = (arm.module for arm in found.arms)
    normalized = programs.make_normalize(DIGITS)(jnp.asarray(DIGITS.images))
    variables = whole.init(jax.random.key(0), normalized)
    kernel = variables["constants"]["whiten"]["kernel"]
    patches = np.stack(
        [normalized[:, i : i + 27, j : j + 27, 0] for i in (0, 1) for j in (0, 1)], axis=-1
    ).reshape(-1, 4)
    out = patches.astype(np.float64) @ np.asarray(kernel, np.float64).reshape(4, 8)[:, :4]
    # Digits of noise vary in all directions, so that the epsilon is nothing to see.
    np.testing.assert_allclose(out.T @ out / len(out), np.eye(4), atol=2e-3)
    # Nothing but the first layer, or its start, differs.
    assert drawn.whitening is None
    assert drawn.clone(whitening=whole.whitening) == whole
    assert not uniform.identity
    assert uniform.clone(identity=True) == whole
    assert [dict(arm.settings) for arm in found.arms] == [{}, {}, {}]
    # 2x2 taps and 8 filters of one channel, learnt.
    more = [arm.account["parameters"] - found.arms[0].account["parameters"] for arm in found.arms]
    assert more == [0, 32, 0]
    assert len({arm.account["macs"] for arm in found.arms}) == 1


def test_the_recipe_has_no_arms_without_images_to_whiten():
    with pytest.raises(ValueError, match="has no arms without them"):
        study("recipe", dataclasses.replace(TASK, training=None))


# Whole runs on a few digits, 8 steps.
TINY = functools.partial(
    Config, validation_size=3872, epochs=2, batch_size=32, channels=1, seeds=1, warmup_epochs=0.5
)


def records_of(config, directory):
    ablate.ablate(dataclasses.replace(config, run_dir=str(directory)))
    lines = [json.loads(line) for line in (directory / "runs.jsonl").read_text().splitlines()]
    return {line["arm"]: line for line in lines}


@pytest.mark.slow
def test_ensembles_are_trained_and_measured_in_a_run(tmp_path):
    found = records_of(TINY(study="ensemble", ensemble_sizes="1,2"), tmp_path / "run")
    assert list(found) == ["members_1", "members_2", "wide"]
    assert found["wide"]["against"] == "members_2"
    curve = found["members_2"]["measurements"]["accuracy_by_members"]
    # The program and the measurement come to the same accuracy of both together.
    assert curve["y"][-1] == found["members_2"]["metrics"]["test_accuracy"]
    # Two losses near ln 10 are summed.
    assert (
        found["members_2"]["curve"][0]["train_loss"]
        > 1.5 * found["members_1"]["curve"][0]["train_loss"]
    )


def test_the_views_of_the_test_are_mirrors_of_shifts():
    def seen(**flags):
        views = programs.make_test_views(Config(**flags))
        return None if views is None else np.asarray(views(IMAGES))

    images = np.asarray(IMAGES)
    reflected = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifted = [images, reflected[:, 4:, 4:], reflected[:, :-4, :-4]]
    assert seen() is None
    np.testing.assert_array_equal(seen(tta_flip=True), [images, images[:, :, ::-1]])
    np.testing.assert_array_equal(seen(tta_shift=2), shifted)
    np.testing.assert_array_equal(
        seen(tta_shift=2, tta_flip=True), shifted + [view[:, :, ::-1] for view in shifted]
    )


def test_shifts_that_the_images_do_not_allow_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"diagonal_shifts: pixels must be from 0 to 27 .* got 28"):
        programs.refuse_augmentation(Config(tta_shift=28), (28, 28, 1))


@pytest.mark.slow
def test_the_recipe_trains_by_muon_and_test_shifts_change_the_test_alone(tmp_path):
    flags = {"recipe": "muon", "learning_rate": 0.1, "tta_shift": 1, "tta_flip": True}
    parts = "test_shifts,whitening,identity"
    found = records_of(TINY(study="recipe", without=parts, **flags), tmp_path / "run")
    whole, unshifted = found["whole"], found["without_test_shifts"]
    assert whole["curve"] == unshifted["curve"]
    assert whole["metrics"]["test_loss"] != unshifted["metrics"]["test_loss"]
    losses = [line["curve"][-1]["train_loss"] for line in found.values()]
    assert len(set(losses)) == 3
    assert all(
        line["curve"][1]["train_loss"] < line["curve"][0]["train_loss"] for line in found.values()
    )


@pytest.mark.slow
def test_a_seed_is_paired_over_augmentations_and_test_flips_change_the_test_alone(tmp_path):
    chosen = "flips,alternating_flips,flips_shifts,mixup,pca_lighting,test_flips"
    found = records_of(TINY(study="augmentation", augmentations=chosen), tmp_path / "run")
    assert found["test_flips"]["curve"] == found["flips_shifts"]["curve"]
    losses = {arm: line["metrics"]["test_loss"] for arm, line in found.items()}
    assert len(set(losses.values())) == len(losses) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dropout", "initialisation"])
def test_every_arm_of_a_study_trains_and_is_measured(name, tmp_path):
    found = records_of(TINY(study=name), tmp_path / "run")
    planned = next(iter(found.values()))["planned_arms"]
    assert list(found) == planned
    assert all(line["measurements"] for line in found.values())


@pytest.mark.parametrize("name", ["augmentation", "dropout", "ensemble", "initialisation"])
def test_the_arm_table_says_that_the_steps_are_equal(name, capsys):
    ablate.ablate(TINY(study=name), dry_run=True)
    (held,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("held equal")]
    assert "steps" in held
