"""Photographs from files and folders; what is none is an error to report, never a crash."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["NoPhotographError", "find_files", "open_photograph"]


class NoPhotographError(ValueError):
    """A file that cannot be read as an image; the message says why."""


def find_files(places: Iterable[Path]) -> list[Path]:
    """Files of the places, a folder's sorted by name and without those of its own folders.

    Hidden files of a folder are left out; nothing is said yet about what the others hold.

    Args:
      places: files and folders.

    Raises:
      ValueError: a place that does not exist, or a folder without files.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(
                path for path in place.iterdir() if path.is_file() and path.name[0] != "."
            )
            if not inside:
                raise ValueError(f"--images={place}: the folder holds no files")
            files += inside
        elif place.is_file():
            files.append(place)
        else:
            raise ValueError(f"--images={place}: there is no such file or folder")
    return files


def open_photograph(path: Path, num_channels: int = 3) -> Image.Image:
    """The image of a file, upright, in colours or in greys.

    Of several frames the first; the camera's orientation is applied; transparency is dropped;
    values of 16 bits are scaled to 8.

    Args:
      path: any format that Pillow reads.
      num_channels: 3 for red, green and blue, 1 for greys.

    Raises:
      NoPhotographError: no image, a broken one, or one too large to be meant.
    """
    try:
        with warnings.catch_warnings():
            # A picture of hundreds of megapixels: Pillow warns first and refuses later.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16") or image.mode == "I":
                    image = image.convert("I").point([i / 256 for i in range(65536)], "L")
                return image.convert("RGB" if num_channels == 3 else "L")
    except UnidentifiedImageError:
        raise NoPhotographError("not an image in a format that Pillow reads") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NoPhotographError(str(error)) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise NoPhotographError(f"a broken image: {error}") from None
