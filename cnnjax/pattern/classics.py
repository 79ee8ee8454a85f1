"""The classic chains as patterns, exactly as published or as their best-known code has them."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PATTERNS"]


def _vgg(*widths_and_depths: tuple[int, int]) -> str:
    """Simonyan and Zisserman (2014): stages of 3x3 layers, halved by pooling."""
    stages = (f"[CONV3-{width} -> RELU]*{depth} -> POOL2 -> " for width, depth in widths_and_depths)
    return f"INPUT[224x224x3] -> {''.join(stages)}[FC-4096 -> RELU -> DROPOUT0.5]*2 -> FC-1000"


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_WIDTHS = (64, 128, 256, 512, 512)

# By name. Where windows do not tile their input, fit=floor says so, as it was.
PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        # LeCun et al. (1998), with full connections between the second pair of layers.
        "lenet5": (
            "INPUT[32x32x1] -> CONV5-6[padding=0] -> TANH -> AVGPOOL2 -> CONV5-16[padding=0] -> "
            "TANH -> AVGPOOL2 -> CONV5-120[padding=0] -> TANH -> FC-84 -> TANH -> FC-10"
        ),
        # Krizhevsky et al. (2012): two groups, normalised responses, overlapping pooling.
        "alexnet_2012": (
            "INPUT[227x227x3] -> CONV11-96[stride=4, padding=0] -> RELU -> LRN -> POOL3/2 -> "
            "CONV5-256[groups=2] -> RELU -> LRN -> POOL3/2 -> CONV3-384 -> RELU -> "
            "CONV3-384[groups=2] -> RELU -> CONV3-256[groups=2] -> RELU -> POOL3/2 -> "
            "[FC-4096 -> RELU -> DROPOUT0.5]*2 -> FC-1000"
        ),
        # Krizhevsky (2014), one tower, as torchvision's alexnet has it.
        "alexnet": (
            "INPUT[224x224x3] -> CONV11-64[stride=4, padding=2, fit=floor] -> RELU -> POOL3/2 -> "
            "CONV5-192 -> RELU -> POOL3/2 -> CONV3-384 -> RELU -> [CONV3-256 -> RELU]*2 -> "
            "POOL3/2 -> [DROPOUT0.5 -> FC-4096 -> RELU]*2 -> FC-1000"
        ),
        # Zeiler and Fergus (2013).
        "zfnet": (
            "INPUT[224x224x3] -> CONV7-96[stride=2, padding=1, fit=floor] -> RELU -> "
            "POOL3/2[padding=1, fit=floor] -> LRN -> CONV5-256[stride=2, padding=0] -> RELU -> "
            "POOL3/2[padding=1, fit=floor] -> LRN -> [CONV3-384 -> RELU]*2 -> CONV3-256 -> RELU -> "
            "POOL3/2 -> [FC-4096 -> RELU -> DROPOUT0.5]*2 -> FC-1000"
        ),
        **{name: _vgg(*zip(_WIDTHS, depths, strict=True)) for name, depths in _DEPTHS.items()},
        # Springenberg et al. (2014): strided convolutions in place of pooling, for CIFAR-10.
        "all_cnn_c": (
            "INPUT[32x32x3] -> DROPOUT0.2 -> [CONV3-96 -> RELU]*2 -> "
            "CONV3-96[stride=2, fit=floor] -> RELU -> DROPOUT0.5 -> [CONV3-192 -> RELU]*2 -> "
            "CONV3-192[stride=2, fit=floor] -> RELU -> DROPOUT0.5 -> CONV3-192[padding=0] -> RELU "
            "-> CONV1-192 -> RELU -> CONV1-10 -> RELU -> GAP"
        ),
    }
)
