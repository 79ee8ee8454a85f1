"""The flags of an ablation: one for each field of `Config`, and the config that they say."""

import dataclasses
from typing import Any

from absl import flags

from experiments.config import Config

__all__ = ["define_flags", "from_flags"]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define one absl flag for each field of `Config`."""
    define: dict[type, Any] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(Config):
        kind = str if field.default is None else type(field.default)
        define[kind](field.name, field.default, field.metadata["help"], flag_values=flag_values)


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The config that the parsed flags say.

    Raises:
      ValueError: a value that no run could mean; the message names the flag.
    """
    values: dict[str, Any] = {
        field.name: flag_values[field.name].value for field in dataclasses.fields(Config)
    }
    return Config(**values)
