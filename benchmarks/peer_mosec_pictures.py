"""mosec as a peer of `pictures.py`: one process draws with a frozen TorchScript generator, in batches that wait 2 ms,
and one makes the PNG files of it.

    GENERATOR=FILE LATENT=128 python benchmarks/peer_mosec_pictures.py --address 127.0.0.1 --port PORT

Run by the Python that it is installed for, with PyTorch and Pillow; imports nothing of ours. A request is
`{"seed": 1, "n": 16}`, its answer PNG files in base64, by Pillow at level 1. mosec reads its options itself.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from mosec import Server, Worker
from peer_pictures import Painter, png_base64  # type: ignore[import-not-found] # it lies beside this script

REQUESTS = 4  # of 16 pictures each: what our engine has in a call
WAIT_MILLISECONDS = 2


class Draw(Worker):  # type: ignore[misc] # it is not installed where types are checked
    def __init__(self) -> None:
        super().__init__()
        self.painter = Painter(os.environ["GENERATOR"], int(os.environ["LATENT"]))

    def forward(self, data: list[dict[str, Any]]) -> list[torch.Tensor]:
        return list(self.painter.draw([(int(each["seed"]), int(each["n"])) for each in data]))


class Encode(Worker):  # type: ignore[misc] # likewise
    def forward(self, data: torch.Tensor) -> dict[str, list[str]]:
        return {"data": png_base64(data)}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Draw, max_batch_size=REQUESTS, max_wait_time=WAIT_MILLISECONDS)
    server.append_worker(Encode)
    server.run()
