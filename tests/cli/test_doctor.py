"""`kamishibai doctor`: what it finds, and that it fails when something must be mended."""

from __future__ import annotations

import shutil
import socket

import pytest

from cli import devices as devices_module
from cli import doctor as doctor_module
from cli.devices import device_class
from contracts.bundle import WEIGHTS
from models.runtimes import onnx_session


@pytest.fixture
def doctor(kamishibai, store, redis_url):
    return lambda root=store.root: kamishibai("doctor", "--store", root, "--redis-url", redis_url)


def test_a_sound_machine_has_nothing_to_mend(doctor, store):
    ended = doctor()
    assert ended.status == 0, ended.out
    assert "nothing to mend" in ended.out
    assert "✓ valkey 9" in ended.out
    assert "it evicts nothing" in ended.out
    assert "append-only file" in ended.out
    assert "ms away from this machine's" in ended.out
    for name in store.names():
        assert f"{name}@1 (latest): pytorch:fp32" in ended.out


def test_a_damaged_version_is_to_be_mended(doctor, store, tmp_path):
    shutil.copytree(store.root / "lstm", tmp_path / "lstm")
    with (tmp_path / "lstm" / "1" / WEIGHTS).open("ab") as file:
        file.write(b"x")
    ended = doctor(tmp_path)
    assert ended.status == 1
    assert "✗ lstm@1 (latest): " in ended.out
    assert "export again and remove it" in ended.out
    assert "1 thing to mend" in ended.out


def test_both_builds_of_onnx_runtime_at_once_are_to_be_mended(doctor, monkeypatch):
    monkeypatch.setattr(onnx_session, "installed_builds", lambda: dict.fromkeys(onnx_session.BUILDS, "1.0"))
    ended = doctor()
    assert ended.status == 1
    assert "onnxruntime and onnxruntime-gpu are both installed" in ended.out


def test_an_onnx_runtime_that_does_not_start_on_the_gpu_is_to_be_mended(doctor, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(doctor_module, "devices", lambda wanted: ["cuda:0"])
    monkeypatch.setattr(onnx_session, "installed_builds", lambda: {"onnxruntime-gpu": "1.0"})
    ended = doctor()
    assert ended.status == 1
    assert "cannot be run on cuda:0: this ONNX Runtime is the build for CPUs" in ended.out


def test_what_is_only_missing_is_no_fault(doctor, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_module, "_version", lambda package: None)
    monkeypatch.setattr(onnx_session, "installed_builds", dict)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("KAMISHIBAI_PORT", str(taken.getsockname()[1]))
        ended = doctor(tmp_path / "none yet")
    assert ended.status == 0
    assert "pip install 'kamishibai[cpu]'" in ended.out
    assert "cannot be taken (Address already in use)" in ended.out
    assert "does not exist yet" in ended.out


def test_a_redis_password_is_not_shown(kamishibai, store):
    ended = kamishibai("doctor", "--store", store.root, "--redis-url", "redis://me:secret@127.0.0.1:1/0")
    assert "127.0.0.1:1/0 does not answer" in ended.out
    assert "secret" not in ended.out


def test_the_class_of_a_device_is_its_kind(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(devices_module, "_CPUS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t: vnni\n")
    assert device_class("cpu") == "Some CPU 9000, 3 threads"
    monkeypatch.setattr(devices_module, "_GPUS", tmp_path / "gpus")
    assert device_class("cuda:0") == "NVIDIA GPU"
    for number, kind in enumerate(("H200", "A10")):
        folder = tmp_path / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA {kind}\nIRQ: 1\n")
    assert device_class("cuda:1") == "NVIDIA A10"
    assert device_class("cuda:7") == "NVIDIA A10"
