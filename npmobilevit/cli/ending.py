"""How a command ends: its exit code, and the one error that stands for all reasons to stop early."""

from __future__ import annotations

from npmobilevit.errors import CheckpointError, NpMobileViTError, WeightsError

EXIT_GOOD, EXIT_INPUT, EXIT_USAGE, EXIT_MODEL, EXIT_VALIDATION, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


class Stop(Exception):
    """The command ends here.

    Parameters
    ----------
    exit_code : int
    code : str
        Stable name of the cause, as in :class:`~npmobilevit.errors.NpMobileViTError`.
    message : str
    """

    def __init__(self, exit_code: int, code: str, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code


# Whatever else is raised is a closed pipe, a full disk under stdout, or a mistake of ours.
STOPPING = (Stop, NpMobileViTError, KeyboardInterrupt, MemoryError)


def as_stop(error: BaseException) -> Stop:
    """The end that one of STOPPING means."""
    if isinstance(error, Stop):
        return error
    if isinstance(error, NpMobileViTError):
        model = isinstance(error, WeightsError | CheckpointError)
        return Stop(EXIT_MODEL if model else EXIT_USAGE, error.code, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Stop(EXIT_INTERRUPTED, "interrupted", "interrupted")
    return Stop(EXIT_INPUT, "out-of-memory", "there is not enough memory for this")


def usage(code: str, message: str) -> Stop:
    """A command line that cannot be meant."""
    return Stop(EXIT_USAGE, code, message)
