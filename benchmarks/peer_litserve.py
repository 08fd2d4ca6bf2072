"""LitServe as a peer of `serving.py`: gives every prompt back, in batches of up to 32 that wait 2 ms for company.

    python benchmarks/peer_litserve.py PORT [stream]

Run by the Python that it is installed for; imports nothing of ours. With `stream` each character is an event, one
request at a time: LitServe streams no batches.
"""

# NOTE: no `from __future__ import annotations`: LitServe and FastAPI look at the types themselves. A `Request` is
# parsed as JSON and comes as its dict; `Any` has no answer checked against a model.
import sys
from collections.abc import Iterator
from typing import Any

import litserve
from fastapi import Request

BATCH = 32
WAIT_SECONDS = 0.002


class Echo(litserve.LitAPI):  # type: ignore[misc] # it is not installed where types are checked
    def setup(self, device: str) -> None:
        return

    def decode_request(self, request: Request) -> str:
        return str(request["prompt"])

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, inputs: list[str]) -> list[str]:
        return inputs

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> Any:
        return {"text": output}


class EchoStream(litserve.LitAPI):  # type: ignore[misc] # likewise
    def setup(self, device: str) -> None:
        return

    def decode_request(self, request: Request) -> str:
        return str(request["prompt"])

    def predict(self, prompt: str) -> Iterator[str]:
        yield from prompt

    def encode_response(self, output: Iterator[str]) -> Any:
        for character in output:
            yield f'data: {{"text": "{character}"}}\n\n'


if __name__ == "__main__":
    api = EchoStream(stream=True) if "stream" in sys.argv else Echo(max_batch_size=BATCH, batch_timeout=WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
