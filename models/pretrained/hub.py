"""Checkpoints by their name on the Hugging Face hub, where there is a network."""

from __future__ import annotations

import re
from pathlib import Path

from contracts.errors import StoreError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "vocab.*", "merges.txt"]
_WANTED_WITHOUT = ["pytorch_model.bin"]  # of a model that has no safetensors


def checkpoint_folder(place: str) -> Path:
    """The folder of a checkpoint: `place` itself, or what the hub has by that name, which is kept in its cache.

    Raises StoreError for a place that is neither, and where the hub cannot be reached.
    """
    folder = Path(place)
    if place and folder.is_dir():
        return folder
    if folder.exists() or not _NAME.fullmatch(place):
        raise StoreError(f"{place!r} is neither a folder nor a name on the hub, like openai-community/gpt2")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = Path(snapshot_download(place, allow_patterns=_WANTED))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(place, allow_patterns=_WANTED + _WANTED_WITHOUT))
    except RepositoryNotFoundError:
        raise StoreError(f"there is no folder {place!r} here and no model {place!r} on the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"there is no folder {place!r} here, and the hub cannot be asked for it ({reason}); give a folder with"
            " config.json, weights and tokenizer, or try again with a network"
        ) from None
    return found
