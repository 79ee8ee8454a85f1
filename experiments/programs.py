"""The program that a config makes of a network: its recipe, augmentation and normalisation."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import data as datasets
from cnnjax.data import ColorComponents, Images
from cnnjax.surgery import diagonal_shifts, horizontal_flips
from cnnjax.training import Draws, Program, cross_entropy, make_optimizer, smoothed_targets
from experiments.config import Config

__all__ = ["augment", "make_normalize", "make_program", "make_test_views", "refuse_augmentation"]

# The number of what is drawn in a step's key; shifts and flips have 0 and 1, by a split.
_DRAWN = {"color_jitter": 2, "pca_lighting": 3, "cutout": 4, "mixup": 5}


def augment(
    config: Config,
    draws: Draws,
    images: jax.Array,
    *,
    components: ColorComponents | None = None,
    fill: jax.Array | int = 0,
) -> jax.Array:
    """Shift, flip, colour and mask uint8 images (N, H, W, C) as the config's flags say.

    Args:
      config: says what to do.
      draws: of the step.
      images: the batch.
      components: principal components of the training set's colours, for --pca_lighting.
      fill: what --cutout masks with.
    """
    shift_key, flip_key = jax.random.split(draws.key)
    if config.shift:
        images = datasets.random_shift_crop(
            shift_key,
            images,
            pad=config.shift,
            mode=config.shift_mode,  # type: ignore[arg-type]
        )
    if config.flip and config.flip_kind == "alternating":
        images = datasets.alternating_flip(
            draws.image_key, images, indices=draws.indices, epoch=draws.epoch
        )
    elif config.flip:
        images = datasets.random_flip(flip_key, images)
    if config.color_jitter:
        images = datasets.color_jitter(
            _key(draws, "color_jitter"),
            images,
            brightness=config.color_jitter,
            contrast=config.color_jitter,
            saturation=config.color_jitter,
        )
    if config.pca_lighting and components is not None:
        images = datasets.pca_lighting(
            _key(draws, "pca_lighting"), images, components, std=config.pca_lighting
        )
    if config.cutout:
        images = datasets.cutout(_key(draws, "cutout"), images, size=config.cutout, fill=fill)
    return images


# Most arms of a run share their settings, and tracing takes some hundredths of a second each.
@functools.cache
def refuse_augmentation(config: Config, image_shape: tuple[int, ...]) -> None:
    """Refuse, before anything runs, what flags cannot do to images of a shape.

    Args:
      config: says what to do.
      image_shape: (height, width, channels).

    Raises:
      ValueError: a strength or a shift that the images do not allow, in the words of the function
        that it is.
    """

    def once(key: jax.Array, images: jax.Array) -> jax.Array:
        draws = Draws(key=key, image_key=key, indices=jnp.arange(2), epoch=jnp.zeros((), jnp.int32))
        augmented = augment(config, draws, images)
        views = make_test_views(config)
        return augmented if views is None else views(augmented)

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8)
    jax.eval_shape(once, jax.eval_shape(lambda: jax.random.key(0)), images)


def make_test_views(config: Config) -> Callable[[jax.Array], jax.Array] | None:
    """The views of test images (N, H, W, C) whose scores are averaged, (V, N, H, W, C); or None."""
    if not config.tta_flip and not config.tta_shift:
        return None

    def views(images: jax.Array) -> jax.Array:
        seen = diagonal_shifts(images, config.tta_shift) if config.tta_shift else images[None]
        if config.tta_flip:
            seen = horizontal_flips(seen).reshape(-1, *images.shape)
        return seen

    return views


def _key(draws: Draws, name: str) -> jax.Array:
    return jax.random.fold_in(draws.key, _DRAWN[name])


def _mix(
    config: Config, num_classes: int, draws: Draws, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    targets = smoothed_targets(labels, num_classes)
    return datasets.mixup(_key(draws, "mixup"), images, targets, alpha=config.mixup)


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
      config: says batch size, recipe, augmentation and loss.
      training: the training set, whose channel statistics normalising removes.
      num_epochs: length of the schedule.
      num_seeds: seeds trained at a time.
      trained: layers that learn; all of them by default.
    """
    num_train = len(training.labels)
    mean = datasets.channel_statistics(training.images).mean
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
        augment=functools.partial(
            augment,
            config,
            components=datasets.color_components(training.images) if config.pca_lighting else None,
            # The byte that normalising brings nearest to zero, as the paper has it.
            fill=jnp.asarray((255 * mean).round(), jnp.uint8),
        ),
        mix=functools.partial(_mix, config, len(training.class_names)) if config.mixup else None,
        loss=functools.partial(cross_entropy, label_smoothing=config.label_smoothing),
        test_views=make_test_views(config),
        num_seeds=num_seeds,
        trained=trained,
    )
