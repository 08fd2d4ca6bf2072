"""mosec as a peer of `serving.py`: gives every prompt back, in batches of up to 32 that wait 2 ms for company.

    python benchmarks/peer_mosec.py --address 127.0.0.1 --port PORT

Run by the Python that it is installed for; imports nothing of ours. It reads its options itself.
"""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

BATCH = 32
WAIT_MILLISECONDS = 2


class Echo(Worker):  # type: ignore[misc] # it is not installed where types are checked
    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, str]]:
        return [{"text": each["prompt"]} for each in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Echo, max_batch_size=BATCH, max_wait_time=WAIT_MILLISECONDS)
    server.run()
