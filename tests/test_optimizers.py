import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.training import Recipe, kernels_only, make_optimizer


def trajectory(recipe, gradients, *, num_epochs, steps_per_epoch):
    """Kernel and bias after each step under given gradients."""
    optimizer = make_optimizer(recipe, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5, 0.25])}
    state = optimizer.step.init(params)
    path = []
    for gradient in gradients:
        updates, state = optimizer.step.update(
            {"kernel": gradient, "bias": gradient}, state, params
        )
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def by_hand(recipe, gradients, rates, nesterov, decay, start):
    weight, velocity = np.array(start, np.float64), np.zeros(2)
    path = []
    for gradient, rate in zip(gradients, rates, strict=True):
        g = np.asarray(gradient, np.float64) + decay * weight
        velocity = recipe.momentum * velocity + g
        weight = weight - rate * (g + recipe.momentum * velocity if nesterov else velocity)
        path.append(weight)
    return path


def gradients(num):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(2), jnp.float32) for _ in range(num)]


def test_cosine_recipe_is_nesterov_with_warmup_cosine_and_decay_on_kernels_only():
    recipe = Recipe("cosine", learning_rate=0.1, weight_decay=0.3, warmup_epochs=1)
    num, warm = 20, 5
    rates = [
        0.1 * (i + 0.5) / warm
        if i + 0.5 < warm
        else 0.1 * 0.5 * (1 + math.cos(math.pi * (i + 0.5 - warm) / (num - warm)))
        for i in range(num)
    ]
    drawn = gradients(num)
    ours = trajectory(recipe, drawn, num_epochs=4, steps_per_epoch=5)
    for name, decay, start in (("kernel", 0.3, [1.0, -2.0]), ("bias", 0.0, [0.5, 0.25])):
        expected = by_hand(recipe, drawn, rates, True, decay, start)
        for got, want in zip(ours, expected, strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-6)


def test_no_step_of_the_cosine_recipe_is_wasted():
    path = trajectory(Recipe("cosine"), gradients(8), num_epochs=4, steps_per_epoch=2)
    values = [np.array([1.0, -2.0]), *(np.asarray(p["kernel"]) for p in path)]
    assert all((a != b).all() for a, b in itertools.pairwise(values))


def test_alexnet_recipe_is_heavy_ball_at_a_constant_rate():
    recipe = Recipe("alexnet", learning_rate=0.01, weight_decay=5e-4)
    drawn = gradients(10)
    ours = trajectory(recipe, drawn, num_epochs=2, steps_per_epoch=5)
    expected = by_hand(recipe, drawn, [0.01] * 10, False, 5e-4, [1.0, -2.0])
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got["kernel"], want, rtol=1e-5, atol=1e-7)


def test_alexnet_recipe_divides_the_rate_by_ten_when_validation_stalls():
    plateau = make_optimizer(Recipe("alexnet", patience=2), num_epochs=9, steps_per_epoch=1).plateau
    state = plateau.init({"kernel": jnp.zeros(2)})
    scales = []
    for loss in [1.0, 0.5, 0.6, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3]:
        _, state = plateau.update((), state, value=jnp.float32(loss))
        scales.append(float(state.scale))
    # Two epochs without a better loss (0.6, 0.5) cost a factor; so do the last two.
    np.testing.assert_allclose(scales, [1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_both_recipes_agree_with_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch, in the extra [torch]")
    drawn = gradients(12)
    for name, nesterov in (("cosine", True), ("alexnet", False)):
        recipe = Recipe(name, learning_rate=0.1, weight_decay=0.2, warmup_epochs=0)
        ours = trajectory(recipe, drawn, num_epochs=12, steps_per_epoch=1)
        weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        peer = torch.optim.SGD([weight], 0.1, momentum=0.9, weight_decay=0.2, nesterov=nesterov)
        for i, (gradient, got) in enumerate(zip(drawn, ours, strict=True)):
            if name == "cosine":
                peer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (i + 0.5) / 12))
            weight.grad = torch.tensor(np.asarray(gradient, np.float64))
            peer.step()
            np.testing.assert_allclose(got["kernel"], weight.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_onecycle_recipe_is_nesterov_with_a_rate_up_and_down_in_straight_lines():
    recipe = Recipe("onecycle", learning_rate=0.1, weight_decay=0.3, peak_fraction=0.3)
    middles = [i + 0.5 for i in range(20)]
    rates = [0.1 * t / 6 if t < 6 else 0.1 * (20 - t) / 14 for t in middles]
    drawn = gradients(20)
    ours = trajectory(recipe, drawn, num_epochs=4, steps_per_epoch=5)
    for name, decay, start in (("kernel", 0.3, [1.0, -2.0]), ("bias", 0.0, [0.5, 0.25])):
        expected = by_hand(recipe, drawn, rates, True, decay, start)
        for got, want in zip(ours, expected, strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("num_epochs", "steps_per_epoch"), [(35, 1), (7, 3)])
def test_steps_recipe_is_heavy_ball_with_the_drops_of_all_cnn(num_epochs, steps_per_epoch):
    recipe = Recipe("steps", learning_rate=0.05, weight_decay=1e-3)
    num = num_epochs * steps_per_epoch
    # A step of 350 / num published epochs has the rate of the epoch in its middle.
    epochs = [350 * (i + 0.5) / num for i in range(num)]
    rates = [0.05 * 0.1 ** sum(epoch >= drop for drop in (200, 250, 300)) for epoch in epochs]
    assert len({round(math.log10(rate / 0.05)) for rate in rates}) == 4
    drawn = gradients(num)
    ours = trajectory(recipe, drawn, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    expected = by_hand(recipe, drawn, rates, False, 1e-3, [1.0, -2.0])
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got["kernel"], want, rtol=1e-4, atol=1e-6)


def draw(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def muon_by_hand(recipe, kernel, gradients, num_steps):
    """The kernel after each step, as a matrix of inputs by filters (Jordan et al., 2024)."""
    shape = kernel.shape
    weight, momentum, path = kernel.reshape(-1, shape[-1]).astype(np.float64), 0.0, []
    beta = recipe.momentum
    for i, gradient in enumerate(gradients):
        g = gradient.reshape(weight.shape)
        momentum = beta * momentum + (1 - beta) * g
        # Optax takes the bias of the start out of both terms of Nesterov's step.
        x = beta * momentum / (1 - beta ** (i + 2)) + (1 - beta) * g / (1 - beta ** (i + 1))
        x = x / np.linalg.norm(x)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x *= math.sqrt(max(1, weight.shape[1] / weight.shape[0]))
        rate = recipe.learning_rate * (1 - (i + 0.5) / num_steps)
        weight = weight - rate * (x + recipe.weight_decay * weight)
        path.append(weight.reshape(shape))
    return path


def adam_by_hand(rate, weight, gradients, num_steps):
    """Adam with Nesterov momentum (Dozat, 2016), its rate falling to zero."""
    first, second, path = 0.0, 0.0, []
    weight = weight.astype(np.float64)
    for i, g in enumerate(gradients):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step = 0.9 * first / (1 - 0.9 ** (i + 2)) + 0.1 * g / (1 - 0.9 ** (i + 1))
        step = step / (np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8)
        weight = weight - rate * (1 - (i + 0.5) / num_steps) * step
        path.append(weight)
    return path


@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 2, 5), (1, 1, 2, 6)])
def test_muon_is_orthogonal_steps_of_convolutions_and_adam_for_all_else(shape):
    recipe = Recipe(
        "muon", learning_rate=0.1, momentum=0.6, weight_decay=0.3, adam_learning_rate=0.02
    )
    params = {
        "conv": {"kernel": draw(*shape), "bias": draw(shape[-1])},
        "head": {"kernel": draw(7, 3)},
    }
    num_steps = 6
    drawn = [
        jax.tree.map(lambda x, i=i: draw(*x.shape, num_steps)[..., i], params)
        for i in range(num_steps)
    ]
    optimizer = make_optimizer(recipe, num_epochs=3, steps_per_epoch=2)
    assert optimizer.plateau is None
    now = jax.tree.map(jnp.asarray, params)
    state, path = optimizer.step.init(now), []
    for gradient in drawn:
        updates, state = optimizer.step.update(jax.tree.map(jnp.asarray, gradient), state, now)
        now = optax.apply_updates(now, updates)
        path.append(now)
    for layer, name in (("conv", "kernel"), ("conv", "bias"), ("head", "kernel")):
        of_leaf = [gradient[layer][name] for gradient in drawn]
        start = params[layer][name]
        if (layer, name) == ("conv", "kernel"):
            expected = muon_by_hand(recipe, start, of_leaf, num_steps)
        else:
            expected = adam_by_hand(0.02, start, of_leaf, num_steps)
        for got, want in zip(path, expected, strict=True):
            np.testing.assert_allclose(got[layer][name], want, rtol=2e-3, atol=2e-4)


def test_a_muon_step_has_singular_values_of_about_one():
    recipe = Recipe("muon", learning_rate=0.5, weight_decay=0.0)
    kernel = jnp.asarray(draw(3, 3, 8, 16), jnp.float32)
    optimizer = make_optimizer(recipe, num_epochs=1, steps_per_epoch=1)
    params = {"conv": {"kernel": kernel}}
    gradient = {"conv": {"kernel": 1e-3 * kernel}}
    updates, _ = optimizer.step.update(gradient, optimizer.step.init(params), params)
    # The rate at the middle of a run of one step is half the first.
    matrix = np.asarray(updates["conv"]["kernel"]).reshape(-1, 16) / -0.25
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_muon_step_is_pytorchs_without_momentum():
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch, in the extra [torch]")
    recipe = Recipe("muon", learning_rate=0.2, momentum=0.0, weight_decay=0.1)
    kernel, gradient = draw(3, 3, 2, 6).astype(np.float32), draw(3, 3, 2, 6, 1)[..., 0]
    optimizer = make_optimizer(recipe, num_epochs=1, steps_per_epoch=1)
    params = {"kernel": jnp.asarray(kernel)}
    updates, _ = optimizer.step.update(
        {"kernel": jnp.asarray(gradient, jnp.float32)}, optimizer.step.init(params), params
    )
    ours = np.asarray(params["kernel"] + updates["kernel"]).reshape(-1, 6).T
    weight = torch.tensor(kernel.reshape(-1, 6).T.copy(), requires_grad=True)
    weight.grad = torch.tensor(gradient.reshape(-1, 6).T.copy(), dtype=torch.float32)
    torch.optim.Muon(
        [weight], lr=0.1, weight_decay=0.1, momentum=0.0, nesterov=False, adjust_lr_fn="original"
    ).step()
    # PyTorch makes steps orthogonal in bfloat16.
    np.testing.assert_allclose(ours, weight.detach().numpy(), atol=2e-3)


def test_kernels_only_leaves_out_biases_and_norms():
    tree = {"a": {"kernel": 1, "bias": 2}, "norm": {"scale": 3}, "b": {"c": {"kernel": 4}}}
    assert kernels_only(tree) == {
        "a": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "b": {"c": {"kernel": True}},
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "adam"},
            r"name must be one of \('cosine', 'onecycle', 'steps', 'alexnet', 'muon'\), got",
        ),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, r"learning_rate must be above 0, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, r"must not be negative, got -1.0 and 1.0"),
        ({"peak_fraction": 1.0}, r"peak_fraction must be in \(0, 1\), got 1.0"),
        ({"adam_learning_rate": 0.0}, r"adam_learning_rate must be above 0, got 0.0"),
        ({"patience": 0}, r"patience must be at least 1 epoch, got 0"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="a warm-up of 3 epochs leaves nothing of a run of 3"):
        make_optimizer(Recipe(warmup_epochs=3), num_epochs=3, steps_per_epoch=7)
