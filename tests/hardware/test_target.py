"""Targets: valid files, lookup by name, detection of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import TargetError
from graphopt.hardware import processor as cpu
from graphopt.hardware import target
from graphopt.hardware.target import Gpu, Target
from graphopt.util.codec import decode, encode

WHOLE = """
summary = "a board"
kind = "cpu"
machine = "aarch64"
cpu = "cortex-a76"
features = ["neon", "dotprod"]
vector_bits = 128
"""


def write(folder: Path, text: str, name: str = "arm-board.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", target.names())
def test_every_shipped_target_loads_and_survives_a_round_trip(name):
    loaded = Target.load(name)
    assert loaded.name == name
    assert decode(Target, encode(loaded)) == loaded
    assert loaded.summary
    assert (loaded.gpu is not None) == (loaded.kind == "cuda")
    if loaded.kind == "cpu" and name != "host":
        assert (loaded.vector_bits == 512) == ("avx512f" in loaded.features)


def test_names_of_the_design():
    assert {"host", "x86", "x86:znver4", "arm", "arm:cortex-a76", "cuda", "cuda:sm_90"} <= set(target.names())
    assert Target.load("cuda:sm_90").gpu == Gpu("sm_90")
    assert Target.load("arm:cortex-a53").triple == "aarch64-linux-gnu"
    assert Target.load("x86:znver4").family == "x86"


def test_what_follows_from_the_features():
    assert Target.load("x86").vector_registers == 16
    assert Target.load("x86:znver4").vector_registers == 32
    assert Target.load("x86:znver4").dot_product == "avx512vnni"
    assert Target.load("arm:cortex-a76").dot_product == "dotprod"
    assert Target.load("arm").dot_product == ""


def test_a_base_gives_what_a_file_leaves_out_and_features_add_up(tmp_path):
    path = write(tmp_path, 'base = "arm:cortex-a72"\nfeatures = ["lse"]\ncores = 2')
    board = Target.load(path)
    assert board.name == "arm:board"
    assert board.cpu == "cortex-a72"
    assert board.cores == 2
    assert board.features == (*Target.load("arm:cortex-a72").features, "lse")
    assert board.source == path
    assert board.detect == {}


def test_a_base_of_a_gpu_keeps_the_limits_that_are_not_given(tmp_path):
    path = write(tmp_path, 'base = "cuda"\n[gpu]\narch = "sm_87"', "cuda-orin.toml")
    assert Target.load(path).gpu == Gpu("sm_87", 1024, 49152, 32)


def test_the_users_folder_adds_targets_and_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "user_folder", lambda: tmp_path)
    write(tmp_path, WHOLE)
    write(tmp_path, WHOLE.replace("a board", "mine"), "x86-znver4.toml")
    assert Target.load("arm:board").summary == "a board"
    assert Target.load("x86:znver4").summary == "mine"
    assert "arm:board" in target.names()


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(TargetError, match=r"no target 'x86:znver9'\n.*nearest: x86:znver"):
        Target.load("x86:znver9")
    with pytest.raises(TargetError, match="nearest: host"):
        Target.load("hots")
    with pytest.raises(TargetError, match="cuda:sm_90"):
        Target.load("cuda:hopper")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cores = ", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
        (WHOLE.replace("cortex", "cor\ntex"), "is not valid TOML"),
        (WHOLE + "cores = 0", r"key 'cores' must be a whole number from 1 to 1024, not 0"),
        (WHOLE + "cores = true", "key 'cores' must be a whole number"),
        (WHOLE + 'l2_kib = "512"', "key 'l2_kib' must be a whole number"),
        (WHOLE + "core = 2", r"unknown key 'core'\n.*nearest: cores"),
        (WHOLE + 'gpu = "sm_90"', "key 'gpu' must be a table"),
        (WHOLE + '[gpu]\narch = "90"', "key 'gpu.arch' must be a compute architecture"),
        (WHOLE + '[gpu]\narch = "sm_90"', r"cpu takes no table \[gpu\]"),
        (WHOLE + "[detect]\nfamilly = 3", r"unknown key 'detect.familly'\n.*nearest: family"),
        (WHOLE + "[detect]\nmodels = [1, 2]", "must be a list of .first, last. pairs"),
        (WHOLE.replace('"cpu"', '"tpu"'), "key 'kind' must be one of cpu, cuda"),
        (WHOLE.replace('"cpu"', '"cuda"'), r"cuda needs a table \[gpu\]"),
        (WHOLE.replace("128", "100"), "key 'vector_bits' must be one of"),
        (WHOLE.replace("aarch64", "riscv64"), "key 'machine' must be one of x86_64, aarch64"),
        (WHOLE.replace("dotprod", "dotprd"), r"aarch64 has no 'dotprd'\n.*nearest: dotprod"),
        (WHOLE.replace('["neon", "dotprod"]', '"neon"'), "key 'features' must be a list of strings"),
        (WHOLE.replace('cpu = "cortex-a76"', ""), "key 'cpu' is missing"),
        ('base = "arm:cortex"', "no target 'arm:cortex'"),
        ('base = "cuda"\n[gpu]\nwarp_size = 0', "key 'gpu.warp_size' must be"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path, text, problem):
    path = tmp_path / "arm-board.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TargetError, match=problem) as caught:
        Target.load(path)
    assert "no target" in problem or str(caught.value).startswith(str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(TargetError, match="there is no such target file"):
        Target.load(str(tmp_path / "no.toml"))
    with pytest.raises(TargetError, match="cannot be read"):
        Target.load(tmp_path)


def test_bases_in_a_circle(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "user_folder", lambda: tmp_path)
    write(tmp_path, 'base = "arm:b"', "arm-a.toml")
    write(tmp_path, 'base = "arm:a"', "arm-b.toml")
    with pytest.raises(TargetError, match="leads back to this file"):
        Target.load("arm:a")


def machine(name: str, identity: dict[str, str | int], features: set[str]) -> cpu.Cpu:
    return cpu.Cpu(name, "some processor", frozenset(features), identity, 6, {1: 48, 2: 2048})


def test_host_is_the_described_processor_that_it_is(monkeypatch):
    zen4 = Target.load("x86:znver4")
    here = machine("x86_64", {"vendor": "AuthenticAMD", "family": 25, "model": 0x61}, {*zen4.features, "avxvnni"})
    monkeypatch.setattr(cpu, "current", lambda: here)
    host = Target.load("host")
    assert host.cpu == "znver4"
    assert "avxvnni" in host.features
    assert (host.cores, host.l1_kib, host.l2_kib, host.l3_kib) == (6, 48, 2048, zen4.l3_kib)
    assert host.runs_here()


def test_host_without_some_features_of_its_model_is_the_best_generic_one(monkeypatch):
    """A virtual machine may hide instruction sets: code for the whole model would crash there."""
    features = set(Target.load("x86").features)
    here = machine("x86_64", {"vendor": "AuthenticAMD", "family": 25, "model": 0x61}, features)
    monkeypatch.setattr(cpu, "current", lambda: here)
    assert Target.load("host").cpu == "x86-64-v3"
    assert not Target.load("x86:znver4").runs_here()
    assert not Target.load("arm").runs_here()


def test_the_levels_of_x86_are_those_of_the_targets():
    levels = cpu.x86_levels()
    for name, level in (("x86:v1", "x86-64"), ("x86:v2", "x86-64-v2"), ("x86", "x86-64-v3"), ("x86:v4", "x86-64-v4")):
        described = Target.load(name)
        assert (described.cpu, set(described.features)) == (level, set(levels[level]))


def zen4() -> cpu.Cpu:
    features = set(Target.load("x86:znver4").features)
    return machine("x86_64", {"vendor": "AuthenticAMD", "family": 25, "model": 0x61}, features)


@pytest.mark.parametrize(
    ("limit", "model", "bits"),
    [
        ("x86-64", "x86-64", 128),
        ("x86-64-v2", "x86-64-v2", 128),
        ("x86-64-v3", "x86-64-v3", 256),
        (" x86-64-v4 , avx512vnni,", "x86-64-v4", 512),
        ("", "znver4", 512),
    ],
)
def test_the_host_is_taken_for_what_the_variable_leaves_of_it(monkeypatch, limit, model, bits):
    monkeypatch.setenv(cpu.LIMIT, limit)
    monkeypatch.setattr(cpu, "detected", zen4)
    host = Target.load("host")
    assert (host.cpu, host.vector_bits) == (model, bits)
    assert ("avx512vnni" in host.features) == (bits == 512)
    assert host.runs_here()
    assert Target.load("x86:znver4").runs_here() == (limit == "")


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("x86-64-v4,avxvnni,amx-int8", r"GRAPHOPT_HOST_FEATURES: .*\(some processor\) lacks avxvnni, amx-int8\n"),
        ("avx-2", r"GRAPHOPT_HOST_FEATURES: x86_64 has no 'avx-2'\n.*nearest: avx2"),
        ("neon", "x86_64 has no 'neon'"),
    ],
)
def test_more_than_the_processor_has_is_refused(monkeypatch, limit, problem):
    monkeypatch.setenv(cpu.LIMIT, limit)
    monkeypatch.setattr(cpu, "detected", zen4)
    with pytest.raises(TargetError, match=problem):
        Target.load("host")
    with pytest.raises(TargetError, match=problem):
        Target.load("x86").runs_here()


def test_host_on_arm(monkeypatch):
    features = set(Target.load("arm:cortex-a76").features)
    here = machine("aarch64", {"implementer": 0x41, "part": 0xD0B}, features)
    monkeypatch.setattr(cpu, "current", lambda: here)
    assert Target.load("host").cpu == "cortex-a76"
    assert Target.load("arm:cortex-a53").runs_here()


def test_host_of_an_unknown_kind(monkeypatch):
    monkeypatch.setattr(cpu, "current", lambda: machine("riscv64", {}, set()))
    with pytest.raises(TargetError, match=r"no target describes this machine \(some processor, riscv64\)"):
        Target.load("host")


def test_this_machine_is_described():
    host = Target.load("host")
    assert host.runs_here()
    assert host.cores >= 1
    assert host.l1_kib > 0
