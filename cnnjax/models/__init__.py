"""Flax modules over `cnnjax.ops`; every submodule is named, since names are public API."""

from cnnjax.models.layers import Conv
from cnnjax.models.stack import StackNet

__all__ = ["Conv", "StackNet"]
