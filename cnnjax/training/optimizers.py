"""Named training recipes: an Optax optimiser, its schedule, and what a stall does to it."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

__all__ = ["RECIPES", "Optimizer", "Recipe", "kernels_only", "make_optimizer"]

RECIPES = ("cosine", "onecycle", "steps", "alexnet", "muon")
# All-CNN, in which a run has 350 epochs (Springenberg et al., 2014, section 3.1).
_DROPS_AT = (200 / 350, 250 / 350, 300 / 350)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the weights are updated.

    Attributes:
      name: "cosine" is SGD with Nesterov momentum, linear warm-up from zero and a cosine to
        zero, each step taking the rate at the middle of its interval; "onecycle" is the same
        optimiser with a rate that rises linearly from zero to its peak and falls linearly to
        zero (Smith and Topin, "Super-convergence", 2017; the momentum stays as it is); "steps" is
        SGD with plain momentum whose rate is divided by 10 after 200, 250 and 300 of 350 parts
        of the run (Springenberg et al., "All-CNN", 2014); "alexnet" the one with plain momentum
        whose rate is divided by 10 whenever the validation loss stalls (Krizhevsky et al., 2012:
        momentum 0.9, rate 1e-2, decay 5e-4); "muon" gives each convolution's kernel, as a matrix of
        inputs by filters, a step whose singular values are all about one, that of the Nesterov
        momentum made orthogonal (Jordan et al., "Muon", 2024), and everything else steps of Adam
        with Nesterov momentum, both with a rate that falls linearly to zero.
      learning_rate: the peak ("cosine", "onecycle") or first ("steps", "alexnet", "muon") step
        size.
      momentum: decay of the velocity; with "muon" of the kernels', and Adam has its usual 0.9.
      weight_decay: L2 coefficient added to the gradient, on kernels only (no bias, no norm); with
        "muon" the share of a convolution's kernel that a step of size one takes away, apart from
        the gradient.
      warmup_epochs: length of the linear warm-up of "cosine", in epochs, fractions welcome.
      patience: epochs without a better validation loss that "alexnet" waits for.
      peak_fraction: where in the run "onecycle" has its peak, in (0, 1).
      adam_learning_rate: first step size of what "muon" leaves to Adam.
    """

    name: Literal["cosine", "onecycle", "steps", "alexnet", "muon"] = "cosine"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    patience: int = 3
    peak_fraction: float = 0.25
    adam_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        if self.name not in RECIPES:
            raise ValueError(f"Recipe: name must be one of {RECIPES}, got {self.name!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"Recipe: learning_rate must be above 0, got {self.learning_rate}")
        if not self.adam_learning_rate > 0:
            raise ValueError(
                f"Recipe: adam_learning_rate must be above 0, got {self.adam_learning_rate}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Recipe: momentum must be in [0, 1), got {self.momentum}")
        if self.weight_decay < 0 or self.warmup_epochs < 0:
            raise ValueError(
                "Recipe: weight_decay and warmup_epochs must not be negative, got "
                f"{self.weight_decay} and {self.warmup_epochs}"
            )
        if self.patience < 1:
            raise ValueError(f"Recipe: patience must be at least 1 epoch, got {self.patience}")
        if not 0 < self.peak_fraction < 1:
            raise ValueError(f"Recipe: peak_fraction must be in (0, 1), got {self.peak_fraction}")


class Optimizer(NamedTuple):
    """An Optax transformation a step, and one an epoch that watches the validation loss.

    Attributes:
      step: turns gradients into updates.
      plateau: `optax.contrib.reduce_on_plateau`, updated once an epoch with the validation
        loss; its state's `scale` multiplies the updates. None when the recipe does not look.
    """

    step: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs | None


def kernels_only(params: Any) -> Any:
    """Mask that is True on the leaves named "kernel".

    >>> kernels_only({"conv": {"kernel": 1.0, "bias": 0.0}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )


def make_optimizer(recipe: Recipe, *, num_epochs: int, steps_per_epoch: int) -> Optimizer:
    """Optimiser of a recipe for a run of a known length.

    Args:
      recipe: what to do.
      num_epochs: length of the run; "cosine", "onecycle" and "muon" end at zero with its last step.
      steps_per_epoch: updates an epoch.

    Returns:
      An `Optimizer`.

    Raises:
      ValueError: a warm-up that is not shorter than the run.

    >>> make_optimizer(Recipe("alexnet"), num_epochs=90, steps_per_epoch=10).plateau is None
    False
    """
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=kernels_only)
    if recipe.name == "alexnet":
        return Optimizer(
            optax.chain(decay, optax.sgd(recipe.learning_rate, recipe.momentum)),
            optax.contrib.reduce_on_plateau(factor=0.1, patience=recipe.patience),
        )
    num_steps = num_epochs * steps_per_epoch
    if recipe.name == "muon":
        return Optimizer(_muon(recipe, num_steps), None)
    if recipe.name == "steps":
        dropping = _at_midpoints(_dropping(recipe.learning_rate, num_steps))
        return Optimizer(optax.chain(decay, optax.sgd(dropping, recipe.momentum)), None)
    if recipe.name == "onecycle":
        rate = _one_cycle(recipe, num_steps)
    else:
        rate = _warm_cosine(recipe, num_epochs, steps_per_epoch)
    return Optimizer(
        optax.chain(decay, optax.sgd(_at_midpoints(rate), recipe.momentum, nesterov=True)), None
    )


def _muon(recipe: Recipe, num_steps: int) -> optax.GradientTransformation:
    def falling(rate: float) -> optax.Schedule:
        return _at_midpoints(lambda count: rate * (1 - count / num_steps))

    return optax.contrib.muon(
        falling(recipe.learning_rate),
        beta=recipe.momentum,
        weight_decay=recipe.weight_decay,
        adam_learning_rate=falling(recipe.adam_learning_rate),
        muon_weight_dimension_numbers=_convolutions_as_matrices,
    )


def _convolutions_as_matrices(params: Any) -> Any:
    """How Muon is to see the kernels of convolutions, taps and channels by filters; None elsewhere.

    A kernel of two axes is a dense layer's, of which the last one is not to be made orthogonal.
    """

    def of_leaf(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if getattr(path[-1], "key", None) != "kernel" or leaf.ndim < 3:
            return None
        inputs = tuple(range(leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _warm_cosine(recipe: Recipe, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    num_steps = num_epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup_epochs * steps_per_epoch)
    if warmup_steps >= num_steps:
        raise ValueError(
            f"make_optimizer: a warm-up of {recipe.warmup_epochs:g} epochs leaves nothing of a run "
            f"of {num_epochs}; shorten the warm-up or train longer"
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else recipe.learning_rate,
        peak_value=recipe.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
    )


def _one_cycle(recipe: Recipe, num_steps: int) -> optax.Schedule:
    peak = recipe.peak_fraction * num_steps
    return lambda count: (
        recipe.learning_rate
        * jnp.maximum(0.0, jnp.minimum(count / peak, (num_steps - count) / (num_steps - peak)))
    )


def _dropping(rate: float, num_steps: int) -> optax.Schedule:
    # A float, so that the step in which a drop falls has the rate of its middle.
    drops = jnp.asarray([fraction * num_steps for fraction in _DROPS_AT], jnp.float32)
    return lambda count: rate * 0.1 ** jnp.sum(jnp.asarray(count) >= drops)


def _at_midpoints(rate: optax.Schedule) -> optax.Schedule:
    # A step takes the rate at the middle of its interval: at the ends the rate is zero, and
    # neither the first step nor the last may be wasted.
    return lambda count: rate(jnp.asarray(count, jnp.float32) + 0.5)
