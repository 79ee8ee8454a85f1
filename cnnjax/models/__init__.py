"""Flax modules over `cnnjax.ops`; every submodule is named, since names are public API."""

from cnnjax.models.airbench import AirbenchNet
from cnnjax.models.googlenet import AuxiliaryScores
from cnnjax.models.layers import BatchNorm, Conv, Dense, LocallyConnected
from cnnjax.models.network import FeatureInfo, Network
from cnnjax.models.stack import StackNet
from cnnjax.models.zoo import create, names

__all__ = [
    "AirbenchNet",
    "AuxiliaryScores",
    "BatchNorm",
    "Conv",
    "Dense",
    "FeatureInfo",
    "LocallyConnected",
    "Network",
    "StackNet",
    "create",
    "names",
]
