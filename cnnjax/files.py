"""Files that hold either what they held or what was written, never a part of it."""

import contextlib
import os
from pathlib import Path

__all__ = ["sync_directory", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replace the file by `content`: whoever reads it sees the old or the new, never a part.

    Args:
      path: the file; made when missing, its directory is not.
      content: text, written as UTF-8 with its line ends as they are, or bytes.

    Raises:
      OSError: it cannot be written; the old file is untouched and no temporary file stays.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, "first")
    >>> path.read_text()
    'first'
    """
    path = Path(path)
    # In the same directory, as a rename does not cross file systems, and one a process.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring the directory's entries to the disk, where the platform lets one open it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
