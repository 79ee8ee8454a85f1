"""From an image to what a network was trained on: size, crop, mean and deviation.

The steps are torchvision's, and timm's where it trained the network: resize by Pillow with
antialiasing, crop the centre, divide by 255, subtract the mean, divide by the deviation.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from cnnjax import models
from cnnjax.models import Network

__all__ = ["Preprocessing", "from_config", "preprocess", "preprocessing", "resized_shape"]

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
COLOR_ORDERS = ("RGB", "BGR")

# Of the training images, of values from 0 to 1.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# LeCun et al., 1998, section 2.1: the background is -0.1 and the foreground 1.175.
_MNIST = ((0.1 / 1.275,), (1 / 1.275,))
_HALF = 0.5
# From here on a network is for photographs, not for thumbnails.
_LEAST_PHOTOGRAPH = 112


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Attributes:
      image_size: (height, width) of the input, cropped from the centre of the resized image; where
        that is smaller, black pixels are put around it first.
      resize_size: pixels of the shorter side that the image is resized to, the longer side in
        proportion; or (height, width), whatever the proportions; or None to leave it.
      mean: what is subtracted, one value a channel, of pixels from 0 to 1.
      std: what is divided by afterwards.
      interpolation: of the resizing, with antialiasing: one of Pillow's filters.
      color_order: "RGB" or "BGR"; mean and std are in this order.

    >>> Preprocessing(image_size=(224, 224), resize_size=256).crop_fraction
    0.875

    Raises:
      ValueError: sizes below 1, an unknown interpolation or order, a mean and a deviation of
        different lengths, or a deviation that is not positive.
    """

    image_size: tuple[int, int] = (224, 224)
    resize_size: int | tuple[int, int] | None = 256
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    interpolation: str = "bilinear"
    color_order: str = "RGB"

    def __post_init__(self) -> None:
        """Refuse what is no way to make an input."""
        for field in ("image_size", "resize_size"):
            value = getattr(self, field)
            sizes = value if isinstance(value, tuple) else (value, value)
            whole = all(type(size) is int and size >= 1 for size in sizes)
            if len(sizes) != 2 or not (whole or (field == "resize_size" and value is None)):
                also = ", a pixel count or None" if field == "resize_size" else ""
                raise ValueError(
                    f"Preprocessing: {field} must be (height, width) of at least 1{also}, got "
                    f"{value!r}"
                )
        if not isinstance(self.image_size, tuple):
            raise ValueError(
                f"Preprocessing: image_size must be (height, width), got {self.image_size!r}"
            )
        for field, known in (("interpolation", INTERPOLATIONS), ("color_order", COLOR_ORDERS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"Preprocessing: {field} must be one of {', '.join(known)}, got "
                    f"{getattr(self, field)!r}"
                )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                "Preprocessing: mean and std must have one value a channel, 1 or 3, got "
                f"{self.mean} and {self.std}"
            )
        if not all(math.isfinite(value) for value in self.mean) or not all(
            math.isfinite(value) and value > 0 for value in self.std
        ):
            raise ValueError(
                "Preprocessing: mean must be finite and std positive, got "
                f"{self.mean} and {self.std}"
            )

    @property
    def num_channels(self) -> int:
        """Channels of the input."""
        return len(self.mean)

    @property
    def crop_fraction(self) -> float:
        """Share of the resized image's shorter side that the crop keeps."""
        resized = self.resize_size or self.image_size
        if isinstance(resized, int):
            return min(self.image_size) / resized
        return min(size / of for size, of in zip(self.image_size, resized, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them.

        >>> Preprocessing.from_dict(Preprocessing().as_dict()) == Preprocessing()
        True
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """`as_dict` backwards, from lists as JSON has them too.

        Raises:
          TypeError: fields that there are not.
          ValueError: values that mean nothing.
        """
        values: dict[str, Any] = {
            field: tuple(value) if isinstance(value, list) else value
            for field, value in fields.items()
        }
        return cls(**values)


def preprocessing(network: str | Network) -> Preprocessing:
    """What the network was published with, or what is usual for its images.

    Networks for photographs: shorter side 256, the centre at the network's size, mean and
    deviation of ImageNet (torchvision's evaluation); torchvision's "googlenet" was trained on
    pixels from -1 to 1. Networks for CIFAR: its mean and deviation; for MNIST: LeNet's range, -0.1
    to 1.175, black pixels around the digit. Weights that come with a record of their own, from a
    hub or a checkpoint, go before this.

    Args:
      network: a name, or a network of `models.create`.

    Returns:
      The record, of the network's image size and channels.

    Raises:
      ValueError: an unknown name, or images of neither 1 nor 3 channels.

    >>> preprocessing("lenet5").resize_size, preprocessing("lenet5").image_size
    (28, (32, 32))
    >>> preprocessing("alexnet_2012").image_size
    (227, 227)

    Source: torchvision's `transforms._presets.ImageClassification`.
    """
    net = models.create(network) if isinstance(network, str) else network
    size, channels = net.image_size, net.input_channels
    if channels not in (1, 3):
        raise ValueError(
            f"preprocessing: {type(net).__name__} takes images of {channels} channels, for which "
            "nothing is usual; make a record by Preprocessing(...)"
        )
    least = min(size)
    if least < _LEAST_PHOTOGRAPH:
        mean, std = _MNIST if channels == 1 else _CIFAR
        # Larger inputs than the images are are for black pixels around them.
        shorter = min(least, 28 if channels == 1 else 32)
        return Preprocessing(size, shorter, mean, std)
    resized = 256 if least in (224, 227) else math.floor(least / 0.875)
    if channels == 1:
        return Preprocessing(size, resized, (_HALF,), (_HALF,))
    # torchvision's builder normalises anew inside the network (transform_input) when it has
    # weights; both steps together are this one.
    if _is_torchvision_googlenet(net):
        return Preprocessing(size, resized, (_HALF,) * 3, (_HALF,) * 3)
    return Preprocessing(size, resized, *_IMAGENET)


def from_config(pretrained_cfg: Mapping[str, Any]) -> Preprocessing:
    """The record of a `pretrained_cfg`, as timm keeps one beside its weights, for evaluation.

    The shorter side is resized to floor(size / crop_pct).

    Args:
      pretrained_cfg: `input_size` (channels, height, width), `crop_pct`, `crop_mode`,
        `interpolation`, `mean` and `std`; what is left out is timm's default.

    Raises:
      ValueError: a crop mode or sizes that this library does not have.

    >>> from_config({"input_size": (3, 224, 224), "crop_pct": 0.95}).resize_size
    235

    Source: timm's `data.transforms_factory.transforms_imagenet_eval`.
    """
    channels, height, width = pretrained_cfg.get("input_size") or (3, 224, 224)
    fraction = pretrained_cfg.get("crop_pct") or 0.875
    mode = pretrained_cfg.get("crop_mode") or "center"
    resized = math.floor(height / fraction), math.floor(width / fraction)
    if mode not in ("center", "squash") or (mode == "center" and resized[0] != resized[1]):
        raise ValueError(
            f"from_config: crop_mode must be 'squash', or 'center' with a square input_size, got "
            f"{mode!r} and {(height, width)}; make a record by Preprocessing(...)"
        )
    values: dict[str, tuple[float, ...]] = {}
    for name, usual in zip(("mean", "std"), _IMAGENET, strict=True):
        given = tuple(pretrained_cfg.get(name) or usual[:channels])
        values[name] = given * channels if len(given) == 1 else given
    return Preprocessing(
        (height, width),
        resized[0] if mode == "center" else resized,
        values["mean"],
        values["std"],
        pretrained_cfg.get("interpolation") or "bicubic",
    )


def preprocess(image: Image.Image | np.ndarray, record: Preprocessing) -> np.ndarray:
    """The input of a network: (resized and cropped pixels / 255 - mean) / std.

    Args:
      image: a Pillow image of any mode, or uint8 pixels, (height, width), (height, width, 1) or
        (height, width, 3). A grey image serves a network for colours and the other way round.
      record: of the network.

    Returns:
      float32 array of shape (*record.image_size, record.num_channels); the same bits as
      torchvision's Resize, CenterCrop, ToTensor and Normalize give of a Pillow image.

    Raises:
      TypeError: neither a Pillow image nor uint8 pixels.
      ValueError: pixels of another shape.

    >>> import numpy as np
    >>> pixels = np.full((300, 400, 3), 255, np.uint8)
    >>> x = preprocess(pixels, Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3))
    >>> x.shape, float(x.min()), float(x.max())
    ((224, 224, 3), 2.0, 2.0)
    """
    picture = _as_picture(image).convert("RGB" if record.num_channels == 3 else "L")
    if record.resize_size is not None:
        size = resized_shape(picture.height, picture.width, record.resize_size)
        resample = Image.Resampling[record.interpolation.upper()]
        picture = picture.resize(size[::-1], resample)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    pixels = _centre(pixels, record.image_size)
    if record.color_order == "BGR":
        pixels = pixels[..., ::-1]
    # In float32 from the first step on, as torchvision does.
    x = pixels.astype(np.float32) / np.float32(255)
    mean, std = (np.asarray(values, np.float32) for values in (record.mean, record.std))
    return (x - mean) / std


def _as_picture(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise TypeError(
            f"preprocess: image must be a Pillow image or uint8 pixels from 0 to 255, got "
            f"{pixels.dtype}; for example (255 * x).round().astype(numpy.uint8)"
        )
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3) or not pixels.size:
        raise ValueError(
            "preprocess: image must be of shape (height, width), (height, width, 1) or "
            f"(height, width, 3), one image at a time, got {np.shape(image)}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def resized_shape(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) that an image is resized to; the longer side is rounded down.

    Args:
      height: pixels of the image.
      width: the same.
      size: as `Preprocessing.resize_size`.

    >>> resized_shape(375, 500, 256)
    (256, 341)

    Source: torchvision's `transforms.Resize`.
    """
    if size is None:
        return height, width
    if isinstance(size, tuple):
        return size
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _centre(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Black pixels where the image is too small, then the middle; ties as in torchvision."""
    pads = [(max(0, want - have) // 2, (max(0, want - have) + 1) // 2)
            for have, want in zip(pixels.shape, size, strict=False)]  # fmt: skip
    pixels = np.pad(pixels, (*pads, (0, 0)))
    tops = [round((have - want) / 2) for have, want in zip(pixels.shape[:2], size, strict=True)]
    return pixels[tops[0] : tops[0] + size[0], tops[1] : tops[1] + size[1]]


def _is_torchvision_googlenet(network: Network) -> bool:
    if "googlenet" not in models.names():
        return False
    published = models.create("googlenet")
    if type(network) is not type(published):
        return False
    # 3x3 windows in the third branch are what tells it from the paper's.
    return getattr(network, "branch_window", None) == getattr(published, "branch_window", None)
