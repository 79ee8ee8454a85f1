"""What PyTorch's libraries call the modules of a network.

A family is known by the modules it has, not by its class or its name in the zoo, so that a variant
(another width, another norm, plain instead of residual) is called as its family is.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

__all__ = ["LEAVES", "STYLES", "Called", "is_head", "module_names"]

Module = tuple[str, ...]

STYLES = ("torchvision", "timm")
# A leaf's name here to that in PyTorch; a scale and a kernel never stand in one module.
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Called(NamedTuple):
    """What a module is called.

    Attributes:
      name: dotted, as in PyTorch.
      windowed: whether PyTorch has it as a convolution though it is a dense layer here.
    """

    name: str
    windowed: bool = False


def is_head(module: Module) -> bool:
    """Whether a module gives the scores: the classifier, or that of an auxiliary head."""
    return module[-1:] == ("head",)


def module_names(modules: Collection[Module], style: str) -> dict[Module, Called]:
    """Names of all modules in one of `STYLES`; own paths joined by dots where no family fits.

    >>> names = module_names({("stage0", "conv0"), ("fc0",), ("head",)}, "timm")
    >>> [names[module].name for module in (("stage0", "conv0"), ("fc0",), ("head",))]
    ['features.0', 'pre_logits.fc1', 'head.fc']
    >>> module_names({("conv0",), ("head",)}, "torchvision")[("head",)].name
    'head'
    """
    known: Mapping[Module, Called] = {}
    if ("stem", "conv") in modules:
        known = _resnet(modules)
    elif ("stage0", "conv0") in modules:
        known = _vgg(modules, style)
    elif any(module[0] == "inception3a" for module in modules):
        known = _googlenet(modules)
    elif set(modules) == set(_ALEXNET):
        known = _ALEXNET
    return {module: known.get(module, Called(".".join(module))) for module in modules}


# torchvision's: convolution, ReLU and, after the first two and the last, pooling.
_ALEXNET: dict[Module, Called] = {
    **{(f"conv{i}",): Called(f"features.{k}") for i, k in enumerate((0, 3, 6, 8, 10))},
    ("fc0",): Called("classifier.1"),
    ("fc1",): Called("classifier.4"),
    ("head",): Called("classifier.6"),
}

_VGG_HEADS: dict[str, dict[Module, Called]] = {
    "torchvision": {
        ("fc0",): Called("classifier.0"),
        ("fc1",): Called("classifier.3"),
        ("head",): Called("classifier.6"),
    },
    "timm": {
        ("fc0",): Called("pre_logits.fc1", windowed=True),
        ("fc1",): Called("pre_logits.fc2", windowed=True),
        ("head",): Called("head.fc"),
    },
}


def _vgg(modules: Collection[Module], style: str) -> dict[Module, Called]:
    """`features` counts convolutions, norms, ReLUs and poolings in one sequence."""
    names = dict(_VGG_HEADS[style])
    index = i = 0
    while (f"stage{i}", "conv0") in modules:
        j = 0
        while (f"stage{i}", f"conv{j}") in modules:
            names[f"stage{i}", f"conv{j}"] = Called(f"features.{index}")
            if (f"stage{i}", f"norm{j}") in modules:
                index += 1
                names[f"stage{i}", f"norm{j}"] = Called(f"features.{index}")
            index += 2
            j += 1
        index += 1
        i += 1
    return names


def _translated(modules: Collection[Module], rules: Mapping[str, Any]) -> dict[Module, Called]:
    """Modules that match a rule in full, by what it makes of the numbers in their paths."""
    names = {}
    for module in modules:
        for pattern, make in rules.items():
            if match := re.fullmatch(pattern, "/".join(module)):
                name = make(*map(int, match.groups()))
                names[module] = name if isinstance(name, Called) else Called(name)
    return names


_BLOCK = r"stage(\d+)/block(\d+)/"


def _resnet(modules: Collection[Module]) -> dict[Module, Called]:
    return _translated(
        modules,
        {
            "stem/conv": lambda: "conv1",
            "stem/norm": lambda: "bn1",
            _BLOCK + r"conv(\d+)": lambda i, j, k: f"layer{i + 1}.{j}.conv{k + 1}",
            _BLOCK + r"norm(\d+)": lambda i, j, k: f"layer{i + 1}.{j}.bn{k + 1}",
            _BLOCK + "shortcut/conv": lambda i, j: f"layer{i + 1}.{j}.downsample.0",
            _BLOCK + "shortcut/norm": lambda i, j: f"layer{i + 1}.{j}.downsample.1",
            _BLOCK + r"se/fc(\d+)": lambda i, j, k: Called(
                f"layer{i + 1}.{j}.se.fc{k + 1}", windowed=True
            ),
            "head": lambda: "fc",
        },
    )


def _googlenet(modules: Collection[Module]) -> dict[Module, Called]:
    rules: dict[str, Any] = {
        r"aux(\d+)/fc0": lambda i: f"aux{i + 1}.fc1",
        r"aux(\d+)/head": lambda i: f"aux{i + 1}.fc2",
        "head": lambda: "fc",
    }
    for kind, torch_kind in (("conv", "conv"), ("norm", "bn")):
        rules |= {
            rf"{kind}(\d+)": lambda i, t=torch_kind: f"conv{i + 1}.{t}",
            rf"aux(\d+)/{kind}0": lambda i, t=torch_kind: f"aux{i + 1}.conv.{t}",
        }
        for block in {module[0] for module in modules if module[0].startswith("inception")}:
            rules |= {
                rf"{block}/branch0/{kind}0": lambda b=block, t=torch_kind: f"{b}.branch1.{t}",
                rf"{block}/branch([12])/{kind}(\d+)": lambda i, k, b=block, t=torch_kind: (
                    f"{b}.branch{i + 1}.{k}.{t}"
                ),
                # The pooling stands at index 0.
                rf"{block}/branch3/{kind}0": lambda b=block, t=torch_kind: f"{b}.branch4.1.{t}",
            }
    return _translated(modules, rules)
