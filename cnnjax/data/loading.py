"""Datasets by name: `load`."""

import os

from cnnjax.data import catalog, preparers
from cnnjax.data.images import Images

__all__ = ["load"]


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Loads one split of a dataset by its TFDS name, decoded once into memory.

    What lies prepared in `data_dir` as ArrayRecord files is read as it is, whatever its name.
    What does not is prepared there first if a preparer of ours exists (`mnist_5k`, which needs no
    network, and `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, which download their archives or
    take them from `<data_dir>/downloads/manual/<name>/` or `<data_dir>/downloads/manual/`).
    TensorFlow is never imported.

    Args:
      name: "name", "name:version", "name/config" or "name/config:version"; without a version,
        the highest that is prepared.
      split: TFDS's split syntax: "train", "train[:90%]", "train[1000:]+test", ...
      data_dir: directory of the datasets; None is TFDS's default, the environment variable
        TFDS_DATA_DIR or else ~/tensorflow_datasets.

    Returns:
      images (uint8, (N, H, W, C)), labels (int32, (N,)) and class_names, in the order of the
      files, which is shuffled by TFDS and the same everywhere.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: unknown name (the nearest known one is named) or split, or a dataset that is not
        one of labelled uint8 images of equal size.
      OSError: `data_dir` cannot be read, or must be written and cannot.
      DatasetUnavailableError: not prepared and no network, or only TensorFlow can prepare it.
      DatasetCorruptError: records or archives are damaged.

    >>> load("mnist_5k", "trian")
    Traceback (most recent call last):
    ...
    ValueError: load: unknown split 'trian' of 'mnist_5k'; the splits are 'train', 'test', and
    parts of them such as 'train[:90%]'

    Source: the TFDS guide to its split syntax, https://www.tensorflow.org/datasets/splits.
    """
    from cnnjax.data import records

    dataset = catalog.parse_name(name)
    root = catalog.resolve_data_dir(data_dir)
    catalog.check_readable(root)
    directory = catalog.prepared_directory(root, dataset)
    if directory is None:
        if not preparers.can_prepare(dataset.name, dataset.config, dataset.version):
            raise catalog.not_found(dataset, root)
        catalog.check_split(split, preparers.SPLITS, dataset)
        catalog.check_writable(root)
        directory = preparers.prepare(dataset.name, root)
    builder = records.open_builder(directory)
    catalog.check_split(split, builder.info.splits, dataset)
    return records.read_images(builder, split, str(dataset))
