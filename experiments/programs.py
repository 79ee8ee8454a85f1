"""The program that a config makes of a network: its recipe, augmentation and normalisation."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.training import Program, make_optimizer
from experiments.config import Config

__all__ = ["augment", "make_normalize", "make_program"]


def augment(config: Config, key: jax.Array, images: jax.Array) -> jax.Array:
    """Shift and flip uint8 images (N, H, W, C) as the config's flags say."""
    shift_key, flip_key = jax.random.split(key)
    if config.shift:
        images = datasets.random_shift_crop(shift_key, images, pad=config.shift)
    if config.flip:
        images = datasets.random_flip(flip_key, images)
    return images


def make_normalize(training: Images) -> Callable[[jax.Array], jax.Array]:
    """The function that removes the channel statistics of a training set from uint8 images."""
    mean, std = datasets.channel_statistics(training.images)
    return functools.partial(datasets.normalize, mean=mean, std=std)


def make_program(
    module: nn.Module,
    config: Config,
    training: Images,
    *,
    num_epochs: int,
    num_seeds: int = 1,
    trained: tuple[str, ...] | None = None,
) -> Program:
    """The program that trains `module`, not yet compiled.

    Args:
      module: the network.
      config: says batch size, recipe and augmentation.
      training: the training set, whose channel statistics normalising removes.
      num_epochs: length of the schedule.
      num_seeds: seeds trained at a time.
      trained: layers that learn; all of them by default.
    """
    num_train = len(training.labels)
    return Program(
        module,
        make_optimizer(
            config.optimization(),
            num_epochs=num_epochs,
            steps_per_epoch=num_train // config.batch_size,
        ),
        image_shape=training.images.shape[1:],
        num_train=num_train,
        batch_size=config.batch_size,
        normalize=make_normalize(training),
        augment=functools.partial(augment, config),
        num_seeds=num_seeds,
        trained=trained,
    )
