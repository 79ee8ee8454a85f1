"""What can be wrong with weights: one error that says all of it."""

__all__ = ["WeightsError"]


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message is complete without a traceback.

    Attributes:
      missing: names that the network has and the weights lack.
      unexpected: names that the weights have and the network lacks.
      misshapen: names of both, whose arrays are of another shape or kind.

    >>> WeightsError("no weights", missing=("head.bias",)).missing
    ('head.bias',)
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[str, ...] = (),
    ) -> None:
        """Of a message and the names that it lists."""
        super().__init__(message)
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
