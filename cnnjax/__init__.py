"""cnnjax: a laboratory for convolutional networks in JAX.

Pure functions (`cnnjax.ops`), closed-form geometry (`cnnjax.geometry`,
`cnnjax.receptive_field`), what any JAX function sees and costs (`cnnjax.analysis`), Flax modules
of the classic ConvNets (`cnnjax.models`), their weights (`cnnjax.weights`) and their use on larger
images (`cnnjax.surgery`), the layer-pattern language (`cnnjax.pattern`), datasets by name
(`cnnjax.data`), training as one XLA program (`cnnjax.training`) and intervals (`cnnjax.stats`).

Submodules load on first use, so that `import cnnjax` costs nothing and `cnnjax.ops` never
loads Flax or TensorFlow Datasets.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "analysis",
    "data",
    "geometry",
    "models",
    "ops",
    "pattern",
    "receptive_field",
    "stats",
    "surgery",
    "training",
    "weights",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
