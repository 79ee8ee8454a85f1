"""TFDS's ArrayRecord files to one uint8 array, decoded once."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.data.errors import DatasetCorruptError, DatasetUnavailableError
from cnnjax.data.images import Images

__all__ = ["open_builder", "read_images"]

# Pillow's modes by number of channels, for files stored otherwise (grey or CMYK JPEGs).
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Encoded records held at a time.
_CHUNK = 4096


def open_builder(directory: Path) -> Any:
    """The read-only TFDS builder of a prepared version directory.

    Raises:
      DatasetCorruptError: its metadata cannot be read.
      DatasetUnavailableError: its files are not in the ArrayRecord format.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
        file_format = builder.info.file_format.value
    # TFDS has no class for broken metadata: JSON, protocol buffer, key and type errors all occur.
    except Exception as error:
        raise DatasetCorruptError(
            f"load: the metadata in {directory} cannot be read ({_first_line(error)}); delete "
            "that directory and prepare the dataset again"
        ) from error
    if file_format != "array_record":
        raise DatasetUnavailableError(
            f"load: {directory} holds {file_format} files, which need TensorFlow; prepare the "
            "dataset again with file_format='array_record'"
        )
    return builder


def read_images(builder: Any, split: str, dataset: str) -> Images:
    """Decodes a split into memory.

    A plain loop, because Pillow's time on small images is Python's: on two cores, two threads gave
    0.7 times its images a second (quiet machine) to 1.1 (busy one), Grain 0.5 without threads of
    its own and 0.15 with its default ones, TFDS's own record-by-record decoding 0.15.

    Args:
      builder: from `open_builder`.
      split: TFDS's split syntax, its names already checked.
      dataset: the dataset's name for messages.

    Returns:
      The images in the order of the files.

    Raises:
      ValueError: the dataset is not one of labelled uint8 images of equal size, or `split`
        selects nothing or cannot be parsed.
      DatasetCorruptError: a record cannot be read or decoded.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    image_key, label_key = _feature_keys(builder.info, dataset)
    source = _open_source(builder, split, dataset, tfds.decode.DeserializeMethod.RAW_BYTES)
    feature = builder.info.features[image_key]
    channels = feature.shape[-1]
    images = np.empty(0, np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(source)))
        try:
            records = source.__getitems__(list(indices))
        except (RuntimeError, IndexError, OSError) as error:
            raise _corrupt(builder, error) from error
        for index, record in zip(indices, records, strict=True):
            try:
                example = tf_example_pb2.Example.FromString(record).features.feature
                labels[index] = example[label_key].int64_list.value[0]
                pixels = _decode(example[image_key].bytes_list.value[0], channels)
            # Whatever protocol buffers and Pillow's decoders make of damaged bytes.
            except Exception as error:
                raise _corrupt(builder, error) from error
            if index == 0:
                images = np.empty((len(source), *pixels.shape), np.uint8)
            elif pixels.shape != images.shape[1:]:
                raise ValueError(
                    f"load: needs images of equal size to give one array, but {dataset!r} has "
                    f"{_size(images.shape[1:])} (record 0) and {_size(pixels.shape)} (record "
                    f"{index}); read it with tfds.data_source and resize, or prepare a resized copy"
                )
            images[index] = pixels
    return Images(images, labels, tuple(builder.info.features[label_key].names))


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        mode = _MODES[channels]
        # The test first: convert copies even where there is nothing to do.
        converted = image if image.mode == mode else image.convert(mode)
        # Fewer Python calls than np.asarray(image), by a fifth of the whole.
        pixels = np.frombuffer(converted.tobytes(), np.uint8)
        return pixels.reshape(image.height, image.width, channels)


def _feature_keys(info: Any, dataset: str) -> tuple[str, str]:
    """Names of the one image and the one class label."""
    import tensorflow_datasets as tfds

    features = dict(info.features)
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    labels = [k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)]
    # Where there are several (CIFAR-100's coarse_label), the dataset says which are meant.
    supervised = info.supervised_keys or ()
    images = [k for k in images if k in supervised] or images
    labels = [k for k in labels if k in supervised] or labels
    usable = (
        len(images) == 1
        and len(labels) == 1
        and features[images[0]].np_dtype == np.uint8
        and features[images[0]].shape[-1] in _MODES
        and features[labels[0]].names is not None
    )
    if not usable:
        raise ValueError(
            f"load: needs one uint8 image of 1, 3 or 4 channels and one class label an example, "
            f"but {dataset!r} has the features {sorted(features)} (image: {images}, class "
            f"label: {labels}, supervised_keys: {info.supervised_keys}); read it with "
            "tfds.data_source"
        )
    return images[0], labels[0]


def _open_source(builder: Any, split: str, dataset: str, method: Any) -> Any:
    try:
        # An empty selection has no files; TFDS's own message for it speaks of paths.
        if builder.info.splits[split].num_examples < 1:
            raise ValueError("it selects no images")
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"load: split {split!r} of {dataset!r}: {_first_line(error)}; write for example "
            "'train', 'train[:90%]' or 'train[1000:]'"
        ) from error
    try:
        return builder.as_data_source(split, deserialize_method=method)
    except (RuntimeError, OSError) as error:
        raise _corrupt(builder, error) from error


def _corrupt(builder: Any, error: Exception) -> DatasetCorruptError:
    return DatasetCorruptError(
        f"load: the files in {builder.data_dir} are damaged or incomplete ({_first_line(error)}); "
        "delete that directory and prepare the dataset again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
