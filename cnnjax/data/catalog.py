"""Which datasets there are: names, data directories, what lies prepared in them.

Nothing here downloads, prepares or decodes. The layout is TFDS's:
`<data_dir>/<name>[/<config>]/<version>/dataset_info.json`.
"""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cnnjax.data.errors import DatasetUnavailableError
from cnnjax.data.preparers import PREPARERS, builder_class

__all__ = [
    "DatasetName",
    "check_readable",
    "check_split",
    "check_writable",
    "default_data_dir",
    "is_prepared",
    "not_found",
    "parse_name",
    "prepared_directory",
    "prepared_names",
    "resolve_data_dir",
]

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.=,+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class DatasetName(NamedTuple):
    """A dataset's name in TFDS's notation, taken apart: name[/config][:version]."""

    name: str
    config: str | None
    version: str | None

    def __str__(self) -> str:
        config = "" if self.config is None else f"/{self.config}"
        version = "" if self.version is None else f":{self.version}"
        return f"{self.name}{config}{version}"


def parse_name(name: str) -> DatasetName:
    """Takes a dataset's name apart.

    Args:
      name: "mnist", "mnist:3.0.1", "name/config" or "name/config:1.0.0".

    Returns:
      The parts, None for those not given.

    Raises:
      TypeError: `name` is not text.
      ValueError: `name` is not written in this way.

    >>> parse_name("mnist:3.0.1")
    DatasetName(name='mnist', config=None, version='3.0.1')
    """
    if not isinstance(name, str):
        raise TypeError(f"load: name must be text such as 'mnist_5k', got {name!r}")
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"load: a dataset's name is written 'name', 'name:1.0.0', 'name/config' or "
            f"'name/config:1.0.0', got {name!r}"
        )
    return DatasetName(match["name"], match["config"], match["version"])


def default_data_dir() -> Path:
    """TFDS's own default: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """The data directory as an absolute path; it need not exist.

    Raises:
      TypeError: `data_dir` is neither None nor a path.
      ValueError: `data_dir` is a URL, which only TensorFlow's file system reads.
    """
    if data_dir is None:
        return default_data_dir().absolute()
    try:
        text = os.fspath(data_dir)
    except TypeError:
        raise TypeError(f"load: data_dir must be a path or None, got {data_dir!r}") from None
    if "://" in text:
        raise ValueError(f"load: data_dir must be a local directory, got the URL {text!r}")
    return Path(text).expanduser().absolute()


def check_readable(data_dir: Path) -> None:
    """Raises an OSError that says why where `data_dir` exists and cannot be read.

    Raises:
      NotADirectoryError: it is a file.
      PermissionError: it may not be listed or entered.
    """
    if not os.path.lexists(data_dir):
        return
    if not data_dir.is_dir():
        raise NotADirectoryError(
            f"load: data_dir {data_dir} is not a directory; give the directory that holds the "
            "datasets"
        )
    if not os.access(data_dir, os.R_OK | os.X_OK):
        raise PermissionError(
            f"load: data_dir {data_dir} may not be read by this user; change its permissions or "
            "give another data_dir"
        )


def check_writable(data_dir: Path) -> None:
    """Raises an OSError that says why where nothing can be prepared in `data_dir`.

    Raises:
      NotADirectoryError: it, or what it would lie in, is a file.
      PermissionError: it may not be written, or may not be made.
    """
    existing = data_dir
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(
            f"load: data_dir {data_dir} cannot be made because {existing} is not a directory; "
            "give another data_dir"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"load: the dataset must first be prepared in data_dir {data_dir}, but {existing} "
            "may not be written by this user; change its permissions or give another data_dir"
        )


def is_prepared(directory: Path) -> bool:
    """Whether a dataset's version directory was finished: TFDS renames it into place whole."""
    return all((directory / name).is_file() for name in ("dataset_info.json", "features.json"))


def prepared_names(data_dir: Path) -> list[str]:
    """Names (with config where there are any) of what lies prepared in `data_dir`, sorted."""
    if not data_dir.is_dir():
        return []
    names = set()
    for directory in _subdirectories(data_dir):
        if _versions(directory):
            names.add(directory.name)
        names.update(f"{directory.name}/{c.name}" for c in _configs(directory))
    return sorted(names)


def prepared_directory(data_dir: Path, dataset: DatasetName) -> Path | None:
    """Directory of the version asked for, or of the highest that is prepared, else None.

    Raises:
      ValueError: only configs of the dataset are prepared and `dataset` names none.
    """
    parent = data_dir / dataset.name
    if not parent.is_dir():
        return None
    check_readable(parent)
    if dataset.config is not None:
        parent /= dataset.config
    elif (configs := _configs(parent)) and not _versions(parent):
        raise ValueError(
            f"load: {dataset.name!r} in {data_dir} has configs; write one of "
            + ", ".join(repr(f"{dataset.name}/{config.name}") for config in configs)
        )
    versions = {directory.name: directory for directory in _versions(parent)}
    if dataset.version is not None:
        return versions.get(dataset.version)
    return max(versions.values(), key=_version_key, default=None)


def check_split(split: str, available: Iterable[str], dataset: DatasetName) -> None:
    """Checks the names in a split expression such as "train[:90%]+test".

    Raises:
      TypeError: `split` is not text.
      ValueError: a name in it is not one of `available`.
    """
    if not isinstance(split, str):
        raise TypeError(f"load: split must be text such as 'train' or 'train[:90%]', got {split!r}")
    names = list(available)
    for part in split.split("+"):
        name = part.split("[")[0].strip()
        if name not in (*names, "all"):
            raise ValueError(
                f"load: unknown split {name!r} of {str(dataset)!r}; the splits are "
                f"{', '.join(map(repr, names))}, and parts of them such as '{names[0]}[:90%]'"
            )


def not_found(dataset: DatasetName, data_dir: Path) -> Exception:
    """The error for a dataset that is neither prepared nor ours to prepare."""
    # A version or config that is not there is best answered with those that are.
    offered = [str(dataset._replace(version=v.name)) for v in _prepared_versions(data_dir, dataset)]
    offered += [f"{dataset.name}/{config.name}" for config in _configs(data_dir / dataset.name)]
    if not offered and dataset.config is not None:
        unconfigured = dataset._replace(config=None)
        offered = [
            str(unconfigured._replace(version=v.name))
            for v in _prepared_versions(data_dir, unconfigured)
        ]
    if dataset.name in PREPARERS:
        offered.append(f"{dataset.name}:{builder_class(dataset.name).VERSION}")
    if offered:
        return ValueError(
            f"load: {str(dataset)!r} is not prepared in {data_dir}; there is "
            + ", ".join(map(repr, sorted(set(offered))))
        )

    # Only here: the import takes a second and the list is needed for the message alone.
    import tensorflow_datasets as tfds

    official = tfds.list_builders(with_community_datasets=False)
    prepared = prepared_names(data_dir)
    if dataset.name in official:
        return DatasetUnavailableError(
            f"load: {str(dataset)!r} is not prepared in {data_dir} and TFDS can prepare it only "
            "with TensorFlow: in an environment that has tensorflow and tensorflow-datasets run "
            f"'tfds build {dataset} --file_format=array_record --data_dir={data_dir}', then come "
            "back"
        )
    asked = str(dataset._replace(version=None))
    # What can be loaded here goes before TFDS's hundreds, where it is near at all.
    nearest = (
        difflib.get_close_matches(asked, [*PREPARERS, *prepared], n=1, cutoff=0.8)
        or difflib.get_close_matches(asked, [*PREPARERS, *prepared, *official], n=1, cutoff=0.0)
    )[0]
    return ValueError(
        f"load: unknown dataset {str(dataset)!r}; did you mean {nearest!r}? Prepared in "
        f"{data_dir}: {', '.join(prepared) or 'none'}; prepared on first use: "
        f"{', '.join(PREPARERS)}"
    )


def _prepared_versions(data_dir: Path, dataset: DatasetName) -> list[Path]:
    return _versions(data_dir / dataset.name / (dataset.config or ""))


def _subdirectories(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


def _versions(directory: Path) -> list[Path]:
    return [
        path
        for path in _subdirectories(directory)
        if _VERSION.fullmatch(path.name) and is_prepared(path)
    ]


def _configs(directory: Path) -> list[Path]:
    return [
        path
        for path in _subdirectories(directory)
        if not _VERSION.fullmatch(path.name) and _versions(path)
    ]


def _version_key(directory: Path) -> tuple[int, ...]:
    return tuple(map(int, directory.name.split(".")))
