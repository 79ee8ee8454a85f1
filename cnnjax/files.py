"""Files that hold either what they held or what was written, never a part of it."""

import contextlib
import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file's content in one step, whatever happens meanwhile.

    Args:
      path: the file; its directory must exist.
      text: the new content, written as UTF-8.

    Raises:
      OSError: the disk is full or the place not writable; the old content stays.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, "first")
    >>> path.read_text()
    'first'
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
