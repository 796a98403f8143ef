"""The errors of i2i. ``str(error)`` is the line that the user reads: it names the file and the cure."""

from __future__ import annotations


class I2IError(Exception):
    """Something that the user can mend; its text is the whole message."""

    exit_code = 1


class UsageError(I2IError):
    """The call itself is wrong: an option's value, two options that exclude each other."""

    exit_code = 2


class InputError(I2IError):
    """An input file cannot be read as what it should be."""


class OutputError(I2IError):
    """An output path cannot be written."""


class ModelError(I2IError):
    """A model is absent, damaged, unsafe, or does not fit."""


class NotFinite(ModelError):
    """A network answers NaN or Inf: nothing can be made of that, and thresholds would take it for nothing found."""

    def __init__(self, text: str = "the network answers NaN or Inf") -> None:
        super().__init__(text)


class PluginError(I2IError):
    """A plugin is broken, or breaks its contract."""


class TrainingError(I2IError):
    """Training data are unusable, or a run has diverged."""


def unforeseen(error: Exception, part: str) -> str:
    """The reason, in one line, of an error that is none of these: too little memory, or a bug in ``part``, a task or i2i."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of an accelerator
        return f"the device has too little memory ({reason}); give a smaller --tile, or --device cpu"
    if isinstance(error, MemoryError):
        return f"needs more memory than there is ({reason}); give it a smaller image, or a machine with more"
    return f"a bug in {part}: {type(error).__name__}: {reason} (-v shows where)"
