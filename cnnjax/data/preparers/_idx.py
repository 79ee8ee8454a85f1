"""The IDX files of MNIST and its like: a header of big-endian integers, then bytes."""

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.errors import DatasetCorruptError
from cnnjax.data.preparers import base

__all__ = ["FILES", "examples", "read_idx", "split_generators"]

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path, rank: int) -> np.ndarray:
    """A gzipped IDX file of bytes as an array of `rank` axes.

    Raises:
      DatasetCorruptError: not gzip, not such a file, or cut short.

    Source: the format's description on http://yann.lecun.com/exdb/mnist/.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetCorruptError(
            f"load: {path} cannot be unpacked ({error}); replace it"
        ) from error
    header = 4 * (1 + rank)
    if len(data) < header:
        raise DatasetCorruptError(f"load: {path} is cut short inside its header; replace it")
    magic, *shape = struct.unpack_from(f">{1 + rank}I", data)
    # 8 is the format's code for unsigned bytes.
    if magic != (8 << 8 | rank) or len(data) != header + int(np.prod(shape, dtype=np.int64)):
        raise DatasetCorruptError(
            f"load: {path} is not an IDX file of bytes with {rank} axes: magic number {magic:#x}, "
            f"shape {tuple(shape)}, {len(data) - header} bytes of data; replace it"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def split_generators(builder: Any, download_manager: Any, url: str) -> dict[str, Any]:
    """TFDS's splits of a dataset published as four IDX files under `url`."""
    urls = [url + name for names in FILES.values() for name in names]
    paths = base.fetch_archives(builder, download_manager, urls)
    pairs = zip(FILES, zip(paths[::2], paths[1::2], strict=True), strict=True)
    # Read here and not in the generators, so that TFDS adds no context of its own to our errors.
    return {split: examples(*_read_pair(files)) for split, files in pairs}


def examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (key, example) like the official builder: the key, which orders, is the index."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": base.png_image(image[..., None]), "label": int(label)}


def _read_pair(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(paths[0], rank=3), read_idx(paths[1], rank=1)
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise DatasetCorruptError(
            f"load: {paths[0]} holds images of shape {images.shape} and {paths[1]} {len(labels)} "
            "labels; expected N images of 28x28 and N labels: replace them"
        )
    return images, labels
