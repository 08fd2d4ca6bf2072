"""`kamishibai models verify | rollback | rm | prune`."""

from __future__ import annotations

import io
import re
import shutil

import pytest

from contracts.bundle import WEIGHTS
from contracts.orders import Order
from contracts.requests import TextRequest
from contracts.store import Store


@pytest.fixture
def versions(store, tmp_path) -> Store:
    """A store of its own with `lstm` in four versions."""
    made = Store(tmp_path / "versions")
    bundle = store.open("lstm")

    def fill(folder):
        for file in bundle.manifest.files:
            shutil.copy(bundle.path / file, folder)
        return bundle.manifest.model_dump(exclude={"name", "version", "files"})

    for _ in range(4):
        made.write("lstm", fill)
    return made


@pytest.fixture
def models(kamishibai, versions):
    return lambda command, *arguments: kamishibai("models", command, *arguments, "--store", versions.root)


def test_verify_names_what_is_damaged_and_fails(models, versions):
    assert models("verify").status == 0
    weights = versions.root / "lstm" / "2" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    (versions.root / "lstm" / "3" / WEIGHTS).write_bytes(content[:-1])
    ended = models("verify")
    assert ended.status == 1
    assert [line.split(":")[0] for line in ended.out.splitlines()] == ["lstm@1", "lstm@4"]
    assert "lstm@2: " in ended.err
    assert "was changed: its sha256 differs" in ended.err
    assert f"has {len(content) - 1} bytes instead of {len(content)}" in ended.err
    assert models("verify", "lstm@1", "lstm@4").status == 0
    assert models("verify", "lstm@2").status == 1
    assert "has no model lstm@9" in models("verify", "lstm@9").err


def test_rollback_goes_to_the_version_before_or_the_one_given(models, versions, kamishibai):
    assert "lstm@3 is the latest again (it was lstm@4)" in models("rollback", "lstm").out
    assert "3 (latest)" in kamishibai("models", "--store", versions.root).out
    assert "lstm@1 is the latest again (it was lstm@3)" in models("rollback", "lstm", "--to", 1).out
    ended = models("rollback", "lstm")
    assert (ended.status, ended.out) == (1, "")
    assert "lstm@1 is the first version that is left" in ended.err
    assert "has no model lstm@7; it has versions 1, 2, 3, 4 of it" in models("rollback", "lstm", "--to", 7).err


def test_rm_removes_a_version_or_all_of_a_model(models, versions):
    assert models("rm", "lstm@2", "--yes").out == "removed lstm@2\n"
    assert versions.versions("lstm") == [1, 3, 4]
    assert models("rm", "lstm", "--yes").out == "removed lstm@1, lstm@3, lstm@4\n"
    assert versions.names() == []
    assert "has no model lstm; it has none" in models("rm", "lstm", "--yes").err


@pytest.mark.parametrize(("latest", "other"), [(4, 3), (2, 1), (1, 4)])
def test_rm_of_the_latest_names_the_command_to_give_first_and_asks_nothing(models, versions, latest, other):
    versions.roll_back("lstm", latest)
    ended = models("rm", f"lstm@{latest}")
    assert (ended.status, ended.out) == (1, "")
    (command,) = re.findall(r"kamishibai models (rollback lstm --to \d+)$", ended.err.strip())
    assert command.endswith(f" {other}")
    assert models(*command.split()).status == 0
    assert models("rm", f"lstm@{latest}", "--yes").out == f"removed lstm@{latest}\n"


def test_the_last_version_of_a_model_is_removed_only_by_who_confirms_that_nothing_is_left(
    models, versions, monkeypatch
):
    models("prune", "--keep", 1, "--yes")
    for model in ("lstm@4", "lstm"):
        ended = models("rm", model)
        assert ended.status != 0
        assert "Remove lstm@4 from" in ended.out
        assert "for good; nothing of lstm is left then? [y/N]" in ended.out
    assert versions.versions("lstm") == [4]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert models("rm", "lstm@4").out.endswith("removed lstm@4\n")
    assert versions.names() == []


def test_rm_and_prune_ask_first(models, versions):
    for command in (["rm", "lstm@1"], ["prune", "--keep", "1"]):
        ended = models(*command)
        assert ended.status != 0
        assert "for good? [y/N]" in ended.out + ended.err
    assert versions.versions("lstm") == [1, 2, 3, 4]


def test_prune_keeps_the_newest_and_the_latest(models, versions):
    versions.roll_back("lstm", 1)
    assert models("prune", "--keep", 2, "--yes").out == "removed lstm@2\n"
    assert versions.versions("lstm") == [1, 3, 4]
    assert "nothing to remove" in models("prune", "--yes").out


def test_a_version_with_jobs_is_kept(models, versions, jobs, redis_url):
    target = versions.open("lstm", 1).target()
    accepted = TextRequest(target=target, seed=1, prompt_tokens=(1,))
    job_id = jobs.submit(Order(request=accepted, result_seconds=60, timeout_seconds=60))
    ended = models("rm", "lstm@1", "--yes", "--redis-url", redis_url)
    assert "lstm@1 has 1 jobs that have not ended; wait for them, or cancel them" in ended.err
    assert "has 1 jobs" in models("prune", "--keep", 1, "--yes", "--redis-url", redis_url).err
    assert versions.versions("lstm") == [1, 2, 3, 4]
    jobs.cancel(job_id)
    assert models("rm", "lstm@1", "--yes", "--redis-url", redis_url).status == 0
