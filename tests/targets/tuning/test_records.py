"""The database of measurements: which record counts, and the handling of shared, truncated and invalid files."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.errors import CompileError
from graphopt.targets.tvm.kernels.family import FLOAT32, Dtypes, Workload
from graphopt.targets.tvm.kernels.matmul.plan import MatmulWorkload
from graphopt.targets.tvm.tuning.records import (
    SHIPPED,
    SUFFIX,
    Record,
    Trial,
    append_line,
    canonical,
    current_key,
    file_name,
    read_folder,
)
from tests.targets.tuning.support import TARGET, conv, record, records

FAST = Trial("conv_direct", 1, (3, 2, 1), 1e-4)
SLOW = Trial("conv_direct", 1, (4, 2, 0), 2e-4)
BROKEN = Trial("conv_winograd", 1, (4, 1, 2, 2, 0), None)


def test_a_record_is_one_line_that_reads_back() -> None:
    made = record(conv(), SLOW, FAST, BROKEN, best=1)
    assert "\n" not in made.to_line()
    assert Record.of_line(made.to_line()) == made
    assert made.winner == FAST


@pytest.mark.parametrize(
    ("old", "workload"),
    [
        ("conv n1 i16x8x8 o16 k3x3 s1x1 d1x1 p1x1+1x1 g1 v8 blocked", conv()),
        ("conv n? i16x8x8 o16 k3x3 s1x1 d1x1 p1x1+1x1 g1 v8", dataclasses.replace(conv(), batch=None, blocked=False)),
        ("matmul m8 n70 k5 float32 packed", MatmulWorkload(8, 70, 5, FLOAT32, packed=True)),
        ("matmul m8 n70 k5 float16 packed", MatmulWorkload(8, 70, 5, Dtypes.of("float16"), packed=True)),
    ],
)
def test_records_of_workloads_without_element_types_are_read(tmp_path: Path, old: str, workload: Workload) -> None:
    """As earlier versions wrote them: what users have tuned is not lost."""
    line = json.loads(record(workload, FAST).to_line())
    append_line(tmp_path / "old.jsonl", json.dumps({**line, "workload": old}))
    found = records(tmp_path).find(workload.key)
    assert found is not None
    assert found.winner == FAST
    assert current_key(workload.key) == workload.key


def test_shipped_records_name_element_types() -> None:
    shipped = [record.workload for record in read_folder(SHIPPED, SUFFIX, Record.of_line)]
    assert len(shipped) > 100
    text = "".join(path.read_text() for path in SHIPPED.glob(f"*{SUFFIX}"))
    assert all(f'"workload":"{key}"' in text for key in shipped), "keys are stored as they are written today"


def test_records_are_kept_from_one_time_to_the_next(tmp_path: Path) -> None:
    made = record(conv(), FAST)
    records(tmp_path / "new").add(made)
    again = records(tmp_path / "new")
    assert again.find(made.workload) == made
    assert again.find("another") is None
    assert len(again) == 1


def test_the_newest_wins_wherever_it_stands(tmp_path: Path) -> None:
    newer = record(conv(), FAST, time=9.0)
    for made in (newer, record(conv(), SLOW, time=5.0)):
        append_line(tmp_path / "a.jsonl", made.to_line())
    assert records(tmp_path).find(newer.workload) == newer
    append_line(tmp_path / "colleague.jsonl", record(conv(), SLOW, time=10.0).to_line())
    found = records(tmp_path).find(newer.workload)
    assert found is not None
    assert found.winner == SLOW


def test_the_users_win_over_shipped_ones(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "shipped"
    mine.mkdir()
    theirs.mkdir()
    append_line(theirs / "a.jsonl", record(conv(), SLOW, time=99.0).to_line())
    append_line(theirs / "a.jsonl", record(conv(size=9), SLOW).to_line())
    append_line(mine / "a.jsonl", record(conv(), FAST, time=1.0).to_line())
    both = records(mine, theirs)
    assert {workload: both.find(workload).winner for workload in both._found} == {  # type: ignore[union-attr]
        record(conv(), FAST).workload: FAST,
        record(conv(size=9), FAST).workload: SLOW,
    }


@pytest.mark.parametrize(
    "change",
    [{"cores": 4}, {"vector_bits": 512}, {"cpu": "znver3"}, {"features": ("avx2",)}, {"machine": "aarch64"}],
    ids=lambda change: next(iter(change)),
)
def test_records_of_another_machine_do_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    other = dataclasses.replace(TARGET, **change)  # type: ignore[arg-type]
    records(tmp_path).add(record(conv(), FAST))
    assert len(records(tmp_path, target=other)) == 0
    assert file_name(other) != file_name(TARGET)


def test_what_a_target_is_called_does_not_matter(tmp_path: Path) -> None:
    same = dataclasses.replace(TARGET, name="host", summary="", features=("fma", "avx2"))
    assert (canonical(same), file_name(same)) == (canonical(TARGET), file_name(TARGET))


def test_records_of_another_compiler_do_not_count(tmp_path: Path) -> None:
    made = dataclasses.replace(record(conv(), FAST), toolchain="apache-tvm 0.1")
    append_line(tmp_path / "a.jsonl", made.to_line())
    assert len(records(tmp_path)) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "half a li",
        "[]",
        "{}",
        '"text"',
        record(conv(), FAST).to_line()[:-20],
        record(conv(), FAST).to_line().replace('"best":0', '"best":1'),
        record(conv(), BROKEN).to_line(),
        record(conv(), FAST).to_line().replace("[3,2,1]", '"x"'),
        record(conv(), FAST).to_line().replace('"trials":[[', '"trials":[[7,'),
    ],
)
def test_a_wrong_line_is_passed_over_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.jsonl"
    good = [record(conv(size=size), FAST).to_line() for size in (9, 10)]
    file.write_text("\n".join([good[0], "", damage, good[1]]) + "\n")
    with caplog.at_level(logging.WARNING):
        assert len(list(read_folder(tmp_path, SUFFIX, Record.of_line))) == 2
    assert f"{file}:3: skipped, because it is not a tuning record" in caplog.text


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(record(conv(), SLOW).to_line()[:40])
    append_line(file, record(conv(), FAST).to_line())
    assert [made.winner for made in read_folder(tmp_path, SUFFIX, Record.of_line)] == [FAST]


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path; from graphopt.targets.tvm.tuning.records import append_line\n"
        "for n in range(100): append_line(Path(sys.argv[1]), json.dumps([sys.argv[2], n, 'x' * 5000]))"
    )
    file = tmp_path / "a.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", script, str(file), str(i)]) for i in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    found = [tuple(json.loads(line)[:2]) for line in file.read_text().splitlines()]
    assert sorted(found) == [(str(i), n) for i in range(3) for n in range(100)]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="tuning records cannot be written"):
        records(tmp_path / "file" / "folder").add(record(conv(), FAST))


def test_what_ships_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    shipped = list(read_folder(SHIPPED, SUFFIX, Record.of_line))
    assert shipped
    assert not caplog.records
    for made in shipped:
        _, cpu, bits, _, cores, *_ = made.target.split()
        assert list(SHIPPED.glob(f"{cpu}-{bits}-{cores}c-*.jsonl")), "one file a target"
