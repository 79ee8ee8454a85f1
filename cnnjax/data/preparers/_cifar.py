"""The binary archives of CIFAR: label bytes, then 3,072 bytes of an image plane by plane."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.errors import DatasetCorruptError
from cnnjax.data.preparers import base

__all__ = ["read_members", "split_generators"]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def split_generators(builder: Any, download_manager: Any) -> dict[str, Any]:
    """TFDS's splits, and the names of the classes, from the archive of `builder._cifar_info`."""
    info = builder._cifar_info
    (archive,) = base.fetch_archives(builder, download_manager, [info.url])
    files = [*info.label_files, *info.train_files, *info.test_files]
    # All at once: the archive is one gzip stream, and 180 MB fit where the dataset is to fit.
    members = read_members(archive, [info.prefix + name for name in files])
    contents = dict(zip(files, members, strict=True))
    for key, name in zip(info.label_keys, info.label_files, strict=True):
        # The archive ends the list of CIFAR-10 with an empty line.
        names = [line for line in contents[name].decode().split("\n") if line]
        builder.info.features[key].names = names
    splits = {"train": info.train_files, "test": info.test_files}
    for name in (*info.train_files, *info.test_files):
        if not contents[name] or len(contents[name]) % (len(info.label_keys) + _PIXELS):
            raise DatasetCorruptError(
                f"load: {name} in {archive} has {len(contents[name])} bytes, which is not a whole "
                f"number of records of {len(info.label_keys) + _PIXELS}; replace the archive"
            )
    return {
        split: _examples(f"{split}_", [contents[name] for name in names], info.label_keys)
        for split, names in splits.items()
    }


def read_members(archive: Path, names: Sequence[str]) -> list[bytes]:
    """Contents of the named files in a .tar.gz.

    Raises:
      DatasetCorruptError: it cannot be unpacked, or one of them is not in it.
    """
    wanted = dict.fromkeys(names, b"")
    missing = set(names)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in missing and (file := tar.extractfile(member)) is not None:
                    wanted[member.name] = file.read()
                    missing.discard(member.name)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetCorruptError(
            f"load: {archive} cannot be unpacked ({error}); replace it"
        ) from error
    if missing:
        raise DatasetCorruptError(
            f"load: {archive} lacks {', '.join(sorted(missing))}; replace the archive"
        )
    return [wanted[name] for name in names]


def _examples(
    prefix: str, files: Sequence[bytes], label_keys: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    index = 0
    for data in files:
        records = np.frombuffer(data, np.uint8).reshape(-1, len(label_keys) + _PIXELS)
        for record in records:
            labels = {key: int(value) for key, value in zip(label_keys, record, strict=False)}
            pixels = record[len(label_keys) :].reshape(_SHAPE).transpose(1, 2, 0)
            image = base.png_image(np.ascontiguousarray(pixels))
            # The key, which orders the files, is the index and not the id, as in TFDS.
            yield index, {"id": f"{prefix}{index:05d}", "image": image, **labels}
            index += 1
