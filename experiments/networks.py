"""The network that flags name: one of the zoo with options, or a Flax module of the user's own."""

import ast
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from cnnjax import models
from cnnjax.analysis import is_module
from experiments.names import check_name

__all__ = ["define_option_flag", "make_network", "own_module", "parse_options", "parse_shape"]


def define_option_flag(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define --option, one for each option of the network."""
    flags.DEFINE_multi_string(
        "option",
        [],
        "An option of the network, once for each: --option=output_stride=8 --option=norm=group.",
        flag_values=flag_values,
    )


def make_network(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, ...] | None = None
) -> models.Network:
    """The network of the zoo by its name.

    Args:
      name: one of `models.names()`.
      options: of `models.create`.
      input_shape: (height, width, channels) of an image, in place of the published.

    Raises:
      ValueError: an unknown name, a shape that is no image's, or an option it cannot take.
      TypeError: an option that it does not have.

    >>> make_network("vgg11", {"num_classes": 10}, (64, 64, 1)).input_shape
    (64, 64, 1)
    """
    check_name("model", name, models.names())
    if input_shape is not None:
        if len(input_shape) != 3:
            sizes = "x".join(map(str, input_shape))
            raise ValueError(
                f"--input_shape={sizes}: {name} takes height, width and channels, as in 224x224x3"
            )
        height, width, channels = input_shape
        options = {"image_size": (height, width), "input_channels": channels, **options}
    return models.create(name, **options)


def own_module(name: str, input_shape: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...]]:
    """The module that `package.file:name` names, itself, its class or its maker, and its input.

    Raises:
      ValueError: it is not there, is no module, or the shape of its input was not said.
    """
    if input_shape is None:
        raise ValueError(f"--model={name} needs --input_shape, as in 224x224x3")
    file, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # Files of the working directory, wherever the program was started.
    try:
        found = getattr(importlib.import_module(file), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--model={name}: {error}") from None
    finally:
        sys.path.remove("")
    if isinstance(found, type) or not is_module(found):
        try:
            found = found()
        except TypeError as error:
            raise ValueError(
                f"--model={name}: {error}; name a function that makes the module, without arguments"
            ) from None
    if not is_module(found):
        raise ValueError(f"--model={name} gives {found!r}, not a Flax module")
    return found, input_shape


def parse_options(settings: Sequence[str]) -> dict[str, Any]:
    """Options by name; what is no Python literal is text.

    >>> parse_options(["output_stride=8", "norm=group", "image_size=(64, 64)", "features=True"])
    {'output_stride': 8, 'norm': 'group', 'image_size': (64, 64), 'features': True}

    Raises:
      ValueError: no name, no value, or a name twice.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        name, text = name.strip(), text.strip()
        if not separator or not name or not text:
            raise ValueError(f"--option: expected NAME=VALUE, as in norm=group, got {setting!r}")
        if name in options:
            raise ValueError(f"--option={setting}: {name} was given before")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def parse_shape(text: str) -> tuple[int, ...]:
    """The sizes of a shape written with x between them.

    >>> parse_shape("224x224x3")
    (224, 224, 3)

    Raises:
      ValueError: something else.
    """
    try:
        shape = tuple(map(int, text.lower().split("x")))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(
            f"--input_shape={text}: expected positive sizes, channels last, as in 224x224x3"
        )
    return shape
