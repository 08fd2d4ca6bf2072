"""The run folder that a training function leaves behind; `contracts.run` says what it holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from torch import Tensor

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.errors import StoreError
from contracts.run import HELD_OUT, RUN, RunDescription
from contracts.tokenizers import Tokenizer
from models.weights import write_safetensors


class RunFolder:
    """A folder that appears whole, when the run is over, or not at all."""

    def __init__(self, path: Path) -> None:
        """Made before training starts. Raises StoreError where the path is taken, so that no run is trained in vain."""
        if path.exists():
            raise StoreError(f"{path} exists already: remove it, or give the run another folder")
        self.path = path

    def write(
        self,
        description: RunDescription,
        weights: dict[str, Tensor],
        tokenizer: Tokenizer | None = None,
        held_out: str = "",
    ) -> Path:
        """Write everything beside the final place and rename it there. `held_out` is text kept from training."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.path.parent))
        try:
            write_safetensors({name: weight.cpu() for name, weight in weights.items()}, folder / WEIGHTS)
            if tokenizer is not None:
                tokenizer.write(folder / TOKENIZER)
            if held_out:
                (folder / HELD_OUT).write_text(held_out, encoding="utf-8")
            (folder / RUN).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
            folder.chmod(0o755)
            folder.rename(self.path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self.path
