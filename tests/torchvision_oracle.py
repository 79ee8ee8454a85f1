"""torchvision as an oracle: how it is imported, and its parameters in our trees.

The maps are written here from the two lists of names, apart from any code of cnnjax.
"""

import re

import numpy as np
import pytest

from experiments.benchmarking import torch_zoo

REASON = "torchvision is an optional oracle"


def load():
    """torchvision's models and torch, or a skip with the reason."""
    torch = pytest.importorskip("torch", reason="PyTorch is an optional oracle: cnnjax[torch]")
    try:
        return torch_zoo.torchvision_models(), torch
    except ImportError as error:
        pytest.skip(f"{REASON}: {error}")


def shrink(model, torch, widths, outputs, staged):
    """Fewer filters in an alexnet or a vgg, layer by layer or stage by stage, and fewer outputs."""
    layer, inputs = 0, 3
    for number, module in enumerate(model.features):
        if isinstance(module, torch.nn.Conv2d):
            width = widths[layer]
            model.features[number] = torch.nn.Conv2d(
                inputs, width, module.kernel_size, module.stride, module.padding
            )
            inputs, layer = width, layer + (not staged)
        elif isinstance(module, torch.nn.BatchNorm2d):
            model.features[number] = torch.nn.BatchNorm2d(inputs)
        elif isinstance(module, torch.nn.MaxPool2d):
            layer += staged
    height, width = model.avgpool.output_size
    inputs, outputs = inputs * height * width, iter(outputs)
    for number, module in enumerate(model.classifier):
        if isinstance(module, torch.nn.Linear):
            features = next(outputs)
            model.classifier[number] = torch.nn.Linear(inputs, features)
            inputs = features


def fill(model, torch, seed):
    """Every parameter and running average drawn anew, of a size that keeps volumes near one.

    Defaults will not do: biases of zero, scales of one and means of zero would hide what is mixed
    up.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("num_batches_tracked"):
                continue
            if value.ndim > 1:
                new = normal(value) * (2 / value[0].numel()) ** 0.5
            elif name.endswith("running_var"):
                new = normal(value).abs() + 0.5
            elif name.endswith("weight"):
                new = 1 + 0.2 * normal(value)
            else:
                new = 0.2 * normal(value)
            value.copy_(new)


def leaf(value, kind):
    """One tensor of PyTorch as an array of ours: what stands first there stands last here."""
    array = value.detach().numpy().copy()
    if kind != "kernel":
        return array
    return np.moveaxis(array, (0, 1), (-1, -2))


def put(tree, path, value):
    """tree["a"]["b"] = value of the path "a/b"."""
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


LEAVES = {
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def chain_names(model, torch, staged):
    """torchvision's name, ours and the kind of each layer of its alexnet or a vgg."""
    stage = layer = 0
    last = None
    for number, module in enumerate(model.features):
        theirs = f"features.{number}"
        if isinstance(module, torch.nn.Conv2d):
            last = f"stage{stage}/conv{layer}" if staged else f"conv{layer}"
            layer += 1
            yield theirs, last, "conv"
        elif isinstance(module, torch.nn.BatchNorm2d):
            yield theirs, last.replace("conv", "norm"), "norm"
        elif isinstance(module, torch.nn.MaxPool2d) and staged:
            stage, layer = stage + 1, 0
    denses = (
        f"classifier.{number}"
        for number, module in enumerate(model.classifier)
        if isinstance(module, torch.nn.Linear)
    )
    yield from zip(denses, ("fc0", "fc1", "head"), ("first dense", "dense", "dense"), strict=True)


def chain_tree(values, names, pooled_size):
    """Tensors by torchvision's names, parameters or their gradients or buffers, as our variables.

    The first dense layer reads its volume channel by channel there, pixel by pixel here.
    """
    tree = {}
    for theirs, ours, kind in names:
        for parameter in ("weight", "bias", "running_mean", "running_var"):
            if (value := values.get(f"{theirs}.{parameter}")) is None:
                continue
            collection, name = LEAVES.get(parameter, ("params", parameter))
            if parameter == "weight":
                name = "scale" if kind == "norm" else "kernel"
            if kind == "first dense" and name == "kernel":
                outputs, inputs = value.shape
                channels = inputs // (pooled_size[0] * pooled_size[1])
                value = value.reshape(outputs, channels, *pooled_size)
                array = np.transpose(value.detach().numpy(), (2, 3, 1, 0))
                array = array.reshape(-1, outputs)
            else:
                array = leaf(value, name)
            put(tree, f"{collection}/{ours}/{name}", array)
    return tree


_BLOCK = r"layer(?P<stage>\d)\.(?P<block>\d+)\."
_INCEPTION = r"(?P<module>inception\w\w)\."
# Modules of torchvision's and timm's ResNets and of torchvision's GoogLeNet, and ours; a number
# in [] counts from one there.
GRAPH_NAMES = {
    r"conv1": "stem/conv",
    r"bn1": "stem/norm",
    _BLOCK + r"conv(?P<k>\d)": "stage[stage]/block{block}/conv[k]",
    _BLOCK + r"bn(?P<k>\d)": "stage[stage]/block{block}/norm[k]",
    _BLOCK + r"downsample\.0": "stage[stage]/block{block}/shortcut/conv",
    _BLOCK + r"downsample\.1": "stage[stage]/block{block}/shortcut/norm",
    _BLOCK + r"se\.fc(?P<k>\d)": "stage[stage]/block{block}/se/fc[k]",
    r"fc": "head",
    r"conv(?P<k>\d)\.conv": "conv[k]",
    r"conv(?P<k>\d)\.bn": "norm[k]",
    _INCEPTION + r"branch1\.conv": "{module}/branch0/conv0",
    _INCEPTION + r"branch1\.bn": "{module}/branch0/norm0",
    _INCEPTION + r"branch(?P<b>[23])\.(?P<k>\d)\.conv": "{module}/branch[b]/conv{k}",
    _INCEPTION + r"branch(?P<b>[23])\.(?P<k>\d)\.bn": "{module}/branch[b]/norm{k}",
    _INCEPTION + r"branch4\.1\.conv": "{module}/branch3/conv0",
    _INCEPTION + r"branch4\.1\.bn": "{module}/branch3/norm0",
    r"aux(?P<a>\d)\.conv\.conv": "aux[a]/conv0",
    r"aux(?P<a>\d)\.conv\.bn": "aux[a]/norm0",
    r"aux(?P<a>\d)\.fc1": "aux[a]/fc0",
    r"aux(?P<a>\d)\.fc2": "aux[a]/head",
}


def graph_name(theirs):
    """Our name of a module; an error where two patterns match, or none does."""
    ((match, ours),) = [
        (match, ours)
        for pattern, ours in GRAPH_NAMES.items()
        if (match := re.fullmatch(pattern, theirs))
    ]
    for key, text in match.groupdict().items():
        ours = ours.replace("{" + key + "}", text)
        if text.isdigit():
            ours = ours.replace(f"[{key}]", str(int(text) - 1))
    return ours


def graph_tree(values):
    """As `chain_tree`, for the networks of `GRAPH_NAMES`, by names alone.

    An auxiliary head flattens 128 channels of 4x4 positions, channel by channel there.
    """
    tree = {}
    for theirs, value in values.items():
        module, _, parameter = theirs.rpartition(".")
        if parameter == "num_batches_tracked":
            continue
        collection, name = LEAVES.get(parameter, ("params", parameter))
        if name == "weight":
            name = "scale" if value.ndim == 1 else "kernel"
        ours = graph_name(module)
        if re.fullmatch(r"aux\d/fc0", ours) and name == "kernel":
            value = value.reshape(-1, 128, 4, 4).permute(0, 2, 3, 1).reshape(-1, 2048)
        put(tree, f"{collection}/{ours}/{name}", leaf(value, name))
    return tree
