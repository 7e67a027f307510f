"""The pipeline grammar: text to steps and back.

    pipeline := step ("," step)*
    step     := NAME options?  |  "fixpoint" options? "(" pipeline ")"
    options  := "{" (NAME "=" value)* "}"           separated by blanks or commas
    value    := item | "[" (item ("," item)*)? "]"
    item     := number | true | false | none | word | "quoted"

A NAME is a pass or a named pipeline.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from graphopt import registry
from graphopt.errors import PipelineError

from .passes import Pass

_MAX_NESTING = 50
_TOKEN = re.compile(r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z0-9_.:/+-]+)|(?P<mark>[{}()[\],=]))""")


@dataclass(frozen=True)
class PassStep:
    """One run of one pass."""

    pass_: Pass

    def __str__(self) -> str:
        return str(self.pass_)


@dataclass(frozen=True)
class Named:
    """A named pipeline, run in place."""

    name: str
    body: tuple[Step, ...]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Fixpoint:
    """Steps repeated until a round changes nothing, at most `max` times."""

    body: tuple[Step, ...]
    max: int = 8

    def __str__(self) -> str:
        options = "" if self.max == 8 else f"{{max={self.max}}}"
        return f"fixpoint{options}({join(self.body)})"


Step = PassStep | Named | Fixpoint


def join(steps: tuple[Step, ...]) -> str:
    """Format steps as pipeline text."""
    return ",".join(str(step) for step in steps)


def parse(text: str) -> tuple[Step, ...]:
    """Parse the steps of a pipeline text. Raises PipelineError with a caret under the error."""
    return _Parser(text).parse()


class _Token(NamedTuple):
    kind: str
    text: str
    position: int
    items: tuple[_Token, ...] = ()
    """The elements of a list, whose own `kind` is "list"."""


class _Parser:
    def __init__(self, text: str, within: tuple[str, ...] = ()) -> None:
        self.text = text
        self.within = within  # the named pipelines being expanded, to find one that contains itself
        self.nesting = 0
        self.tokens = self._tokens()
        self.next = 0

    def _tokens(self) -> list[_Token]:
        tokens = []
        position = 0
        end = len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                blanks = len(self.text[position:]) - len(self.text[position:].lstrip())
                self._fail("unexpected character", position + blanks)
            kind = match.lastgroup or ""
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            position = match.end()
        return [*tokens, _Token("end", "", end)]

    def parse(self) -> tuple[Step, ...]:
        if self._peek().kind == "end":
            return ()
        steps = self._steps()
        if self._peek().kind != "end":
            self._fail("expected a comma or the end", self._peek().position)
        return steps

    def _steps(self) -> tuple[Step, ...]:
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            self._fail(f"groups are nested more than {_MAX_NESTING} deep", self._peek().position)
        steps = [self._step()]
        while self._accept(","):
            steps.append(self._step())
        self.nesting -= 1
        return tuple(steps)

    def _step(self) -> Step:
        token = self._take()
        if token.kind != "word":
            self._fail("expected the name of a pass or pipeline", token.position)
        options = self._options()
        if token.text == "fixpoint":
            maximum = self._check_options(options, {"max": int}, "fixpoint").get("max", 8)
            if maximum < 1:
                self._fail("max must be at least 1", options["max"].position)
            self._expect("(")
            body = self._steps()
            self._expect(")")
            return Fixpoint(body, maximum)
        return self._named(token, options)

    def _named(self, token: _Token, options: dict[str, _Token]) -> Step:
        passes, pipelines = registry.passes(), registry.pipelines()
        if token.text in passes:
            cls = passes[token.text]
            hints = get_type_hints(cls)
            known = {f.name: hints[f.name] for f in fields(cls)}
            values = self._check_options(options, known, token.text)
            try:
                return PassStep(cls(**values))
            except ValueError as error:
                self._fail(str(error), token.position)
        if token.text in pipelines:
            if options:
                self._fail("a named pipeline takes no options", token.position)
            if token.text in self.within:
                self._fail(f"pipeline '{token.text}' contains itself", token.position)
            body = _Parser(pipelines[token.text].text, (*self.within, token.text)).parse()
            return Named(token.text, body)
        near = _nearest(token.text, [*passes, *pipelines, "fixpoint"])
        self._fail(f"there is no pass or pipeline '{token.text}'{near}", token.position)

    def _options(self) -> dict[str, _Token]:
        options: dict[str, _Token] = {}
        if not self._accept("{"):
            return options
        while not self._accept("}"):
            key = self._take()
            if key.kind != "word":
                self._fail("expected the name of an option", key.position)
            self._expect("=")
            value = self._value(key.text)
            if key.text in options:
                self._fail(f"option '{key.text}' is given twice", key.position)
            options[key.text] = value
            self._accept(",")
        return options

    def _value(self, key: str) -> _Token:
        token = self._peek()
        if not self._accept("["):
            return self._item(key)
        items: list[_Token] = []
        while not self._accept("]"):
            if items:
                self._expect(",")
            items.append(self._item(key))
        last = self.tokens[self.next - 1]
        return _Token("list", self.text[token.position : last.position + 1], token.position, tuple(items))

    def _item(self, key: str) -> _Token:
        token = self._take()
        if token.kind not in ("word", "quoted"):
            self._fail(f"expected a value for '{key}'", token.position)
        return token

    def _check_options(self, options: dict[str, _Token], known: dict[str, type], name: str) -> dict[str, Any]:
        values = {}
        for key, token in options.items():
            if key not in known:
                near = _nearest(key, list(known)) or f"; it has {', '.join(known) or 'none'}"
                self._fail(f"'{name}' has no option '{key}'{near}", token.position - len(key) - 1)
            values[key] = self._convert(token, known[key], key)
        return values

    def _convert(self, token: _Token, kind: Any, key: str) -> Any:
        """Convert a token to the type `kind` of an option: plain, `X | None`, or `tuple[X, ...]`."""
        if get_origin(kind) in (Union, UnionType):
            if token.kind == "word" and token.text == "none":
                return None
            kind = next(member for member in get_args(kind) if member is not type(None))
        if get_origin(kind) is tuple:
            items = token.items if token.kind == "list" else (token,)
            return tuple(self._convert(item, get_args(kind)[0], key) for item in items)
        if token.kind == "list":
            self._fail(f"option '{key}' takes one value, not a list", token.position)
        if kind is str:
            if token.kind == "quoted":
                return re.sub(r"\\(.)", r"\1", token.text[1:-1])
            return token.text
        if kind is bool and token.text in ("true", "false"):
            return token.text == "true"
        if kind in (int, float) and token.kind == "word":
            try:
                return kind(token.text)
            except ValueError:
                pass
        self._fail(f"option '{key}' takes a value of type {kind.__name__}, not {token.text}", token.position)

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        token = self.tokens[self.next]
        self.next = min(self.next + 1, len(self.tokens) - 1)
        return token

    def _accept(self, mark: str) -> bool:
        if self._peek().text == mark and self._peek().kind == "mark":
            self.next += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            self._fail(f"expected '{mark}'", self._peek().position)

    def _fail(self, message: str, position: int) -> NoReturn:
        line = self.text.replace("\n", " ")
        raise PipelineError(
            f"{message}\n  {line}\n  {' ' * position}^",
            where="pipeline",
            remedy="`graphopt passes` lists the passes, their options and the named pipelines",
        )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
