"""The study of depth: plain and residual networks, their widths, and what is measured of them."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.data import Images
from experiments import ablate, records
from experiments.config import Config
from experiments.studies import STUDIES, Sets, Task, Trained

TINY = Config(
    study="depth",
    depths="8,14",
    norms="batch,none",
    validation_size=3700,
    epochs=2,
    batch_size=50,
    channels=1,
    seeds=1,
    checkpoint_seconds=0.0,
)
TASK = Task((28, 28, 1), 10, 12)
# The function of the same name hides it.
module_of_study = importlib.import_module("experiments.studies.depth")


@pytest.fixture(scope="module")
def study():
    return STUDIES["depth"](TINY, TASK)


def shapes(module, image=(28, 28, 1)):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, *image)))


def test_each_arm_is_compared_with_the_one_that_differs_in_one_thing(study):
    assert {arm.name: arm.against for arm in study.arms} == {
        "plain_8": None,
        "residual_8": "plain_8",
        "plain_14": "plain_8",
        "residual_14": "plain_14",
        "plain_8_no_norm": None,
        "residual_8_no_norm": "plain_8_no_norm",
        "plain_14_no_norm": "plain_8_no_norm",
        "residual_14_no_norm": "plain_14_no_norm",
    }
    assert (study.baseline, study.headline_arm) == ("plain_8", "residual_14")


def test_shortcuts_change_no_weight_and_no_cost(study):
    arms = {arm.name: arm for arm in study.arms}
    for plain in ("plain_8", "plain_14", "plain_8_no_norm", "plain_14_no_norm"):
        one, other = arms[plain], arms[plain.replace("plain", "residual")]
        costs = [{**arm.account, "shortcuts": ""} for arm in (one, other)]
        assert costs[0] == costs[1]
        assert one.account["shortcuts"] == "none"
        assert other.account["shortcuts"] == "A"
        # Equal names and shapes start from equal weights.
        assert shapes(one.module) == shapes(other.module)


def test_the_depth_is_that_of_the_layers_with_weights(study):
    for arm in study.arms:
        leaves = jax.tree_util.tree_flatten_with_path(shapes(arm.module)["params"])[0]
        kernels = [path for path, _ in leaves if path[-1].key == "kernel"]
        assert len(kernels) == arm.account["depth"]
        normed = any(path[-1].key == "scale" for path, _ in leaves)
        assert normed == (not arm.name.endswith("no_norm"))


def test_widths_are_those_of_the_stages():
    widths, num_blocks, channels = (2, 3, 5), 2, 3
    count, before = 9 * channels * widths[0], widths[0]
    norms = widths[0]
    for width in widths:
        for _ in range(2 * num_blocks):
            count, before, norms = count + 9 * before * width, width, norms + width
    count += 2 * norms + before * 10 + 10
    net = models.create("cifar_resnet20", depth=6 * num_blocks + 2, widths=widths)
    found = shapes(net, (32, 32, 3))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == count
    assert [info.channels for info in net.feature_info] == [2, 3, 5]


@pytest.mark.parametrize(
    ("widths", "sentence"),
    [
        ((16, 32), r"widths must be three numbers of at least 1, one a stage, got \(16, 32\)"),
        ((0, 1, 2), "widths must be three numbers of at least 1"),
        ((4, 2, 8), r'shortcut="A" can add channels and not take them away'),
    ],
)
def test_widths_that_no_network_has_are_refused(widths, sentence):
    with pytest.raises(ValueError, match=f"CifarResNet: {sentence}"):
        models.create("cifar_resnet20", widths=widths)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depths": "8"}, "--depths must be two or more numbers 6n"),
        ({"depths": "8,8"}, "--depths must be two or more numbers"),
        ({"depths": "8,21"}, "--depths must be two or more numbers 6n.*got '8,21'"),
        ({"depths": "2,8"}, "of at least 8"),
        ({"depths": "eight"}, "as in 8,20,32; got 'eight'"),
        ({"norms": "batch,batch"}, "--norms must be batch, none or batch,none; got"),
        ({"norms": "group"}, "--norms must be batch, none or batch,none; got 'group'"),
    ],
)
def test_flags_that_mean_nothing_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        STUDIES["depth"](dataclasses.replace(TINY, **changes), TASK)


def test_training_accuracy_counts_training_images_alone_and_no_more_than_it_says(
    study, monkeypatch
):
    monkeypatch.setattr(module_of_study, "_MOST_MEASURED", 4)
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    training = Images(pixels, np.array([0, 1, 2, 0, 1, 2], np.int32), ("a", "b", "c"))
    # Of another size, so that scores of them could not be counted by mistake.
    nothing = Images(pixels[:1], np.array([9], np.int32), ("a", "b", "c"))
    answers = np.array([0, 1, 1, 1, 1, 2])  # Right, right, wrong, wrong, and two beyond.

    def scores(images):
        return np.eye(3)[answers[images[:, 0, 0, 0]]]

    sets = Sets(training, nothing, nothing)
    trained = Trained(study.arms[0], 0, {}, sets, lambda images: images, scores)
    measured = study.measure(trained)
    curve = measured.curves["training_accuracy"]
    assert (curve.x, curve.y) == ((2.0,), (0.5,))
    assert measured.outcome is None


def test_the_dry_run_says_what_is_held_equal(capsys):
    ablate.ablate(dataclasses.replace(TINY, depths="8,14", norms="batch"), dry_run=True)
    output = capsys.readouterr().out
    assert "held equal: steps, norm\n" in output
    assert "300 training, 3,700 validation and 1,000 test images; 6 steps of 50" in output


@pytest.mark.slow
def test_all_arms_train(tmp_path):
    ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run")))
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert len(found) == 8
    for record in found:
        (accuracy,) = record["measurements"]["training_accuracy"]["y"]
        assert accuracy * 300 == pytest.approx(round(accuracy * 300))
