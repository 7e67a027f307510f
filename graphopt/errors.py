"""Errors that graphopt raises on purpose, all derived from `GraphOptError`; any other exception is a bug."""

from __future__ import annotations


class GraphOptError(Exception):
    """A request that cannot be carried out, described so that the user can correct it.

    `message` says what is wrong, `where` names the file, node or pass it was found in, and `remedy` what to do. The
    command line prints all three and exits with `exit_status` (2: the request was invalid).
    """

    exit_status = 2

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.remedy}" if self.remedy else text


class ModelError(GraphOptError):
    """A model file that is missing, unreadable, malformed or unsafe."""


class ModelWarning(UserWarning):
    """A part of a model that violates the ONNX specification and was interpreted as ONNX Runtime does."""


class PipelineError(GraphOptError):
    """A pipeline text that does not parse, or names a pass or an option that does not exist."""


class PassError(GraphOptError):
    """A pass that raised an error, or left the graph in an invalid state."""


class TargetError(GraphOptError):
    """A target that does not exist, or an invalid target file."""


class UnsupportedError(GraphOptError):
    """Operators or features that the chosen backend cannot compile; lists all of them at once."""


class CompileError(GraphOptError):
    """A failure or crash of the backend while compiling."""


class ArtifactError(GraphOptError):
    """An artifact folder that is incomplete, modified, or not for this machine."""


class InputError(GraphOptError):
    """Inputs that do not fit the model: a wrong name, dtype or shape."""


class VerificationError(GraphOptError):
    """A requested check that failed: the structure or the numbers of a model are wrong."""

    exit_status = 1
