"""The studies of pooling: which networks they compare, and in what those differ."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models
from cnnjax.models.all_cnn import AllCNN
from cnnjax.ops import max_pool
from experiments import ablate
from experiments.config import Config
from experiments.studies import STUDIES, Task

TASK = Task(image_shape=(32, 32, 3), num_classes=10, num_steps=100)
# Convolutions and dense weights with biases, added up by hand from table 1 and 2 of the paper, for
# 96 and 192 filters: (parameters, MACs).
PAPER = {
    "base_a": (839_242, 138_677_760),
    "base_c": (954_730, 228_331_008),
    "strided_c": (954_730, 100_929_024),
    "conv_pool_c": (1_369_738, 398_200_320),
    "all_c": (1_369_738, 270_798_336),
}


@functools.cache
def study_of(name, **flags):
    return STUDIES[name](Config(study=name, **flags), TASK)


def all_cnn(**flags):
    """All models in the paper's width; arms are accounted for once for all tests."""
    return study_of("pooling_vs_stride", channels=96, all_cnn_models="b,a,c", **flags)


def published():
    return all_cnn(all_cnn_batch_norm=False, all_cnn_dropout=True)


def column(study, name):
    return {arm.name: arm.account[name] for arm in study.arms}


def shapes(module, shape):
    """Name and shape of each leaf of the parameters."""
    x = jnp.zeros((1, *shape))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"]
    return {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)
    }


def conv_macs(window, stride_before, c_in, c_out, padded=True):
    side = 32 // stride_before - (0 if padded else 2)
    return side * side * window * window * c_in * c_out


# ---- pooling_vs_stride ----


def test_all_cnn_arms_of_the_papers_width_cost_what_its_tables_say():
    bare = column(published(), "parameters")
    macs = column(published(), "macs")
    assert {name: (bare[name], macs[name]) for name in PAPER} == PAPER
    # Batch normalisation adds two numbers a filter, and no MACs.
    assert column(all_cnn(), "macs") == macs
    parameters = column(all_cnn(), "parameters")
    norms = {"base_c": 2 * (2 * 96 + 4 * 192), "all_c": 2 * (3 * 96 + 5 * 192)}
    assert {name: parameters[name] - bare[name] for name in norms} == norms


def test_macs_of_the_base_are_the_sum_over_its_layers():
    layers = [(3, 1, 3, 96), (3, 1, 96, 96), (3, 2, 96, 192), (3, 2, 192, 192)]
    last = [(3, 4, 192, 192, False), (1, 4, 192, 192, False), (1, 4, 192, 10, False)]
    assert sum(conv_macs(*layer) for layer in [*layers, *last]) == PAPER["base_c"][1]


def test_arms_of_each_model_are_compared_with_its_own_base():
    study = all_cnn()
    four = ("base", "strided", "conv_pool", "all")
    expected = {f"{name}_{model}": f"base_{model}" for model in "abc" for name in four}
    expected |= {"average_c": "base_c", "blurred_c": "base_c"}
    assert {arm.name: arm.against for arm in study.arms} == expected
    # The first model that is asked for.
    assert (study.baseline, study.headline_arm) == ("base_b", "all_b")


def test_what_pooling_takes_of_a_window_changes_no_parameter_and_no_size():
    study = all_cnn()
    arms = {arm.name: arm for arm in study.arms}
    base = arms["base_c"]
    for name in ("average_c", "blurred_c"):
        assert shapes(arms[name].module, (32, 32, 3)) == shapes(base.module, (32, 32, 3))
        assert arms[name].account == base.account
    pools = {
        name: [row.operation for row in analysis.account(arms[name].module, (32, 32, 3)).rows
               if row.operation.endswith("_pool")]
        for name in ("base_c", "average_c", "blurred_c", "strided_c", "all_c")
    }  # fmt: skip
    assert pools == {
        "base_c": ["max_pool"] * 2 + ["global_avg_pool"],
        "average_c": ["avg_pool"] * 2 + ["global_avg_pool"],
        "blurred_c": ["max_pool", "blur_pool"] * 2 + ["global_avg_pool"],
        "strided_c": ["global_avg_pool"],
        "all_c": ["global_avg_pool"],
    }


def test_strided_has_the_parameters_of_the_base_and_conv_pool_those_of_all():
    study = all_cnn()
    arms = {arm.name: shapes(arm.module, (32, 32, 3)) for arm in study.arms}
    macs = column(study, "macs")
    for model in "abc":
        assert arms[f"strided_{model}"] == arms[f"base_{model}"]
        assert arms[f"conv_pool_{model}"] == arms[f"all_{model}"] != arms[f"base_{model}"]
        assert macs[f"strided_{model}"] < macs[f"base_{model}"] < macs[f"all_{model}"]
        assert macs[f"all_{model}"] < macs[f"conv_pool_{model}"]


def test_the_papers_networks_are_those_of_the_zoo():
    study = published()
    companions = [arm for arm in study.arms if not arm.name.startswith(("average", "blurred"))]
    assert len(companions) == 12
    for arm in companions:
        variant, _, model = arm.name.rpartition("_")
        assert arm.module == models.create(f"{variant}_cnn_{model}")
    assert not any("Not the training" in limit for limit in study.limits)
    assert any("Not the training" in limit for limit in all_cnn().limits)


@pytest.mark.parametrize("models", ["d", "", "a,a", "abc"])
def test_models_that_are_none_of_the_papers_are_refused(models):
    with pytest.raises(ValueError, match=f"--all_cnn_models={models} must list some of a, b and c"):
        study_of("pooling_vs_stride", all_cnn_models=models)


def test_blurred_pooling_steps_over_the_maxima_that_the_base_steps_over():
    # By hand: on a ramp the maximum of pixels i to i + 2 is i + 2, of the last two 15; the blur
    # leaves a ramp as it is inside, and at the ends weighs two of its three values.
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None], (16, 16))[None, :, :, None]
    net = AllCNN(variant="base", pooling="blurred_max", num_classes=10)
    pooled = net._pool(ramp)[0, :, 0, 0]
    base = AllCNN(variant="base", num_classes=10)._pool(ramp)[0, :, 0, 0]
    assert base.tolist() == [2, 4, 6, 8, 10, 12, 14, 15]
    dense = [*range(2, 16), 15]
    expected = [(2 * 2 + 3) / 3]
    expected += [(dense[i - 1] + 2 * dense[i] + dense[i + 1]) / 4 for i in range(2, 14, 2)]
    expected += [(dense[13] + 2 * dense[14]) / 3]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


def test_average_pooling_of_the_base_divides_by_what_it_sees():
    ramp = jnp.broadcast_to(jnp.arange(6.0)[:, None], (6, 6))[None, :, :, None]
    pooled = AllCNN(variant="base", pooling="avg", num_classes=10)._pool(ramp)[0, :, 0, 0]
    np.testing.assert_allclose(pooled, [1, 3, 4.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "all", "pooling": "avg"}, "pooling='avg' is for the variants that pool, base"),
        ({"variant": "base", "pooling": "l2"}, "AllCNN: pooling must be one of max, avg, blurred"),
    ],
)
def test_pooling_where_there_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AllCNN(num_classes=10, **options)


# ---- pooling_kind ----


def test_kinds_of_pooling_change_neither_parameters_nor_where_they_stand():
    study = study_of("pooling_kind", channels=4)
    trees = {arm.name: shapes(arm.module, (32, 32, 3)) for arm in study.arms}
    assert len(trees) == 5
    assert all(tree == trees["max_2"] for tree in trees.values())
    assert column(study, "sizes") == {
        "max_2": "32, 16, 8",
        "average_2": "32, 16, 8",
        "l2_2": "32, 16, 8",
        "max_3_2": "32, 16, 8",
        # (32 - 5) / 3 + 1, and (10 - 5) / 3 + 1 rounded up: the last window hangs over the end.
        "max_5_3": "32, 10, 3",
    }
    # 3 + (F - 1) + 2 S + (F - 1) S + 2 S^2, the receptive field of conv, pool, conv, pool, conv.
    fields = {"max_2": 18, "average_2": 18, "l2_2": 18, "max_3_2": 21, "max_5_3": 43}
    assert column(study, "receptive_field") == fields
    macs = column(study, "macs")
    assert len({macs[name] for name in ("max_2", "average_2", "l2_2", "max_3_2")}) == 1


def test_each_kind_of_pooling_is_the_one_that_its_arm_names():
    study = study_of("pooling_kind", channels=4)
    found = {}
    for arm in study.arms:
        pools = [
            (row.operation, row.window[0], row.stride[0])
            for row in analysis.account(arm.module, (32, 32, 3)).rows
            if row.operation.endswith("_pool") and row.window
        ]
        assert pools == [pools[0]] * 2
        found[arm.name] = pools[0]
    assert found == {
        "max_2": ("max_pool", 2, 2),
        "average_2": ("avg_pool", 2, 2),
        "l2_2": ("l2_pool", 2, 2),
        "max_3_2": ("max_pool", 3, 2),
        "max_5_3": ("max_pool", 5, 3),
    }


def test_no_pixel_goes_unseen_by_the_destructive_windows():
    for size in (32, 28, 10, 9):
        x = jnp.arange(float(size))[:, None]
        assert max_pool(x, window=(5,), stride=3, fit="ceil")[-1, 0] == size - 1


# ---- runs ----

TINY = Config(
    dataset="mnist_5k", validation_size=3700, epochs=2, batch_size=50, channels=2, seeds=1
)


def run(tmp_path, study, **flags):
    """The records of a tiny run."""
    config = dataclasses.replace(TINY, study=study, run_dir=str(tmp_path / "run"), **flags)
    ablate.ablate(config)
    lines = (tmp_path / "run" / "runs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("study", ["pooling_kind", "pooling_vs_stride"])
def test_a_tiny_run_of_all_arms_completes(study, tmp_path):
    records = run(tmp_path, study, learning_rate=0.003)
    assert len(records) >= 5
    assert all(record["status"] == "completed" for record in records)


def test_a_dry_run_prints_what_is_held_equal(capsys):
    ablate.ablate(dataclasses.replace(TINY, study="pooling_kind"), dry_run=True)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].endswith("?")
    assert "held equal: parameters, steps" in printed
