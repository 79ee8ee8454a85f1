"""The study of heads: one body, and heads that cost what hand arithmetic says."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments import ablate, records
from experiments.config import Config
from experiments.studies import STUDIES, Task

TINY = Config(
    study="head",
    validation_size=3700,
    epochs=2,
    batch_size=50,
    channels=2,
    hidden=8,
    seeds=1,
)


@pytest.fixture(scope="module")
def arms():
    study = STUDIES["head"](TINY, Task((28, 28, 1), 10, 12))
    return {arm.name: arm for arm in study.arms}


def shapes(arm):
    variables = jax.eval_shape(arm.module.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return jax.tree.map(jnp.shape, variables["params"])


def test_all_arms_but_the_widened_one_have_one_body(arms):
    dense, flat = ["two_hidden", "two_hidden_dropout"], ["flattened", "flattened_dropout"]
    assert list(arms) == [*dense, *flat, "mean", "mean_wide"]
    bodies = {
        name: {layer: tree for layer, tree in shapes(arm).items() if not layer.startswith("fc")}
        for name, arm in arms.items()
    }
    assert bodies["two_hidden"].keys() == {"conv0", "bn0", "conv1", "bn1", "conv2", "bn2"}
    for name, body in bodies.items():
        assert (body == bodies["two_hidden"]) == (name != "mean_wide")
        assert body.keys() == bodies["two_hidden"].keys()


def test_heads_cost_what_hand_arithmetic_says(arms):
    # Filters 2, 4, 8 with two parameters each of batch normalisation; 28, 14, 7, 4 pixels.
    body = (9 * 2 + 2 + 4) + (9 * 2 * 4 + 4 + 8) + (9 * 4 * 8 + 8 + 16)
    flat = 4 * 4 * 8
    dense = (flat * 8 + 8) + (8 * 8 + 8) + (8 * 10 + 10)
    expected = {"two_hidden": dense, "two_hidden_dropout": dense, "flattened": flat * 10 + 10}
    expected["flattened_dropout"] = expected["flattened"]
    expected["mean"] = 8 * 10 + 10
    for name, parameters in expected.items():
        assert arms[name].account["parameters"] == body + parameters
    # 90 width^2 weights grow by a filter or so at a time.
    ratio = arms["mean_wide"].account["parameters"] / (body + dense)
    assert abs(ratio - 1) < 0.2
    assert arms["mean_wide"].account["channels"] > 2


def test_what_the_paper_compared_is_compared(arms):
    # Lin et al., 2013, table 5: the same body under scores from all positions, with and without
    # dropout, and under means.
    against = {name: arm.against for name, arm in arms.items() if arm.published}
    assert against == {"flattened_dropout": "flattened", "mean": "flattened"}


@pytest.mark.parametrize("name", ["two_hidden", "flattened"])
def test_dropout_changes_neither_shapes_nor_what_it_costs(arms, name):
    assert shapes(arms[name]) == shapes(arms[f"{name}_dropout"])
    assert arms[name].account == arms[f"{name}_dropout"].account


def test_dropout_stands_before_each_hidden_layer(arms):
    arm = arms["two_hidden_dropout"]
    words = [type(layer).__name__ for layer in arm.module.layers]
    assert words[-6:] == ["Dense", "Activation", "Dropout", "Dense", "Activation", "Dense"]
    assert words.count("Dropout") == 2


def test_hidden_is_a_flag_of_this_study_alone():
    with pytest.raises(ValueError, match="--hidden is a flag of --study=head"):
        dataclasses.replace(TINY, study="padding")
    assert TINY.identity()["hidden"] == 8
    assert "hidden" not in Config().identity()


@pytest.mark.slow
def test_a_small_run_with_dropout_is_recorded(tmp_path, monkeypatch):
    study = STUDIES["head"](TINY, Task((28, 28, 1), 10, 12))
    two = dataclasses.replace(study, arms=study.arms[:2], headline_arm="two_hidden_dropout")
    monkeypatch.setitem(STUDIES, "head", lambda config, task: two)
    ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run")))
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["arm"] for record in found] == ["two_hidden", "two_hidden_dropout"]
    # The same weights and images, and values dropped: the losses part.
    one, other = (record["curve"][0]["train_loss"] for record in found)
    assert one != other
