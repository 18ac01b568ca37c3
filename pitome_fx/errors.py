"""Everything the library raises or warns with, as one small tree."""


class PitomeError(Exception):
    """Base of all errors raised by pitome_fx."""


class OptionsError(PitomeError, ValueError):
    """An option has a wrong name, type or range, or two options contradict each other."""


class RefusedError(PitomeError, RuntimeError):
    """Merging was asked for with ``strict=True`` and the model has nothing that may merge."""


class CaptureError(PitomeError, RuntimeError):
    """The program could not be turned into one ATen graph."""


class PassError(PitomeError, RuntimeError):
    """A stage of the pass failed on a program; the text says at which op, and what to do."""


class DeployError(PitomeError, RuntimeError):
    """A program could not be written in the format asked for."""


class UsageError(PitomeError, ValueError):
    """Something given, on the command line or in a call, does not exist or does not fit."""


class LoweringError(PitomeError, RuntimeError):
    """The engine that was asked for cannot take the graph."""


class PitomeWarning(UserWarning):
    """The model runs dense, or merges less than asked for; the text says why."""


def in_short(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
