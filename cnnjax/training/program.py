"""Training as one XLA program: steps, shuffling, augmenting and evaluating, on the device.

A `Program` is everything that is compiled for one network: it is compiled once and serves every
seed. The training set lies on the device as uint8. One call of `run` takes any number of steps
of one epoch in a single loop of known body and unknown length, so that the bits of a run do not
depend on where it was cut: an epoch in one call, or in a hundred with a checkpoint after each,
gives the same numbers. Randomness is a function of (seed, purpose, epoch or step) alone, which
pairs the seeds: seed s has the same data order and the same augmentation draws for any network.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax.training._trees import replaced
from cnnjax.training.losses import cross_entropy
from cnnjax.training.optimizers import Optimizer
from cnnjax.training.streams import Draws, stream

__all__ = ["Evaluation", "Program", "State"]

Augment = Callable[[Draws, jax.Array], jax.Array]
Normalize = Callable[[jax.Array], jax.Array]
Mix = Callable[[Draws, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Loss = Callable[[Any, jax.Array], jax.Array]
Views = Callable[[jax.Array], jax.Array]


def _alone(images: jax.Array) -> jax.Array:
    """An image is its only view."""
    return images[None]


class State(NamedTuple):
    """All that a step changes; every leaf has a leading axis of one entry a seed.

    Attributes:
      variables: Flax collections; "params" is trained, the others are carried along.
      optimizer: state of the optimiser.
      plateau: state of the plateau watcher, or () without one.
      best_correct: most validation images classified correctly so far, -1 before the first time.
      best_variables: the variables that did (the first of equals).
    """

    variables: Any
    optimizer: Any
    plateau: Any
    best_correct: jax.Array
    best_variables: Any


class Evaluation(NamedTuple):
    """Mean cross-entropy (nats) over a set and how many of it are right, one entry a seed.

    A count, since a float32 ratio is not the fraction that it stands for.
    """

    loss: jax.Array
    num_correct: jax.Array


class Program:
    """The compiled functions of one network, shared by every seed.

    Attributes:
      num_seeds: seeds trained at a time; above one they run under `jax.vmap`.
      steps_per_epoch: num_train // batch_size; the images left over sit out that epoch, and
        since each epoch is shuffled anew they are others every time.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        image_shape: tuple[int, ...],
        num_train: int,
        batch_size: int,
        normalize: Normalize,
        augment: Augment,
        mix: Mix | None = None,
        loss: Loss = cross_entropy,
        test_views: Views | None = None,
        num_seeds: int = 1,
        trained: Collection[str] | None = None,
        evaluation_batch_size: int = 500,
    ) -> None:
        """Describe the program; nothing is compiled before `compile` or first use.

        Args:
          module: network with `apply(variables, x, train=...)` to scores; with train=True it may
            give whatever `loss` takes, and draw from the streams "dropout" and "fractional".
          optimizer: of `make_optimizer`.
          image_shape: (height, width, channels) of one image.
          num_train: images of the training set.
          batch_size: images a step.
          normalize: uint8 images to floating ones, without randomness.
          augment: (draws, uint8 images) to uint8 images, training only.
          mix: (draws, augmented uint8 images, labels) to uint8 images and the targets of `loss`,
            training only; by default the images and labels themselves.
          loss: (what the network gives with train=True, targets) to the losses of a batch, of
            which the mean is minimised and reported; cross-entropy by default.
          test_views: normalised images (N, ...) to views of them (V, N, ...), whose scores are
            averaged by `evaluate`, not by `validate`; the images alone by default.
          num_seeds: seeds trained at a time.
          trained: layers at the top of the network that learn, by name; of the others neither
            parameters nor batch statistics change. All of them by default.
          evaluation_batch_size: images a step of an evaluation.

        Raises:
          ValueError: a batch larger than the training set, or no layer to train.
        """
        if not 1 <= batch_size <= num_train:
            raise ValueError(
                f"Program: batch_size must be between 1 and the {num_train} images of the training "
                f"set, got {batch_size}"
            )
        if trained is not None and (isinstance(trained, str) or not trained):
            raise ValueError(
                f"Program: trained must name at least one layer, such as ('head',), got {trained!r}"
            )
        self.module, self.optimizer = module, optimizer
        self._trained = None if trained is None else frozenset(trained)
        self.image_shape, self.num_train = image_shape, num_train
        self.batch_size, self.num_seeds = batch_size, num_seeds
        self.steps_per_epoch = num_train // batch_size
        self._normalize, self._augment, self._mix = normalize, augment, mix
        self._loss = loss
        self._evaluation_batch_size = evaluation_batch_size
        per_seed = functools.partial(_map_seeds, num_seeds)
        # Drawing weights runs once a trial and costs more to optimise than to run.
        self._initialize: Any = jax.jit(
            per_seed(self._initialize_one, (0,)),
            compiler_options={"xla_backend_optimization_level": 1},
        )
        self._start: Any = jax.jit(per_seed(self._start_one, (0,)))
        self._run: Any = jax.jit(
            per_seed(self._run_one, (0, 0, None, None, None, None)), donate_argnums=0
        )
        self._validate: Any = jax.jit(
            per_seed(self._validate_one, (0, None, None)), donate_argnums=0
        )
        test = functools.partial(self._evaluate_one, views=test_views or _alone)
        self._evaluate: Any = jax.jit(per_seed(test, (0, None, None)))

    def initialize(self, seeds: jax.Array, given: Any = None) -> State:
        """State before the first step.

        Args:
          seeds: shape (num_seeds,).
          given: variables that stand in place of those drawn, a part of the network's tree whose
            leaves have a leading axis of seeds; what it leaves out is drawn. None by default.

        Raises:
          ValueError: given variables that the network does not have, or has in other shapes.
        """
        state = self._initialize(self._checked(seeds))
        if not given:
            return state
        variables = replaced("Program.initialize", state.variables, given)
        return self._start(variables)

    def run(
        self,
        state: State,
        seeds: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        start: int,
        stop: int,
    ) -> tuple[State, jax.Array]:
        """Steps `start` to `stop` (exclusive) of the run; `state` is donated.

        Args:
          state: before step `start`.
          seeds: shape (num_seeds,).
          images: uint8 training set, (num_train, height, width, channels).
          labels: int32, (num_train,).
          start: global step to begin with.
          stop: global step to end before, within the same epoch.

        Returns:
          The state after, and the loss of each step, shape (num_seeds, steps_per_epoch) with
          step i at column i - epoch * steps_per_epoch and NaN where nothing ran.

        Raises:
          ValueError: steps that span two epochs.
        """
        if not start < stop <= (start // self.steps_per_epoch + 1) * self.steps_per_epoch:
            raise ValueError(
                f"Program.run: steps {start} to {stop} must be a non-empty part of one epoch of "
                f"{self.steps_per_epoch}"
            )
        return self._run(
            state, self._checked(seeds), images, labels, jnp.int32(start), jnp.int32(stop)
        )

    def validate(
        self, state: State, images: jax.Array, labels: jax.Array
    ) -> tuple[State, Evaluation]:
        """Evaluate, remember the best variables, and tell a plateau watcher; donates `state`."""
        return self._validate(state, images, labels)

    def evaluate(self, variables: Any, images: jax.Array, labels: jax.Array) -> Evaluation:
        """Loss and correct count of variables whose leaves have a leading axis of seeds."""
        return self._evaluate(variables, images, labels)

    def compile(self, num_validation: int, num_test: int) -> None:
        """Compile everything for sets of these sizes now, rather than at first use."""
        shape = jax.ShapeDtypeStruct

        def data(num: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
            return shape((num, *self.image_shape), jnp.uint8), shape((num,), jnp.int32)

        seeds, step = shape((self.num_seeds,), jnp.int32), shape((), jnp.int32)
        state = jax.eval_shape(self._initialize, seeds)
        self._initialize = self._initialize.lower(seeds).compile()
        self._run = self._run.lower(state, seeds, *data(self.num_train), step, step).compile()
        self._validate = self._validate.lower(state, *data(num_validation)).compile()
        self._evaluate = self._evaluate.lower(state.variables, *data(num_test)).compile()

    def _checked(self, seeds: jax.Array) -> jax.Array:
        seeds = jnp.asarray(seeds, jnp.int32)
        if seeds.shape != (self.num_seeds,):
            raise ValueError(
                f"Program: seeds must have shape ({self.num_seeds},), got {seeds.shape}"
            )
        return seeds

    def _initialize_one(self, seed: jax.Array) -> State:
        example = self._normalize(jnp.zeros((1, *self.image_shape), jnp.uint8))
        return self._start_one(
            self.module.init(stream(seed, "initialisation"), example, train=False)
        )

    def _start_one(self, variables: Any) -> State:
        strangers = (self._trained or frozenset()) - variables["params"].keys()
        if strangers:
            raise ValueError(
                f"Program: trained names {min(strangers)!r}, which is no layer of the network; it "
                f"has {', '.join(sorted(variables['params']))}"
            )
        learning, _ = self._split(variables["params"])
        plateau = self.optimizer.plateau
        return State(
            # Copies, since an output that is an input would be lost with the state's donation.
            variables=jax.tree.map(jnp.copy, variables),
            optimizer=self.optimizer.step.init(learning),
            plateau=() if plateau is None else plateau.init(learning),
            best_correct=jnp.int32(-1),
            best_variables=jax.tree.map(jnp.copy, variables),
        )

    def _split(self, tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A collection's layers that learn, and those that stay."""
        names = set(tree) if self._trained is None else self._trained
        return (
            {name: layer for name, layer in tree.items() if name in names},
            {name: layer for name, layer in tree.items() if name not in names},
        )

    def _run_one(
        self,
        state: State,
        seed: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        start: jax.Array,
        stop: jax.Array,
    ) -> tuple[State, jax.Array]:
        epoch = start // self.steps_per_epoch
        order = jax.random.permutation(
            jax.random.fold_in(stream(seed, "order"), epoch), self.num_train
        )

        def body(step: jax.Array, carry: tuple) -> tuple:
            variables, optimizer, losses = carry
            column = step - epoch * self.steps_per_epoch
            rows = lax.dynamic_slice(order, (column * self.batch_size,), (self.batch_size,))
            variables, optimizer, loss = self._step(
                variables, optimizer, state.plateau, seed, step, rows, images[rows], labels[rows]
            )
            return variables, optimizer, losses.at[column].set(loss)

        losses = jnp.full((self.steps_per_epoch,), jnp.nan, jnp.float32)
        carry = (state.variables, state.optimizer, losses)
        variables, optimizer, losses = lax.fori_loop(start, stop, body, carry)
        return state._replace(variables=variables, optimizer=optimizer), losses

    def _step(
        self,
        variables: Any,
        optimizer: Any,
        plateau: Any,
        seed: jax.Array,
        step: jax.Array,
        rows: jax.Array,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[Any, Any, jax.Array]:
        draws = Draws(
            key=jax.random.fold_in(stream(seed, "augmentation"), step),
            image_key=stream(seed, "image"),
            indices=rows,
            epoch=step // self.steps_per_epoch,
        )
        rngs = {
            purpose: jax.random.fold_in(stream(seed, purpose), step)
            for purpose in ("dropout", "fractional")
        }
        images, targets = self._augment(draws, images), labels
        if self._mix is not None:
            images, targets = self._mix(draws, images, labels)
        x = self._normalize(images)
        carried = {name: value for name, value in variables.items() if name != "params"}
        learning, staying = self._split(variables["params"])

        def loss_of(learning: Any) -> tuple[jax.Array, Any]:
            outputs, updated = self.module.apply(
                {"params": {**staying, **learning}, **carried},
                x,
                train=True,
                rngs=rngs,
                mutable=list(carried),
            )
            return jnp.mean(self._loss(outputs, targets)), updated

        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(learning)
        updates, optimizer = self.optimizer.step.update(gradients, optimizer, learning)
        if self.optimizer.plateau is not None:
            updates = jax.tree.map(lambda update: plateau.scale * update, updates)
        kept = {name: {**tree, **self._split(carried[name])[1]} for name, tree in updated.items()}
        params = {**staying, **optax.apply_updates(learning, updates)}
        return {**carried, **kept, "params": params}, optimizer, loss.astype(jnp.float32)

    def _validate_one(
        self, state: State, images: jax.Array, labels: jax.Array
    ) -> tuple[State, Evaluation]:
        result = self._evaluate_one(state.variables, images, labels)
        better = result.num_correct > state.best_correct
        state = state._replace(
            best_correct=jnp.where(better, result.num_correct, state.best_correct),
            best_variables=jax.tree.map(
                lambda new, old: jnp.where(better, new, old), state.variables, state.best_variables
            ),
        )
        if self.optimizer.plateau is not None:
            _, plateau = self.optimizer.plateau.update((), state.plateau, value=result.loss)
            state = state._replace(plateau=plateau)
        return state, result

    def _evaluate_one(
        self, variables: Any, images: jax.Array, labels: jax.Array, views: Views = _alone
    ) -> Evaluation:
        num = images.shape[0]
        size = min(self._evaluation_batch_size, num)
        num_batches = -(-num // size)
        # The last batch is filled up with blank images that the mask leaves out.
        padding = num_batches * size - num
        images = jnp.pad(images, [(0, padding)] + [(0, 0)] * (images.ndim - 1))
        labels = jnp.pad(labels, (0, padding))

        def body(batch: jax.Array, sums: tuple) -> tuple:
            total, correct = sums
            x = self._normalize(lax.dynamic_slice_in_dim(images, batch * size, size))
            y = lax.dynamic_slice_in_dim(labels, batch * size, size)
            counts = batch * size + jnp.arange(size) < num
            of_views: Any = [self.module.apply(variables, view, train=False) for view in views(x)]
            scores = sum(of_views[1:], of_views[0]) / len(of_views)
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, y)
            right = (jnp.argmax(scores, axis=-1) == y) & counts
            total = total + jnp.sum(jnp.where(counts, losses, 0.0), dtype=jnp.float32)
            return total, correct + jnp.sum(right, dtype=jnp.int32)

        total, correct = lax.fori_loop(0, num_batches, body, (jnp.float32(0), jnp.int32(0)))
        return Evaluation(total / num, correct)


def _map_seeds(num_seeds: int, fn: Callable, axes: tuple[int | None, ...]) -> Callable:
    """Map `fn` over the leading axis of the arguments whose entry in `axes` is 0.

    One seed is not a `vmap` of size one: that would turn each convolution into a grouped one.
    """
    if num_seeds > 1:
        return jax.vmap(fn, in_axes=axes)

    def of_one(*args: Any) -> Any:
        squeezed = [
            arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], fn(*squeezed))

    return of_one
