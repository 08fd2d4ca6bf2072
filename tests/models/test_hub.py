"""Names on the hub: a folder wins, and where there is no network the error says what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contracts.errors import StoreError
from models.pretrained.hub import checkpoint_folder


def test_a_folder_is_itself(tmp_path):
    assert checkpoint_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("place", ["", "../there", "a/b/c", "/nowhere/at/all", "a b", "-x", "ä/b"])
def test_what_is_neither_a_folder_nor_a_name_is_refused(place):
    with pytest.raises(StoreError, match="is neither a folder nor a name on the hub, like openai-community/gpt2"):
        checkpoint_folder(place)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is neither a folder nor a name"):
        checkpoint_folder(str(tmp_path / "file"))


@pytest.mark.parametrize("cut", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_the_error_names_the_remedy(tmp_path, cut):
    words = ["import", "hf", "openai-community/gpt2", "--name", "gpt2", "--store", str(tmp_path / "store")]
    ended = subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | {"HF_HOME": str(tmp_path / "cache")} | cut,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "there is no folder 'openai-community/gpt2' here, and the hub cannot be asked for it" in ended.stderr
    assert "give a folder with config.json, weights and tokenizer, or try again with a network" in ended.stderr
    assert "Traceback" not in ended.stderr
