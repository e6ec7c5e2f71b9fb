"""The error for what a ledger holds and no driver can have written."""

from core.errors import StorageError


def damaged(what: str, error: Exception) -> StorageError:
    """The error for a part of a ledger that no driver can have written.

    what   the part, with which the sentence begins
    """
    return StorageError(
        f"{what} is damaged ({type(error).__name__}: {str(error)[:300]}); restore the ledger from a"
        " backup, then run the same command again"
    )
