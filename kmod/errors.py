"""Errors that a caller may want to catch, each with its exit code."""


class KmodError(Exception):
    """Base of all errors that a user's input or files can cause.

    Attributes:
        exit_code: Integer, what the `kmod` command exits with.
    """

    exit_code = 1


class UsageError(KmodError, ValueError):
    """An argument or a combination of arguments is wrong."""

    exit_code = 2


class SpecError(KmodError, ValueError):
    """A composition spec is not valid; one line for every fault."""

    exit_code = 2


class UnsupportedModelError(KmodError, TypeError):
    """A model can not be taken apart or composed."""

    exit_code = 3


class ArtifactError(KmodError, ValueError):
    """A store, module, model or data set is missing or does not fit."""

    exit_code = 3


class IntegrityError(ArtifactError):
    """The bytes of an artifact are not those that its manifest names."""

    exit_code = 4


class CheckError(KmodError, ValueError):
    """A check on a result failed, such as its exactness or its quality."""

    exit_code = 5


def reason_of(error: BaseException) -> str:
    """Returns what another library's error says, in one line.

    Args:
        error: Any error. Some have messages of many lines.

    Returns:
        The first line, with the one behind it if it only leads to that,
        without the full stop; the error's type if it says nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    ends = (i for i, line in enumerate(lines, 1) if not line.endswith(":"))
    return " ".join(lines[: next(ends, None)]).rstrip(".")
