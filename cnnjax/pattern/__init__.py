"""The layer-pattern language: text to layers and back, their volumes, a network, and advice.

INPUT[224x224x3] -> [[CONV3-64 -> RELU]*2 -> POOL2]*2 -> [FC-4096 -> RELU]*2 -> FC-1000
"""

from cnnjax.pattern.advice import Advice, check
from cnnjax.pattern.binding import bind, expand, unbound
from cnnjax.pattern.errors import PatternError, Source
from cnnjax.pattern.module import PatternNet, to_module
from cnnjax.pattern.parsing import parse
from cnnjax.pattern.sizing import Volume, volumes
from cnnjax.pattern.specs import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    FractionalPool,
    GlobalAveragePool,
    Input,
    Layer,
    LocalResponseNorm,
    Pool,
)
from cnnjax.pattern.tree import Item, OptionalLayers, Pattern, Repeat, to_text

__all__ = [
    "Activation",
    "Advice",
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "FractionalPool",
    "GlobalAveragePool",
    "Input",
    "Item",
    "Layer",
    "LocalResponseNorm",
    "OptionalLayers",
    "Pattern",
    "PatternError",
    "PatternNet",
    "Pool",
    "Repeat",
    "Source",
    "Volume",
    "bind",
    "check",
    "expand",
    "parse",
    "to_module",
    "to_text",
    "unbound",
    "volumes",
]
