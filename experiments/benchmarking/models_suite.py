"""Suite "models": whole networks of the zoo against torchvision's, to answer and to train.

On a GPU in bfloat16, 256 images of 224x224, against channels_last, autocast and torch.compile on
the same GPU; on a CPU in float32, a few images, against PyTorch eager in channels_last.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from cnnjax import models
from experiments.benchmarking import markdown, torch_zoo
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.timing import Contender, alternate

__all__ = ["BATCHES", "NETWORKS", "models_suite"]

NETWORKS = ("resnet50", "vgg16")
# Images of a call, by the kind of device.
BATCHES = {"cpu": 4, "gpu": 256}

_NOTE = """\
Forward: scores in evaluation. Training: scores with batch statistics and dropout, mean
cross-entropy, its gradient, SGD with momentum 0.9. Both sides: one batch that lies on the device,
parameters and momentum in float32, no data pipeline. Ours: one compiled program a call, which
gives its old parameters' memory to the new. PyTorch: channels_last, fused SGD."""
_ON_GPU = "Compute in bfloat16: ours by dtype=bfloat16, PyTorch's by autocast, with torch.compile."
_ON_CPU = "Compute in float32; PyTorch eager, as torch.compile needs a C++ compiler there."


def models_suite(setting: Setting) -> str:
    """Images a second of each network, ours and torchvision's in alternation.

    Args:
      setting: `rounds` says how often each is timed.

    Returns:
      Markdown: a table with two rows a network, and what was the same on both sides.
    """
    platform = jax.default_backend()
    missing = torch_zoo.why_no_peer()
    peers = {} if missing else torch_zoo.peers()
    batch = BATCHES.get(platform, BATCHES["gpu"])
    n = f"n = {setting.rounds}"
    header = ["network, mode", f"ours, images/s, median (min to max), {n}"]
    for peer in peers:
        header += [f"{peer}, images/s, {n}", f"ours / {peer}, {n}"]
    rows = []
    for name in tqdm(NETWORKS, "models", leave=False, disable=None):
        for mode, contenders in _contenders(name, batch, peers):
            timings = alternate(contenders, rounds=setting.rounds, work=batch, label=name)
            row = [f"{name}, {mode}", timings.rate("ours").text(1)]
            for peer in peers:
                row += [timings.rate(peer).text(1), timings.ratio("ours", peer).text(2)]
            rows.append(row)
    title = f"{batch} images a call, each of the network's published size."
    notes = [title, _NOTE, missing or (_ON_CPU if platform == "cpu" else _ON_GPU)]
    return "\n\n".join([markdown.table(header, rows), markdown.paragraphs(*notes)])


def _contenders(
    name: str, batch: int, peers: dict[str, int | None]
) -> Iterator[tuple[str, dict[str, Contender]]]:
    """Each mode with who takes part; what one mode holds is gone before the next is made."""
    network = models.create(name)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *network.input_shape)).astype(np.float32)
    labels = rng.integers(0, network.num_classes, batch, np.int32)
    for mode, ours in (("forward", _forward), ("training", _Training)):
        contenders: dict[str, Contender] = {"ours": ours(name, images, labels)}
        for peer, threads in peers.items():
            contenders[peer] = torch_zoo.contender(
                name, images, labels, mode == "training", threads
            )
        yield mode, contenders
        contenders.clear()


def _network(name: str) -> models.Network:
    dtype = None if jax.default_backend() == "cpu" else jnp.bfloat16
    return models.create(name, dtype=dtype)


def _drawn(network: models.Network) -> Any:
    """Variables; drawing them costs more to optimise than to run."""
    init = jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 1})
    return init(jax.random.key(0), jnp.zeros((1, *network.input_shape)))


def _forward(name: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    del labels
    network = _network(name)
    variables, x = _drawn(network), jnp.asarray(images)
    apply = jax.jit(functools.partial(network.apply, train=False))
    return lambda: jax.block_until_ready(apply(variables, x))


class _Training:
    """Takes a step a call, on and on."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray) -> None:
        self._network = _network(name)
        self._optimizer = optax.sgd(0.01, momentum=0.9)
        self._variables = _drawn(self._network)
        self._momentum = self._optimizer.init(self._variables["params"])
        self._batch = jnp.asarray(images), jnp.asarray(labels)
        self._key = jax.random.key(1)
        self._step: Any = jax.jit(self._step_of, donate_argnums=(0, 1))

    def __call__(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        self._variables, self._momentum, loss = self._step(
            self._variables, self._momentum, *self._batch, key
        )
        return jax.block_until_ready(loss)

    def _step_of(
        self, variables: Any, momentum: Any, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            scores, updated = self._network.apply(
                {"params": params, **rest},
                x,
                train=True,
                rngs={"dropout": key},
                mutable=list(rest),
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return jnp.mean(losses), updated

        params = variables["params"]
        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, momentum = self._optimizer.update(gradients, momentum, params)
        return {**updated, "params": optax.apply_updates(params, updates)}, momentum, loss
