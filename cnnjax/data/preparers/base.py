"""What the preparers share: archives, checks, PNGs, and a preparation that survives a kill."""

import contextlib
import hashlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import DownloadError
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.resource import get_dl_fname

from cnnjax.data.catalog import is_prepared
from cnnjax.data.errors import DatasetCorruptError, DatasetUnavailableError

if sys.platform != "win32":
    import fcntl

__all__ = ["Preparer", "fetch_archives", "png_image", "prepare"]

# A leftover of a killed preparation is removed when it is this old, in seconds: younger ones may
# belong to a preparation by TFDS itself, which takes no lock.
_STALE = 24 * 3600.0
# Seconds to connect and to answer before a server counts as out of reach. TFDS alone would try
# ten times, for minutes.
_PROBE_TIMEOUT = (10.0, 20.0)


class Preparer:
    """Mixin, first among the bases: not in TFDS's registry, whose names it shares, and quiet."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__(skip_registration=True)  # type: ignore[call-arg]

    # TFDS announces on stdout, which is the program's.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def prepare(builder_class: Any, data_dir: Path) -> Path:
    """Prepares `builder_class` in `data_dir` as ArrayRecord files unless it is there already.

    TFDS writes into `incomplete.*` and renames the directory when it is whole, so a preparation
    killed at any moment leaves nothing that passes for a dataset. A lock lets the second of two
    processes wait for the first.

    Args:
      builder_class: one of ours.
      data_dir: made where it does not exist.

    Returns:
      The version directory.

    Raises:
      DatasetUnavailableError: archives missing and no network.
      DatasetCorruptError: archives with the wrong content, or a directory in the way.
    """
    dataset_dir = data_dir / builder_class.name
    directory = dataset_dir / str(builder_class.VERSION)
    dataset_dir.mkdir(parents=True, exist_ok=True)
    with _locked(dataset_dir / ".preparing.lock"):
        if is_prepared(directory):
            return directory
        if directory.exists():
            raise DatasetCorruptError(
                f"load: {directory} exists but holds no complete dataset; delete it and run again"
            )
        _remove_stale(dataset_dir.glob("incomplete.*"))
        if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
            tfds.disable_progress_bar()
        download_dir = data_dir / "downloads"
        manual_dir = download_dir / "manual" / builder_class.name
        config = tfds.download.DownloadConfig(
            # The archives of mnist and fashion_mnist share their names, hence a folder each; the
            # shared folder is where TFDS looks.
            manual_dir=str(manual_dir if manual_dir.is_dir() else manual_dir.parent),
            # Google's bucket holds TFRecord files only; asking it would need TensorFlow.
            try_download_gcs=False,
        )
        builder_class(data_dir=str(data_dir)).download_and_prepare(
            download_dir=str(download_dir), download_config=config, file_format="array_record"
        )
    return directory


def fetch_archives(builder: Any, download_manager: Any, urls: Sequence[str]) -> list[Path]:
    """The archives behind `urls`: from the manual folder, from TFDS's cache, or downloaded.

    Each is checked against the size and SHA-256 that TFDS registers for it.

    Args:
      builder: the dataset's builder; `url_infos` maps each URL to what is registered.
      download_manager: TFDS's, as given to `_split_generators`.
      urls: where the archives are published.

    Returns:
      Local paths in the order of `urls`.

    Raises:
      DatasetUnavailableError: an archive is not here and cannot be downloaded.
      DatasetCorruptError: an archive has the wrong size or SHA-256.
    """
    infos = [builder.url_infos[url] for url in urls]
    download_dir = Path(download_manager.download_dir)
    named_dir = download_dir / "manual" / builder.name
    manual_dir = named_dir if named_dir.is_dir() else named_dir.parent
    absent = []
    for url, info in zip(urls, infos, strict=True):
        manual = manual_dir / info.filename
        if manual.is_file():
            _check_archive(manual, info, url, named_dir)
        elif not _is_cached(download_dir, builder.name, url, info.checksum):
            absent.append((url, info))
    before = set(download_dir.glob(f"{builder.name}/**/*.tmp.*"))
    if absent:
        _remove_stale(before)
        _check_reachable(builder.name, absent, named_dir)
    try:
        paths = download_manager.download(list(urls))
    except NonMatchingChecksumError as error:
        raise DatasetCorruptError(
            f"load: a download for {builder.name!r} has not the size and SHA-256 that TFDS "
            f"registers ({_one_line(error)}); run again, and if it stays so, the file on the "
            f"server has changed: put the original into {named_dir}"
        ) from None
    except (DownloadError, requests.RequestException, OSError) as error:
        raise _unavailable(builder.name, absent, named_dir, error) from None
    finally:
        for leftover in set(download_dir.glob(f"{builder.name}/**/*.tmp.*")) - before:
            shutil.rmtree(leftover, ignore_errors=True)
    return [Path(path) for path in paths]


def png_image(pixels: np.ndarray) -> Image.Image:
    """A (H, W, 1) or (H, W, 3) uint8 array in the form that TFDS encodes without TensorFlow."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock, which the system drops when the process dies in any way."""
    if sys.platform == "win32":  # ArrayRecord has no current release there either.
        yield
        return
    with path.open("w") as file:
        # Some network file systems have no locks; two preparations there waste work, no more.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_stale(leftovers: Iterable[Path]) -> None:
    for path in leftovers:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path)


def _is_cached(download_dir: Path, name: str, url: str, checksum: str) -> bool:
    # A wrong guess costs one probe of the network: TFDS looks again itself.
    file_name = get_dl_fname(url, checksum)
    return any((place / file_name).is_file() for place in (download_dir / name, download_dir))


def _check_archive(path: Path, info: Any, url: str, named_dir: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != info.checksum:
        raise DatasetCorruptError(
            f"load: {path} ({path.stat().st_size} bytes, SHA-256 {digest}) is not the archive that "
            f"TFDS registers for {url} ({int(info.size)} bytes, SHA-256 {info.checksum}); replace "
            f"it, or put the right one into {named_dir}"
        )


def _check_reachable(name: str, absent: list[tuple[str, Any]], named_dir: Path) -> None:
    try:
        status = requests.head(absent[0][0], timeout=_PROBE_TIMEOUT).status_code
    except requests.RequestException as error:
        raise _unavailable(name, absent, named_dir, error) from None
    # Others may be the server's opinion of HEAD; TFDS's GET will tell. These it would repeat for
    # minutes, and a proxy without a way out answers with them.
    if status >= 500:
        raise _unavailable(name, absent, named_dir, OSError(f"HTTP status {status}"))


def _unavailable(
    name: str, absent: list[tuple[str, Any]], named_dir: Path, error: Exception
) -> DatasetUnavailableError:
    places = {url.rpartition("/")[0] + "/" for url, _ in absent}
    files = ", ".join(info.filename for _, info in absent)
    return DatasetUnavailableError(
        f"load: {name!r} is not prepared and its archives cannot be downloaded from here "
        f"({_reason(error)}); on a machine with a network download {files} from "
        f"{' and '.join(sorted(places))}, put them unopened into {named_dir}, and run again"
    )


def _reason(error: Exception) -> str:
    # The text of a failed connection is a paragraph of nested exceptions.
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
