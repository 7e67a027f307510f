"""The one family of errors that graphopt raises on purpose; anything else that escapes is a bug."""

from __future__ import annotations


class GraphOptError(Exception):
    """A request that cannot be carried out, said so that its reader can mend it.

    `message` says what is wrong, `where` names the file, node or pass it was found in, and `remedy` what to do.
    The command line prints all three and exits with `exit_status` (2: the request was wrong).
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
    """Something in a model that is not as ONNX wants it, and was taken as ONNX Runtime takes it."""


class PipelineError(GraphOptError):
    """A pipeline text that does not parse, or names a pass or an option that does not exist."""


class PassError(GraphOptError):
    """A pass that raised, or left the graph in a state that it must not leave."""


class TargetError(GraphOptError):
    """A target that does not exist, or a target file that says something wrong."""


class UnsupportedError(GraphOptError):
    """Operators or features that the chosen backend cannot compile; lists all of them at once."""


class CompileError(GraphOptError):
    """The backend failed or crashed while compiling."""


class ArtifactError(GraphOptError):
    """An artifact folder that is incomplete, altered, or not for this machine."""


class InputError(GraphOptError):
    """Inputs that do not fit the model: a wrong name, dtype or shape."""


class VerificationError(GraphOptError):
    """A check that was asked for and failed: structure or numbers are not what they must be."""

    exit_status = 1
