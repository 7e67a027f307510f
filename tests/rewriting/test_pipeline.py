"""The pipeline grammar, the pass manager and the registry."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import registry
from graphopt.errors import PassError, PipelineError
from graphopt.ir import Graph, Model, Node, edit
from graphopt.ir.text import parse
from graphopt.rewriting.passes import Fidelity, Miss, Pass, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline, Step
from graphopt.rewriting.report import Report, StepResult


@dataclass(frozen=True)
class Options(Pass):
    """A pass with an option of each kind."""

    name: ClassVar[str] = "test-options"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    count: int = 1
    ratio: float = 0.5
    word: str = "plain"
    flag: bool = False
    layers: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = (1, 2)
    skip: float | None = None

    def run(self, graph: Graph, context: PassContext) -> None:
        context.count("seen")


@dataclass(frozen=True)
class HalveRelus(RewritePass):
    """Turn Relu of Relu into Relu, one at a time."""

    name: ClassVar[str] = "test-halve"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Relu",)

    def match(self, node: Node, context: PassContext) -> Node | Miss:
        producer = node.inputs[0].producer
        if producer is None:
            return Miss("it reads a graph input")
        return producer if producer.op_type == "Relu" else Miss()

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        rewriter.replace_uses(match.output, match.inputs[0])
        rewriter.remove_dead(match)


@dataclass(frozen=True)
class Grow(Pass):
    """Add a node, always: no fixpoint is ever reached."""

    name: ClassVar[str] = "test-grow"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        context.rewriter(graph).op("Relu", [graph.inputs[0]])


@dataclass(frozen=True)
class Circle(Pass):
    """Make the first node read the last one."""

    name: ClassVar[str] = "test-circle"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        edit.replace_input(graph.nodes.first, 0, graph.nodes.last.output)


@dataclass(frozen=True)
class Raise(Pass):
    """Raise an error of Python's own."""

    name: ClassVar[str] = "test-raise"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        raise KeyError("oops")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", [])
    for cls in (Options, HalveRelus, Grow, Circle, Raise):
        registry.register(cls)


def chain(length: int) -> Model:
    body = "".join(f"v{i + 1} = Relu(v{i})\n" for i in range(length))
    return parse(f'<ir_version: 10, opset_import: ["": 22]> g (float[2] v0) => (float[2] v{length}) {{ {body} }}')


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "options"),
        [
            ("layers=[a, b], ratio=0.25, skip=none", {"layers": ("a", "b"), "ratio": 0.25, "skip": None}),
            ("layers=a", {"layers": ("a",)}),
            ('layers=["a b", "none", none]', {"layers": ("a b", "none", "none")}),
            ("layers=[] sizes=[]", {"layers": (), "sizes": ()}),
            ("sizes=none skip=0.5", {"sizes": None, "skip": 0.5}),
            ("sizes=[3,-4]", {"sizes": (3, -4)}),
        ],
    )
    def test_lists_and_options_that_may_be_absent(self, text: str, options: dict[str, object]) -> None:
        pipeline = Pipeline.parse(f"test-options{{{text}}}")
        (pass_,) = pipeline.passes
        assert {name: pass_.options[name] for name in options} == options
        assert Pipeline.parse(str(pipeline)) == pipeline

    @pytest.mark.parametrize(
        ("text", "message", "column"),
        [
            ("test-options{count=[1]}", "option 'count' takes one value, not a list", 19),
            ("test-options{count=none}", "takes a value of type int, not none", 19),
            ("test-options{sizes=[1, x]}", "takes a value of type int, not x", 23),
            ("test-options{layers=[a b]}", "expected ','", 23),
            ("test-options{layers=[a,]}", "expected a value for 'layers'", 23),
            ("test-options{layers=[a", "expected ','", 22),
        ],
    )
    def test_a_wrong_list_gets_a_caret(self, text: str, message: str, column: int) -> None:
        with pytest.raises(PipelineError, match=re.escape(message)) as failure:
            Pipeline.parse(text)
        assert failure.value.message.splitlines()[-1] == " " * (column + 2) + "^"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "eliminate-dead",
            "eliminate-dead,test-options{count=3 word=x}",
            "fixpoint{max=4}(test-halve,eliminate-dead),default",
            "fixpoint(fixpoint{max=2}(test-halve))",
            'test-options{ratio=1e-05 word="a b,\\"c\\"" flag=true}',
            'test-options{word="3"}',
            "default,test-options",
        ],
    )
    def test_prints_what_it_read(self, text: str) -> None:
        pipeline = Pipeline.parse(text)
        assert str(pipeline) == text
        assert Pipeline.parse(str(pipeline)) == pipeline

    def test_blanks_and_commas_are_free(self) -> None:
        text = " fixpoint { max = 4 , } ( test-halve ,\n test-options{count=3,flag=true} ) "
        assert str(Pipeline.parse(text)) == "fixpoint{max=4}(test-halve,test-options{count=3 flag=true})"

    def test_defaults_are_not_printed(self) -> None:
        assert str(Pipeline.parse("test-options{count=1 ratio=0.5}")) == "test-options"

    @given(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.booleans(),
        st.lists(st.text(max_size=8), max_size=3),
        st.none() | st.lists(st.integers(), max_size=3),
    )
    def test_any_option_comes_back(
        self, count: int, ratio: float, word: str, flag: bool, layers: list[str], sizes: list[int] | None
    ) -> None:
        made = Options(count, ratio, word, flag, tuple(layers), None if sizes is None else tuple(sizes), skip=ratio)
        pipeline = Pipeline.of(made)
        assert Pipeline.parse(str(pipeline)) == pipeline

    @pytest.mark.parametrize(
        ("text", "message", "column"),
        [
            ("eliminate-ded", "did you mean 'eliminate-dead'?", 0),
            ("eliminate-dead,,test-halve", "expected the name of a pass or pipeline", 15),
            ("eliminate-dead test-halve", "expected a comma or the end", 15),
            ("test-options{cuont=3}", "no option 'cuont'; did you mean 'count'?", 13),
            ("test-options{count=x}", "takes a value of type int, not x", 19),
            ("test-options{flag=1}", "takes a value of type bool", 18),
            ("test-options{count=1 count=2}", "given twice", 21),
            ("test-options{count}", "expected '='", 18),
            ("fixpoint(test-halve", "expected ')'", 19),
            ("fixpoint{max=0}(test-halve)", "max must be at least 1", 13),
            ("default{x=1}", "takes no options", 0),
            ("eliminate-dead;", "unexpected character", 14),
            ("fixpoint(" * 60 + "test-halve" + ")" * 60, "nested more than 50 deep", 450),
        ],
    )
    def test_errors_have_a_caret(self, text: str, message: str, column: int) -> None:
        with pytest.raises(PipelineError) as error:
            Pipeline.parse(text)
        assert message in str(error.value)
        caret = next(line for line in str(error.value).splitlines() if line.strip() == "^")
        assert caret.index("^") - 2 == column

    def test_a_pipeline_that_contains_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        named = {n: registry.NamedPipeline(n, t, "") for n, t in (("one", "two"), ("two", "fixpoint(one)"))}
        monkeypatch.setattr(registry, "pipelines", lambda: named)
        with pytest.raises(PipelineError, match="contains itself"):
            Pipeline.parse("one")

    def test_fidelity_is_that_of_the_worst(self) -> None:
        assert Pipeline.parse("test-halve").fidelity is Fidelity.EXACT
        assert Pipeline.parse("default").fidelity is Fidelity.FLOAT
        assert Pipeline.parse("fixpoint(default,test-options)").fidelity is Fidelity.LOSSY

    def test_every_named_pipeline_parses(self) -> None:
        assert {"O0", "O1", "O2", "O3", "default"} <= registry.pipelines().keys()
        for name in registry.pipelines():
            assert str(Pipeline.parse(name)) == name
        assert Pipeline.parse("clean").fidelity is Fidelity.EXACT


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self.events.append("begin")

    def before(self, step: Step, model: Model) -> None:
        self.events.append(f"before {step.path}")

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        self.events.append(f"after {step.pass_.name} {result.changed}")

    def failed(self, step: Step, model: Model, error: Exception) -> None:
        self.events.append(f"failed {step.label}")

    def end(self, model: Model, report: Report) -> None:
        self.events.append("end")


class TestManager:
    def test_observers_hear_everything_in_order(self) -> None:
        recorder = Recorder()
        PassManager(Pipeline.parse("test-options,fixpoint(test-halve)"), [recorder]).run(chain(3))
        assert recorder.events == [
            "begin",
            "before 0",
            "after test-options False",
            "before 1.fixpoint[0].0",
            "after test-halve True",
            "before 1.fixpoint[1].0",
            "after test-halve False",
            "end",
        ]

    def test_report(self) -> None:
        report = PassManager(Pipeline.parse("test-halve")).run(chain(5))
        (step,) = report.steps
        assert (step.nodes_before, step.nodes_after, step.changed) == (5, 1, True)
        assert step.counts == {"rewritten": 4}
        assert step.misses == {"it reads a graph input": 1}

    def test_fixpoint_stops_at_its_maximum(self) -> None:
        report = PassManager(Pipeline.parse("fixpoint{max=3}(test-grow)")).run(chain(1))
        assert len(report.steps) == 3

    def test_an_observer_can_refuse_rewrites(self) -> None:
        class Limit(Observer):
            left = 2

            def allow(self, step: Step, node: Node) -> bool:
                self.left -= 1
                return self.left >= 0

        model = chain(5)
        PassManager(Pipeline.parse("test-halve"), [Limit()]).run(model)
        assert len(model.graph.nodes) == 3

    @pytest.mark.parametrize(
        ("text", "message"), [("test-raise", "raised KeyError: 'oops'"), ("test-circle", "left a cycle through Relu")]
    )
    def test_a_pass_that_fails_is_named(self, text: str, message: str) -> None:
        recorder = Recorder()
        with pytest.raises(PassError, match=message) as error:
            PassManager(Pipeline.parse(f"test-options,{text}"), [recorder]).run(chain(3))
        assert f"step 1, {text}" in str(error.value)
        assert recorder.events[-1] == f"failed step 1, {text}"

    def test_order_is_restored(self) -> None:
        @dataclass(frozen=True)
        class Reverse(Pass):
            """Put the nodes in the wrong order."""

            name: ClassVar[str] = "test-reverse"
            fidelity: ClassVar[Fidelity] = Fidelity.EXACT

            def run(self, graph: Graph, context: PassContext) -> None:
                edit.reorder(graph, list(reversed(list(graph.nodes))))

        model = chain(4)
        PassManager(Pipeline.of(Reverse())).run(model)
        assert model.graph.is_sorted()


class TestRegistry:
    def test_built_in_passes_are_found(self) -> None:
        assert {"raise-opset", "eliminate-dead", "fuse-conv-bn", "share-weights"} <= registry.passes().keys()

    def test_a_file_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text(
            "from dataclasses import dataclass\nfrom typing import ClassVar\n"
            "from graphopt.rewriting.passes import Fidelity, Pass\n\n@dataclass(frozen=True)\nclass Mine(Pass):\n"
            "    '''Do nothing.'''\n    name: ClassVar[str] = 'mine'\n"
            "    fidelity: ClassVar[Fidelity] = Fidelity.EXACT\n    def run(self, graph, context): pass\n"
        )
        (cls,) = registry.load_module(str(path))
        assert registry.passes()["mine"] is cls
        assert cls.summary() == "Do nothing."
        assert str(Pipeline.parse("mine")) == "mine"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("x = 1", "defines no pass"),
            ("import nothing_of_this_name", "could not be imported: ModuleNotFoundError"),
            ("1 / 0", "ZeroDivisionError"),
        ],
    )
    def test_a_module_that_is_no_use(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "bad.py"
        path.write_text(content)
        with pytest.raises(PassError, match=message):
            registry.load_module(str(path))

    def test_a_module_that_is_not_there(self) -> None:
        with pytest.raises(PassError, match="could not be imported"):
            registry.load_module("no_such_module_anywhere")
        assert "no_such_module_anywhere" not in sys.modules

    def test_malformed_passes_are_refused(self) -> None:
        @dataclass(frozen=True)
        class NoName(Pass):
            def run(self, graph: Graph, context: PassContext) -> None: ...

        class NotFrozen(Pass):
            name: ClassVar[str] = "test-thawed"
            fidelity: ClassVar[Fidelity] = Fidelity.EXACT

            def run(self, graph: Graph, context: PassContext) -> None: ...

        @dataclass(frozen=True)
        class NoDefault(Pass):
            name: ClassVar[str] = "test-bare"
            fidelity: ClassVar[Fidelity] = Fidelity.EXACT
            needed: int

            def run(self, graph: Graph, context: PassContext) -> None: ...

        @dataclass(frozen=True)
        class Taken(Options):
            name: ClassVar[str] = "eliminate-dead"

        with pytest.raises(PassError, match="class variables"):
            registry.register(NoName)
        with pytest.raises(PassError, match="needs a default"):
            registry.register(NoDefault)
        with pytest.raises(PassError, match="frozen dataclass"):
            registry.register(NotFrozen)
        with pytest.raises(PassError, match=r"the name of pass .* is taken"):
            registry.register(Taken)
        with pytest.raises(PassError, match="not a subclass"):
            registry.register(int)  # type: ignore[arg-type]
        assert "eliminate-dead" in registry.passes()
