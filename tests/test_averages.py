"""Averages of weights and of predictions, against closed forms and NumPy in float64."""

import math

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.models import BatchNorm, StackNet
from cnnjax.training import (
    average_predictions,
    ensemble,
    exponential_moving_average,
    refresh_batch_stats,
    stack_variables,
    stochastic_weight_average,
)

HOW = ("probabilities", "log_probabilities", "votes")


def terms(num, seed=0, shape=(2, 3)):
    return np.random.default_rng(seed).normal(size=(num, *shape)).astype(np.float32)


def tree_of(term):
    return {"params": {"conv0": {"kernel": jnp.asarray(term)}}}


def kernel_of(tree):
    return np.asarray(tree["params"]["conv0"]["kernel"])


def run(average, first, rest):
    state = average.init(tree_of(first))
    for term in rest:
        state = average.update(state, tree_of(term))
    return kernel_of(average.value(state))


@pytest.mark.parametrize("decay", [0, 0.5, 0.9, 0.999])
def test_a_moving_average_is_the_sum_of_its_terms_times_powers_of_the_decay(decay):
    x = terms(30).astype(np.float64)
    last = len(x) - 1
    expected = decay**last * x[0]
    expected += sum((1 - decay) * decay ** (last - t) * x[t] for t in range(1, last + 1))
    found = run(exponential_moving_average(decay), x[0], x[1:])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("decay", [0, 0.5, 0.9, 0.9999])
def test_a_debiased_moving_average_is_the_weighted_mean_of_its_terms_alone(decay):
    x = terms(30).astype(np.float64)
    weights = [decay ** (len(x) - 1 - t) for t in range(1, len(x))]
    expected = np.average(x[1:], axis=0, weights=weights)
    found = run(exponential_moving_average(decay, debias=True), 1e6 * x[0], x[1:])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_a_debiased_average_of_a_decay_near_one_keeps_its_digits():
    # 1 - decay^t from a float32 product would be off by several per cent here.
    x = 1 + terms(50).astype(np.float64)
    found = run(exponential_moving_average(1 - 1e-6, debias=True), x[0], x[1:])
    np.testing.assert_allclose(found, x[1:].mean(axis=0), rtol=3e-5)


@pytest.mark.parametrize("debias", [False, True])
def test_a_warm_up_forgets_early_terms_as_its_formula_says(debias):
    x = terms(40).astype(np.float64)
    average, weight = (np.zeros_like(x[0]), 0.0) if debias else (x[0], 1.0)
    for n, term in enumerate(x[1:]):
        decay = min(0.7, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * term
        weight = decay * weight + (1 - decay)
    found = run(exponential_moving_average(0.7, debias=debias, warmup=True), x[0], x[1:])
    np.testing.assert_allclose(found, average / weight, rtol=2e-6, atol=1e-6)


@given(
    st.floats(0, 1, exclude_max=True, allow_subnormal=False, width=32),
    st.booleans(),
    st.booleans(),
    st.floats(-(2.0**100), 2.0**100, allow_subnormal=False, width=32),
)
@settings(max_examples=25, deadline=None)
def test_a_moving_average_of_equal_terms_is_that_term_to_the_bit(decay, debias, warmup, value):
    average = exponential_moving_average(decay, debias=debias, warmup=warmup)
    x = np.full((2, 3), value, np.float32)
    np.testing.assert_array_equal(run(average, x, [x] * 3), x)


def test_after_one_update_a_debiased_average_is_that_term_to_the_bit():
    x = terms(2)
    average = exponential_moving_average(0.999, debias=True)
    np.testing.assert_array_equal(run(average, 1e8 * x[0], x[1:]), x[1])
    np.testing.assert_array_equal(run(average, x[0], []), x[0])


def test_a_plain_update_is_that_of_optax():
    x = terms(2)
    expected = optax.incremental_update(tree_of(x[1]), tree_of(x[0]), 0.1)
    found = run(exponential_moving_average(0.9), x[0], x[1:])
    np.testing.assert_allclose(found, kernel_of(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "average",
    [exponential_moving_average(0.9, debias=True, warmup=True), stochastic_weight_average()],
    ids=["exponential", "stochastic"],
)
def test_averages_run_in_scan_and_under_vmap(average):
    x = terms(12)
    expected = run(average, x[0], x)

    @jax.jit
    def scanned(x):
        def step(state, term):
            return average.update(state, tree_of(term)), None

        return average.value(jax.lax.scan(step, average.init(tree_of(x[0])), x)[0])

    np.testing.assert_allclose(kernel_of(scanned(x)), expected, rtol=1e-6, atol=1e-7)
    together = jax.vmap(scanned)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(
        kernel_of(together), np.stack([expected, 2 * expected]), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    "average",
    [exponential_moving_average(0.5), stochastic_weight_average()],
    ids=["exponential", "stochastic"],
)
def test_of_counts_and_keys_the_last_value_stands(average):
    def tree(count):
        return {
            "count": jnp.int32(count),
            "key": jax.random.key(count),
            "mask": jnp.array([count > 1]),
        }

    state = average.init(tree(0))
    for count in (1, 2):
        state = jax.jit(average.update)(state, tree(count))
    value = average.value(state)
    assert value["count"].dtype == jnp.int32
    assert (int(value["count"]), bool(value["mask"][0])) == (2, True)
    assert bool(value["key"] == jax.random.key(2))


def test_sixteen_bit_weights_move_by_less_than_their_own_rounding():
    one, two = jnp.ones(1, jnp.bfloat16), jnp.full(1, 2, jnp.bfloat16)
    average = exponential_moving_average(0.9999)
    state = average.init(one)
    for _ in range(10):
        state = average.update(state, two)
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(average.value(state), [2 - 0.9999**10], rtol=1e-6)


def test_a_state_survives_the_loss_of_the_weights_that_it_began_with():
    weights = jnp.arange(3.0)
    for average in (exponential_moving_average(0.9), stochastic_weight_average()):
        state = average.update(average.init({"w": weights}), {"w": weights})
        for leaf in jax.tree.leaves(state):
            assert leaf is not weights


def test_a_stochastic_weight_average_is_the_mean_of_its_snapshots():
    x = terms(7)
    found = run(stochastic_weight_average(), 1e6 * x[0], x)
    np.testing.assert_allclose(found, x.astype(np.float64).mean(axis=0), rtol=2e-7)


def test_a_mean_of_many_terms_is_exact_to_the_last_bit_but_one():
    num = 100_000
    x = (1000 + np.random.default_rng(1).random((num, 3))).astype(np.float32)
    average = stochastic_weight_average()

    @jax.jit
    def mean(x):
        def step(state, term):
            return average.update(state, term), None

        return average.value(jax.lax.scan(step, average.init(x[0]), x)[0])

    exact = np.array([math.fsum(map(float, column)) / num for column in x.T])
    assert np.abs(np.asarray(mean(x)) - exact).max() <= np.spacing(np.float32(1000))
    # What the test is for: a plain float32 sum is off by many such bits.
    plain = np.add.accumulate(x, axis=0, dtype=np.float32)[-1] / np.float32(num)
    assert np.abs(plain - exact).max() > 8 * np.spacing(np.float32(1000))


def test_a_mean_of_no_snapshots_is_refused_or_not_a_number():
    average = stochastic_weight_average()
    state = average.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="value needs at least one update"):
        average.value(state)
    assert np.isnan(jax.jit(average.value)(state)["w"]).all()


@pytest.mark.parametrize(
    ("tree", "error", "sentence"),
    [
        ({"w": np.ones(2)}, ValueError, r"leaf \['b'\] is missing \(1 such\)"),
        (
            {"w": np.ones(2), "b": np.ones(1), "c": 1.0},
            ValueError,
            r"leaf \['c'\] is not expected",
        ),
        (
            {"w": np.ones(3), "b": np.ones(1)},
            ValueError,
            r"leaf \['w'\] has shape \(3,\) where \(2,\)",
        ),
        ({"w": np.ones(2, int), "b": np.ones(1)}, TypeError, r"leaf \['w'\] is int"),
        (freeze({"w": np.ones(2), "b": np.ones(1)}), ValueError, "containers of other types"),
    ],
)
def test_a_tree_of_another_network_is_refused(tree, error, sentence):
    first = {"w": jnp.ones(2), "b": jnp.ones(1)}
    for name, average in (
        ("exponential_moving_average", exponential_moving_average(0.9)),
        ("stochastic_weight_average", stochastic_weight_average()),
    ):
        with pytest.raises(error, match=rf"{name}: .*{sentence}"):
            average.update(average.init(first), tree)
    with pytest.raises(error, match=rf"stack_variables: .*{sentence}"):
        stack_variables([first, tree])
    with pytest.raises(error, match=rf"ensemble: .*{sentence}"):
        ensemble(lambda v, x: x, [first, tree], jnp.ones((1, 2)))


@pytest.mark.parametrize(
    ("decay", "error"), [(1, ValueError), (-0.1, ValueError), (math.nan, ValueError)]
)
def test_a_decay_that_is_none_is_refused(decay, error):
    with pytest.raises(error, match=r"decay must be in \[0, 1\), got"):
        exponential_moving_average(decay)


@pytest.mark.parametrize("decay", ["0.9", True, None])
def test_a_decay_that_is_no_number_is_refused(decay):
    with pytest.raises(TypeError, match="decay must be a Python number"):
        exponential_moving_average(decay)


class Normalised(nn.Module):
    """Two layers with batch normalisation, one of them within another module."""

    momentum: float = 0.9
    flax_norm: bool = False
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False):
        for name in ("block0", "block1"):
            x = nn.remat(Block, static_argnums=(2,))(self.momentum, self.flax_norm, name=name)(
                x, train
            )
            x = nn.Dropout(self.rate, deterministic=not train, name=f"{name}_dropout")(x)
        return x


class Block(nn.Module):
    momentum: float
    flax_norm: bool

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, name="dense")(x)
        if self.flax_norm:
            norm = nn.BatchNorm(not train, momentum=self.momentum, epsilon=1e-5, name="norm")
            return nn.relu(norm(x))
        return nn.relu(BatchNorm(momentum=self.momentum, name="norm")(x, train=train))


def batch_statistics(params, x, unbiased):
    """What each layer's statistics are on one batch, layer after layer, in NumPy."""
    found = {}
    for name in ("block0", "block1"):
        layer = jax.tree.map(np.float64, params[name])
        x = x @ layer["dense"]["kernel"] + layer["dense"]["bias"]
        mean, var = x.mean(axis=0), x.var(axis=0)
        found[name] = {"mean": mean, "var": var * len(x) / (len(x) - 1) if unbiased else var}
        x = (x - mean) / np.sqrt(var + 1e-5)
        x = np.maximum(x * layer["norm"]["scale"] + layer["norm"]["bias"], 0)
    return found


@pytest.mark.parametrize("flax_norm", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.999])
def test_refreshed_statistics_are_the_mean_of_those_of_the_batches(flax_norm, momentum):
    net = Normalised(momentum, flax_norm)
    rng = np.random.default_rng(0)
    # The smaller batch counts as much as the others.
    batches = [rng.normal(3, 2, (num, 3)).astype(np.float32) for num in (8, 8, 4)]
    variables = net.init(jax.random.key(0), batches[0])
    # Statistics that have overflowed must not live on.
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan, variables["batch_stats"])
    refreshed = refresh_batch_stats(net.apply, {**variables, "batch_stats": spoilt}, batches)
    of_each = [batch_statistics(variables["params"], x, not flax_norm) for x in batches]
    for name in ("block0", "block1"):
        for what in ("mean", "var"):
            expected = np.mean([found[name][what] for found in of_each], axis=0)
            np.testing.assert_allclose(
                refreshed["batch_stats"][name]["norm"][what], expected, rtol=2e-5, atol=1e-6
            )
    for before, after in zip(
        jax.tree.leaves(variables["params"]), jax.tree.leaves(refreshed["params"]), strict=True
    ):
        assert before is after


def test_refreshed_statistics_are_those_of_pytorch(torch):
    # Equal batches, where PyTorch's cumulative average is the plain mean too.
    x = np.random.default_rng(1).normal(size=(3, 6, 5)).astype(np.float32)
    norm = torch.nn.BatchNorm1d(5)
    torch.optim.swa_utils.update_bn([torch.from_numpy(batch) for batch in x], norm)
    net = BatchNorm()
    stats = refresh_batch_stats(net.apply, net.init(jax.random.key(0), x[0]), list(x))
    np.testing.assert_allclose(stats["batch_stats"]["mean"], norm.running_mean, atol=1e-6)
    np.testing.assert_allclose(stats["batch_stats"]["var"], norm.running_var, rtol=1e-6)


def test_a_refresh_leaves_the_layers_momentum_as_it_was():
    net = BatchNorm(momentum=0.75)
    x = jnp.array([[1.0], [3.0]])
    variables = net.init(jax.random.key(0), x)
    refresh_batch_stats(net.apply, variables, [x])
    _, moved = net.apply(variables, x, train=True, mutable=["batch_stats"])
    assert net.momentum == 0.75
    assert float(moved["batch_stats"]["mean"][0]) == 0.5


def test_a_refresh_of_a_network_with_dropout_takes_a_key_and_drops_anew_in_each_batch():
    net, x = Normalised(rate=0.5), terms(2, shape=(16, 3))
    variables = net.init(jax.random.key(0), x[0])

    def mean(batches, **options):
        stats = refresh_batch_stats(net.apply, variables, batches, **options)
        return np.asarray(stats["batch_stats"]["block1"]["norm"]["mean"])

    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        mean(x)
    # Each batch draws its own units: the same batch twice is not the mean of itself.
    once, twice = (mean([x[0]] * num, key=jax.random.key(0)) for num in (1, 2))
    assert (once != twice).any()


def test_a_network_without_statistics_is_returned_as_it_is():
    variables = {"params": {"w": jnp.ones(1)}}
    assert refresh_batch_stats(lambda *_, **__: None, variables, []) is variables


def test_an_apply_that_was_traced_before_is_refused():
    net, x = BatchNorm(), jnp.array([[1.0], [3.0]])
    variables = net.init(jax.random.key(0), x)

    @jax.jit
    def moved(variables, x):
        return net.apply(variables, x, train=True, mutable=["batch_stats"])

    def apply(variables, x, **_):
        return moved(variables, x)

    apply(variables, x)
    with pytest.raises(ValueError, match=r"no layer with a momentum .* keeps mean; .* not jitted"):
        refresh_batch_stats(apply, variables, [x])


def test_a_refresh_without_batches_is_refused():
    net = BatchNorm()
    variables = net.init(jax.random.key(0), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="at least one batch, got none"):
        refresh_batch_stats(net.apply, variables, iter(()))


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def some_scores(num=3, seed=0):
    return 4 * terms(num, seed, (5, 6))


def test_averaged_predictions_are_what_their_names_say():
    scores = some_scores()
    p = softmax(scores.astype(np.float64))
    geometric = np.exp(np.log(p).mean(axis=0))
    votes = np.zeros(p.shape[1:])
    for network in p:
        for example, row in enumerate(network):
            votes[example, row.argmax()] += 1 / len(p)
    expected = {
        "probabilities": p.mean(axis=0),
        "log_probabilities": geometric / geometric.sum(axis=-1, keepdims=True),
        "votes": votes,
    }
    for how in HOW:
        found = average_predictions(jnp.asarray(scores), how=how)
        np.testing.assert_allclose(found, expected[how], rtol=1e-5, atol=1e-7, err_msg=how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_averaged_predictions_sum_to_one_and_ignore_a_network_s_constant(how, scale):
    scores = scale * some_scores()
    found = np.asarray(average_predictions(jnp.asarray(scores), how=how))
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-6)
    assert (found >= 0).all()
    moved = scores + np.array([0, 512, -512], np.float32)[:, None, None]
    again = average_predictions(jnp.asarray(moved), how=how)
    np.testing.assert_allclose(found, again, atol=2e-3)


def test_one_network_vetoes_a_class_in_the_geometric_mean_alone():
    scores = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1e5], [0.0, 0.0, 0.0]])
    assert float(average_predictions(scores)[2]) == pytest.approx(2 / 9)
    assert float(average_predictions(scores, how="log_probabilities")[2]) == 0


def test_sixteen_bit_scores_are_averaged_in_float32():
    for how in HOW:
        found = average_predictions(jnp.zeros((3, 7), jnp.bfloat16), how=how)
        assert found.dtype == jnp.float32
    found = average_predictions(jnp.zeros((3, 7), jnp.bfloat16))
    np.testing.assert_allclose(found, 1 / 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: average_predictions(jnp.ones(3)), r"got shape \(3,\); stack"),
        (lambda: average_predictions(jnp.ones((0, 3))), r"got shape \(0, 3\)"),
        (
            lambda: average_predictions(jnp.ones((2, 3)), how="mean"),
            "how must be one of .*, got 'mean'",
        ),
        (lambda: ensemble(lambda v, x: x, [], 1), "ensemble: variables must hold at least one"),
        (lambda: ensemble(lambda v, x: x, [1.0], 1, how="all"), "ensemble: how must be one of"),
        (lambda: stack_variables([]), "stack_variables: variables must hold at least one tree"),
    ],
)
def test_predictions_that_cannot_be_averaged_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.fixture(scope="module")
def networks():
    net = StackNet(4, 1, (3,), (1,))
    x = jnp.asarray(terms(1, shape=(3, 4, 4, 1))[0])
    keys = jax.random.split(jax.random.key(0), 3)
    return net, [net.init(key, x) for key in keys], x


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_an_ensemble_is_the_average_of_its_networks_looped_or_mapped(networks, how, vmap):
    net, variables, x = networks
    p = softmax(np.stack([np.asarray(net.apply(v, x), np.float64) for v in variables]))
    geometric = np.exp(np.log(p).mean(axis=0))
    expected = {
        "probabilities": p.mean(axis=0),
        "log_probabilities": geometric / geometric.sum(axis=-1, keepdims=True),
        "votes": np.eye(4)[p.argmax(axis=-1)].mean(axis=0),
    }
    found = ensemble(net.apply, variables, x, how=how, vmap=vmap)
    np.testing.assert_allclose(found, expected[how], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["probabilities", "log_probabilities"])
def test_an_ensemble_of_one_network_many_times_is_that_network(networks, how):
    net, variables, x = networks
    alone = softmax(np.asarray(net.apply(variables[0], x), np.float64))
    found = ensemble(net.apply, [variables[0]] * 5, x, how=how)
    np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_stacked_variables_are_the_trees_one_behind_the_other(networks):
    _, variables, _ = networks
    stacked = stack_variables(variables)
    for i, tree in enumerate(variables):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        jax.tree.map(np.testing.assert_array_equal, one, tree)
