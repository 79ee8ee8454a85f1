"""What can be wrong with a dataset on disk: one sentence each, for a program to print."""

__all__ = ["DatasetCorruptError", "DatasetError", "DatasetUnavailableError"]


class DatasetError(RuntimeError):
    """A dataset cannot be read for a reason outside the program; the message says what to do.

    A command-line program catches this class, prints `str(error)` and exits: the message is
    complete without its traceback.
    """


class DatasetUnavailableError(DatasetError):
    """The dataset is not prepared here and cannot be prepared here as things stand."""


class DatasetCorruptError(DatasetError):
    """Files of the dataset, or the archives it is made from, are not what they must be."""
