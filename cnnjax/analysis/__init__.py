"""What a traced JAX function costs, read from its jaxpr, so that a table says what runs."""

from cnnjax.analysis.account import Account, Row, account

__all__ = ["Account", "Row", "account"]
