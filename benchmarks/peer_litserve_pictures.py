"""LitServe as a peer of `pictures.py`: draws with a frozen TorchScript generator, in batches that wait 2 ms.

    python benchmarks/peer_litserve_pictures.py PORT GENERATOR LATENT

Run by the Python that it is installed for, with PyTorch and Pillow; imports nothing of ours. A request is
`{"seed": 1, "n": 16}`, its answer PNG files in base64, by Pillow at level 1.
"""

# NOTE: no `from __future__ import annotations`: LitServe and FastAPI look at the types themselves. A `Request` is
# parsed as JSON and comes as its dict; `Any` has no answer checked against a model.
import sys
from typing import Any

import litserve
import torch
from fastapi import Request
from peer_pictures import Painter, png_base64  # type: ignore[import-not-found] # it lies beside this script

REQUESTS = 4  # of 16 pictures each: what our engine has in a call
WAIT_SECONDS = 0.002


class Faces(litserve.LitAPI):  # type: ignore[misc] # it is not installed where types are checked
    def setup(self, device: str) -> None:
        self.painter = Painter(sys.argv[2], int(sys.argv[3]))

    def decode_request(self, request: Request) -> tuple[int, int]:
        return int(request["seed"]), int(request["n"])

    def batch(self, inputs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return inputs

    def predict(self, inputs: list[tuple[int, int]]) -> list[torch.Tensor]:
        return list(self.painter.draw(inputs))

    def unbatch(self, output: list[torch.Tensor]) -> list[torch.Tensor]:
        return output

    def encode_response(self, output: torch.Tensor) -> Any:
        return {"data": png_base64(output)}


if __name__ == "__main__":
    server = litserve.LitServer(
        Faces(max_batch_size=REQUESTS, batch_timeout=WAIT_SECONDS), accelerator="cpu", workers_per_device=1
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
