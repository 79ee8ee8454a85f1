"""Suite "forms": which convolution, called how, makes the fastest training step of one backend.

The training program of `cnnjax.training` stands on two choices: a convolution whose gradients
are written in canonical layouts, and a loop that XLA compiles around the step. Here each choice
is measured against what else could have been chosen, in a training step of the same network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax import ops
from cnnjax.models import StackNet
from cnnjax.training import stream
from experiments.benchmarking import markdown
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.timing import Contender, alternate
from experiments.studies import Arm

__all__ = ["CALLS", "CHOSEN", "CONVOLUTIONS", "Carry", "forms_suite", "loss", "training_step"]

# (x, kernel) to an output of the size of x; windows are odd, strides 1.
Convolution = Callable[[jax.Array, jax.Array], jax.Array]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _margins(kernel: jax.Array) -> list[tuple[int, int]]:
    return [((window - 1) // 2, (window - 1) // 2) for window in kernel.shape[:2]]


def _autodiff(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), _margins(kernel), dimension_numbers=_LAYOUT)


def _ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return ops.conv(x, kernel, padding=_margins(kernel))


@jax.custom_vjp
def _canonical(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _autodiff(x, kernel)


def _canonical_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _autodiff(x, kernel), (x, kernel)


def _canonical_backward(saved: tuple, out_bar: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # Input: slide the flipped kernel over the gradient. Kernel: slide the gradient over the
    # input, with batch and channels exchanged, so that the sum over channels is one over images.
    x_bar = _autodiff(out_bar, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    kernel_bar = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        out_bar.transpose(1, 2, 0, 3),
        (1, 1),
        _margins(kernel),
        dimension_numbers=_LAYOUT,
    )
    return x_bar, kernel_bar.transpose(1, 2, 0, 3)


_canonical.defvjp(_canonical_forward, _canonical_backward)


def _taps(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """For each tap of the window in row-major order, its pixel at every position."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, [(0, 0), *_margins(kernel), (0, 0)])
    return [
        padded[:, row : row + height, column : column + width]
        for row in range(kernel.shape[0])
        for column in range(kernel.shape[1])
    ]


def _patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    columns = jnp.concatenate(_taps(x, kernel), axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(-1, *kernel.shape[2:])
    products = [tap @ weight for tap, weight in zip(_taps(x, kernel), weights, strict=True)]
    return sum(products[1:], products[0])


CONVOLUTIONS: dict[str, Convolution] = {
    "lax.conv, autodiff": _autodiff,
    "cnnjax.ops.conv": _ours,
    "canonical custom_vjp": _canonical,
    "patches, one product": _patches,
    "shifted products": _shifted,
}
CALLS = ("called step by step", "lax.fori_loop")
CHOSEN = ("cnnjax.ops.conv", "lax.fori_loop")

# Forms that lose do so by up to a factor of twenty: a fraction of the steps tells it as well.
_FEWER_STEPS = 5


class Carry(NamedTuple):
    """What a training step takes and gives: parameters, optimiser state, the last loss."""

    params: Any
    optimizer: Any
    loss: jax.Array


def _scores(conv: Convolution, net: StackNet, params: Any, x: jax.Array) -> jax.Array:
    """`StackNet.apply` with another convolution."""

    def layer(weights: Any, x: jax.Array) -> jax.Array:
        return conv(x, weights["kernel"]) + weights["bias"].reshape(1, 1, 1, -1)

    x = ops.max_pool(nn.relu(layer(params["stem"], x)), window=2)
    last = len(net.windows) - 1
    for i in range(last + 1):
        x = layer(params["stack"][f"conv{i}"], x)
        if net.nonlinear or i == last:
            x = nn.relu(x)
    x = ops.max_pool(x, window=2).reshape(x.shape[0], -1)
    return x @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)


def loss(
    conv: Convolution, net: StackNet, params: Any, x: jax.Array, labels: jax.Array
) -> jax.Array:
    """Mean cross-entropy of `net` with its convolutions in another form.

    Args:
      conv: one of `CONVOLUTIONS`.
      net: the network.
      params: its "params" collection.
      x: normalised images, (batch, height, width, channels).
      labels: integers, (batch,).
    """
    scores = _scores(conv, net, params, x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def training_step(
    conv: Convolution, net: StackNet, setting: Setting
) -> Callable[[Carry, jax.Array, jax.Array, jax.Array], Carry]:
    """One step like those of `Program`, on batches in order: the next carry of a carry and step.

    Args:
      conv: one of `CONVOLUTIONS`.
      net: the network.
      setting: augmentation, normalisation and optimiser.

    Returns:
      Function (carry, images, labels, step) to the next carry.
    """
    optimizer = setting.optimizer().step
    size = setting.config.batch_size

    def step_of(carry: Carry, images: jax.Array, labels: jax.Array, step: jax.Array) -> Carry:
        batch = lax.dynamic_slice_in_dim(images, step * size, size)
        key = jax.random.fold_in(stream(0, "augmentation"), step)
        x = setting.normalize(setting.augment(key, batch))
        y = lax.dynamic_slice_in_dim(labels, step * size, size)
        value, gradients = jax.value_and_grad(lambda params: loss(conv, net, params, x, y))(
            carry.params
        )
        updates, state = optimizer.update(gradients, carry.optimizer, carry.params)
        return Carry(optax.apply_updates(carry.params, updates), state, value)

    return step_of


def forms_suite(setting: Setting) -> str:
    """Images a second of each form, relative to the chosen one, for the two arms that matter.

    Args:
      setting: how to measure.

    Returns:
      Markdown: one table an arm.
    """
    steps = max(1, setting.steps // _FEWER_STEPS)
    tables = []
    for arm in setting.key_arms:
        contenders: dict[str, Contender] = {
            f"{name}, {call}": _Form(conv, call, arm, setting, steps)
            for name, conv in CONVOLUTIONS.items()
            for call in CALLS
        }
        timings = alternate(
            contenders,
            rounds=setting.rounds,
            work=steps * setting.config.batch_size,
            label=f"forms: {arm.title}",
        )
        chosen = ", ".join(CHOSEN)
        n = f"n = {setting.rounds}"
        rows = [
            [
                name + (" (chosen)" if name == chosen else ""),
                timings.rate(name).text(0),
                timings.ratio(name, chosen).text(2),
            ]
            for name in contenders
        ]
        header = [arm.title, f"images/s, median (min to max), {n}", f"relative to chosen, {n}"]
        tables.append(markdown.table(header, rows))
    note = f"Each timed call takes {setting.config.batch_size} images a step, {steps} steps."
    return "\n\n".join([*tables, note])


class _Form:
    """Trains with one convolution, called one way, for `steps` steps a call."""

    def __init__(
        self, conv: Convolution, call: str, arm: Arm, setting: Setting, steps: int
    ) -> None:
        net: Any = arm.module
        self._steps = steps
        self._images, self._labels = jnp.asarray(setting.images), jnp.asarray(setting.labels)
        step_of = training_step(conv, net, setting)
        x = jnp.zeros((1, *setting.images.shape[1:]), jnp.float32)
        params = jax.jit(net.init)(stream(0, "initialisation"), x)["params"]
        optimizer = setting.optimizer().step.init(params)
        self._carry = Carry(params, optimizer, jnp.float32(0))

        def loop(carry: Carry, images: jax.Array, labels: jax.Array, stop: jax.Array) -> Carry:
            def body(step: jax.Array, carry: Carry) -> Carry:
                return step_of(carry, images, labels, step)

            # Of unknown length, as in `Program`: a known one would let XLA unroll it.
            return lax.fori_loop(0, stop, body, carry)

        self._in_loop = call == "lax.fori_loop"
        self._jitted = jax.jit(loop if self._in_loop else step_of, donate_argnums=0)

    def __call__(self) -> None:
        if self._in_loop:
            self._carry = self._jitted(self._carry, self._images, self._labels, self._steps)
        else:
            for step in range(self._steps):
                self._carry = self._jitted(self._carry, self._images, self._labels, step)
        jax.block_until_ready(self._carry)
