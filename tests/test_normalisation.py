"""The study of normalisation: one network, normalised in several ways or not at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ablate, records
from experiments.config import Config
from experiments.studies import STUDIES, Task

TINY = Config(
    study="normalisation",
    validation_size=3700,
    epochs=2,
    batch_size=50,
    channels=4,
    seeds=1,
    checkpoint_seconds=0.0,
)
TASK = Task((28, 28, 1), 10, 12)
ARMS = ["none", "local_response_mean", "local_response_sum", "batch", "group", "layer"]


@pytest.fixture(scope="module")
def arms():
    study = STUDIES["normalisation"](TINY, TASK)
    assert [arm.name for arm in study.arms] == ARMS
    return {arm.name: arm for arm in study.arms}


def parameters(arm):
    return jax.eval_shape(arm.module.init, jax.random.key(0), jnp.ones((1, 28, 28, 1)))["params"]


def test_arms_share_all_weights_but_scales_and_shifts(arms):
    plain = parameters(arms["none"])
    assert sorted(plain) == ["conv0", "conv1", "conv2", "conv3", "head"]
    for name, arm in arms.items():
        found = parameters(arm)
        assert {layer: found[layer] for layer in plain} == plain
        added = {layer for layer in found if layer not in plain}
        with_scale = name in ("batch", "group", "layer")
        assert added == ({"norm0", "norm1", "norm2", "norm3"} if with_scale else set())
        # A scale and a shift for each of 4, 4, 8 and 8 channels.
        assert arm.account["parameters"] - arms["none"].account["parameters"] == 48 * with_scale
        held = ("macs", "activation_values", "steps")
        assert [arm.account[key] for key in held] == [arms["none"].account[key] for key in held]


@pytest.mark.parametrize(
    ("name", "weight"), [("local_response_mean", 0.4 / 5), ("local_response_sum", 0.4)]
)
def test_local_response_normalisation_follows_the_relu_in_its_convention(arms, name, weight):
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    rectified = np.maximum(x, 0).astype(np.float64)
    expected = np.zeros_like(rectified)
    for channel in range(8):
        around = rectified[..., max(channel - 2, 0) : channel + 3]
        energy = 2 + weight * (around**2).sum(axis=-1)
        expected[..., channel] = rectified[..., channel] / energy**0.75
    found = arms[name].module.activation(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_alpha_for_images_64_times_as_large_is_4096_times_smaller(arms):
    weaker = dataclasses.replace(TINY, lrn_alpha=TINY.lrn_alpha / 64**2)
    other = {arm.name: arm for arm in STUDIES["normalisation"](weaker, TASK).arms}
    module, weak = (found["local_response_sum"].module for found in (arms, other))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)

    def drawn(path, leaf):
        if path[-1].key == "bias":
            return np.zeros(leaf.shape, np.float32)
        return rng.normal(size=leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    scores = module.apply(variables, x)
    np.testing.assert_allclose(weak.apply(variables, 64 * x), 64 * scores, rtol=1e-4, atol=1e-3)
    assert np.abs(weak.apply(variables, x) - scores).max() > 0.1 * np.abs(scores).max()


def test_group_normalisation_is_over_four_channels_and_all_positions(arms):
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 5, 8)).astype(np.float32)
    layer = arms["group"].module.norm(name=None)
    found = layer.apply(layer.init(jax.random.key(0), x), x)
    for group in (slice(0, 4), slice(4, 8)):
        part = x[..., group].astype(np.float64)
        mean, var = part.mean(axis=(1, 2, 3)), part.var(axis=(1, 2, 3))
        expected = (part - mean[:, None, None, None]) / np.sqrt(var + 1e-6)[:, None, None, None]
        np.testing.assert_allclose(found[..., group], expected, atol=1e-4)


def test_the_dry_run_says_what_is_held_equal(capsys):
    ablate.ablate(TINY, dry_run=True)
    output = capsys.readouterr().out
    assert "held equal: MACs, activation values, steps\n" in output
    assert "not equal:  parameters\n" in output


@pytest.mark.slow
def test_all_arms_train(tmp_path):
    ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run")))
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["arm"] for record in found] == ARMS
    assert {record["status"] for record in found} == {"completed"}
