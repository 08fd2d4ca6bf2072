"""Pictures of a model's training, over HTTP: those of its bundle, as they were written, and no other file."""

from __future__ import annotations

import shutil

import pytest

from contracts.announcements import ServedModel

NAME = "tiny-picture"


@pytest.fixture
def drawn(store, worker):
    """A model whose training has drawn two pictures."""
    described = store.open(NAME).manifest

    def fill(folder):
        for file in described.files:
            (folder / file).write_bytes((store.root / NAME / "1" / file).read_bytes())
        (folder / "loss.png").write_bytes(b"curve")
        (folder / "faces.gif").write_bytes(b"faces")
        return described.model_dump(exclude={"name", "version", "files"})

    bundle = store.write("drawn", fill)
    served = ServedModel(target=bundle.target(), task="image", digest=bundle.digest)
    worker.announce(served=[*worker.served, served])
    yield bundle
    shutil.rmtree(store.root / "drawn")


def test_a_model_names_its_reports_and_each_can_be_read(client, drawn):
    assert client.get("/v1/models/drawn").get_json()["reports"] == ["faces.gif", "loss.png"]
    assert "reports" not in client.get(f"/v1/models/{NAME}").get_json()
    answer = client.get("/v1/models/drawn/reports/loss.png")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "image/png", b"curve")
    assert client.get("/v1/models/drawn@1/reports/faces.gif").mimetype == "image/gif"
    for file in ("weights.safetensors", "manifest.json", "..", "%2e%2e%2fmanifest.json"):
        assert client.get(f"/v1/models/drawn/reports/{file}").status_code == 404
    (drawn.path / "loss.png").write_bytes(b"other")
    assert client.get("/v1/models/drawn/reports/loss.png").status_code == 404
