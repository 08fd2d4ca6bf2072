"""Many clients ask for few and many pictures of every manner, and each gets those that it gets alone."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.requests import ImageRequest
from models.noise import latents
from workers.local import LocalModel

ROUTE = "/v1/images/generations"
CLIENTS = 64


@pytest.fixture(scope="module")
def root(store):
    return store.root


@pytest.fixture(scope="module")
def faces(store):
    return LocalModel(store.open("faces"))


@pytest.fixture(scope="module")
def latent_length(faces):
    return faces.bundle.manifest.config["latent"]


def count_of(number):
    """From 1 to 64, in no order; each once."""
    return number * 37 % CLIENTS + 1


def body_of(number, latent_length):
    count = count_of(number)
    if number % 4 == 1 and count > 1:
        return {"seed": number, "interpolate": {"to_seed": number + 1, "frames": count}, "layout": "array"}
    if number % 4 == 2:
        return {"latents": latents(number, list(range(count)), latent_length).tolist()}
    if number % 4 == 3:
        return {"seed": number, "n": count, "truncation": 0.5, "layout": "grid"}
    return {"seed": number, "n": count}


def request_of(number, faces):
    """What the body becomes; its latents are those of its number as a seed."""
    count = count_of(number)
    fields = {}
    if number % 4 == 1 and count > 1:
        fields = {"to_seed": number + 1, "layout": "array", "output_format": "npy"}
    elif number % 4 == 3:
        fields = {"truncation": 0.5, "layout": "grid"}
    return ImageRequest(target=faces.bundle.target(), seed=number, count=count, **fields)


def test_64_clients_ask_for_1_to_64_pictures_and_each_gets_its_own(shared_product, faces, latent_length):
    bodies = [{"model": "faces", **body_of(number, latent_length)} for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda body: shared_product.post(ROUTE, body), bodies))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        files = [base64.b64decode(picture["b64_json"]) for picture in answer["data"]]
        assert files == faces.pictures(request_of(number, faces)), f"request {number} was changed by its neighbours"
    calls = [shared_product.post(ROUTE, body)[1]["data"] for body in bodies[:8]]
    assert calls == [answer["data"] for _, answer in answers[:8]], "the same request again brings the same bytes"
