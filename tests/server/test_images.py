"""What is asked of a picture model becomes a request in which everything is fixed, or a 400 that says what is right."""

from __future__ import annotations

import base64
import json

import pytest

from contracts.requests import BatchEndpoint
from server.batch_lines import Line
from server.batch_requests import BatchRequests
from server.services import EXTENSION

ROUTE: BatchEndpoint = "/v1/images/generations"
PICTURE = b"not really a PNG"  # what the stand-in draws
LATENTS = [[0.5, -1, 2.5], [0, 0, 0]]  # the model's have three numbers
FRAMES = {"to_seed": 7, "frames": 3}


@pytest.fixture
def admitted(client, worker):
    """The request of a job with these fields."""

    def admit(**fields):
        created = client.post("/v1/jobs", json={"model": "tiny-picture", "input": fields})
        assert created.status_code == 202, created.get_json()
        job_id = worker.take()
        request = worker.request(job_id)
        worker.finish(job_id)
        return request

    return admit


@pytest.fixture
def ask(client, worker):
    def ask(accept=None, **fields):
        with worker.working():
            return client.post(ROUTE, json=fields, headers={"Accept": accept} if accept else {})

    return ask


def test_latents_are_taken_as_they_are_and_need_no_seed(admitted, ask):
    request = admitted(latents=LATENTS)
    assert request.latents == ((0.5, -1, 2.5), (0, 0, 0))
    assert (request.count, request.seed) == (2, 0)
    assert admitted(latents=LATENTS, n=2) == request, "the same request each time"
    body = ask(latents=LATENTS).get_json()
    assert len(body["data"]) == 2
    assert "seed" not in body
    assert "x-kamishibai-seed" not in ask("image/gif", latents=LATENTS).headers


def test_a_line_of_a_batch_takes_what_a_call_takes(app, client):
    """Its own seed is drawn from the batch, which latents have no use for."""
    here = app.extensions[EXTENSION]
    requests = BatchRequests(here.admission, here.jobs)

    def request_of(**body):
        return requests.request(ROUTE, "batch", Line(1, "one", {"model": "tiny-picture", **body}))

    assert request_of(latents=LATENTS).latents == ((0.5, -1, 2.5), (0, 0, 0))
    frames = request_of(interpolate=FRAMES, layout="animation")
    assert (frames.to_seed, frames.count, frames.output_format) == (7, 3, "gif")
    assert frames.seed == request_of().seed


def test_frames_are_pictures_from_one_seed_to_another(admitted, ask):
    request = admitted(seed=3, interpolate=FRAMES, truncation=0.5)
    assert (request.seed, request.to_seed, request.count, request.truncation) == (3, 7, 3, 0.5)
    body = ask(seed=3, interpolate=FRAMES).get_json()
    assert (body["seed"], len(body["data"])) == (3, 3)


@pytest.mark.parametrize(
    ("fields", "layout", "output_format"),
    [
        ({}, "separate", "png"),
        ({"output_format": "png"}, "separate", "png"),
        ({"layout": "grid"}, "grid", "png"),
        ({"layout": "animation"}, "animation", "gif"),
        ({"layout": "animation", "output_format": "webp"}, "animation", "webp"),
        ({"layout": "array"}, "array", "npy"),
        ({"output_format": "gif"}, "animation", "gif"),
        ({"output_format": "webp"}, "animation", "webp"),
        ({"output_format": "npy"}, "array", "npy"),
        ({"layout": None, "output_format": None}, "separate", "png"),
    ],
)
def test_either_of_layout_and_format_is_enough(admitted, ask, fields, layout, output_format):
    request = admitted(n=3, **fields)
    assert (request.layout, request.output_format) == (layout, output_format)
    body = ask(n=3, **fields).get_json()
    assert body["output_format"] == output_format
    assert len(body["data"]) == (3 if layout == "separate" else 1)


@pytest.mark.parametrize(
    ("accept", "fields", "layout"),
    [
        ("image/png", {}, "grid"),
        ("image/gif", {}, "animation"),
        ("image/webp", {"n": 2}, "animation"),
        ("application/x-npy", {"n": 2}, "array"),
        ("image/png", {"layout": "grid", "n": 2}, "grid"),
        ("image/png", {"layout": "separate", "n": 1}, "separate"),
        ("image/gif", {"layout": "animation"}, "animation"),
        ("text/html, image/gif;q=0.9, application/json;q=0.8", {"output_format": "gif"}, "animation"),
    ],
)
def test_one_file_comes_by_itself_to_whoever_accepts_it(client, worker, accept, fields, layout):
    asked = []

    def act(job_id):
        asked.append(worker.request(job_id))
        worker.finish(job_id)

    with worker.working(act):
        response = client.post(ROUTE, json={"seed": 5, **fields}, headers={"Accept": accept})
    assert (response.status_code, response.data) == (200, PICTURE)
    assert response.mimetype in accept
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["x-kamishibai-seed"] == "5"
    assert [request.layout for request in asked] == [layout]


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/json, image/png", "text/html", "image/jpeg", ""]
)
def test_others_get_json(ask, accept):
    body = ask(accept, n=2, layout="grid").get_json()
    assert [base64.b64decode(picture["b64_json"]) for picture in body["data"]] == [PICTURE]


def test_a_file_of_all_pictures_has_a_url_by_its_kind(client, ask):
    for fields, ending, media_type in [
        ({"layout": "grid"}, "png", "image/png"),
        ({"layout": "animation"}, "gif", "image/gif"),
        ({"output_format": "webp"}, "webp", "image/webp"),
        ({"layout": "array"}, "npy", "application/x-npy"),
    ]:
        (picture,) = ask(n=3, response_format="url", **fields).get_json()["data"]
        path = picture["url"].partition("//")[2].partition("/")[2]
        assert f"/0.{ending}?" in path
        response = client.get(f"/{path}")
        assert (response.status_code, response.mimetype, response.data) == (200, media_type, PICTURE)
        assert client.get("/" + path.replace(f".{ending}", ".jpg")).status_code == 403


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 5}, "n", "'n' is 5; ask for at most 4 pictures"),
        ({"latents": []}, "latents", "at least 1 item"),
        ({"latents": [[]]}, "latents", "at least 1 item"),
        ({"latents": [0.5, 1, 2]}, "latents", "'latents.0' is 0.5: input should be a valid list"),
        ({"latents": [[0, 0, 0]] * 5}, "latents", "'latents' has 5; ask for at most 4 pictures"),
        ({"latents": [[0, 0, 0], [0, 0]]}, "latents", "'latents.1' has 2 numbers; tiny-picture draws a picture from 3"),
        ({"latents": [[0, 0, 101]]}, "latents", "'latents.0.2' is 101: input should be less than or equal to 100"),
        ({"latents": [[0, 0, "1"]]}, "latents", "'latents.0.2' is '1': input should be a valid number"),
        ({"latents": [[0, 0, None]]}, "latents", "valid number"),
        ({"latents": [[0] * 5000]}, "latents", "at most 4096 items"),
        ({"latents": LATENTS, "n": 1}, "n", "'n' is 1, but 'latents' asks for 2 pictures; leave n out"),
        ({"latents": LATENTS, "seed": 1}, "seed", "leave it or 'latents' out"),
        ({"latents": LATENTS, "truncation": 0.5}, "truncation", "leave it or 'latents' out"),
        ({"latents": LATENTS, "interpolate": FRAMES}, "interpolate", "leave it or 'latents' out"),
        ({"truncation": 0}, "truncation", "greater than 0"),
        ({"truncation": 1.1}, "truncation", "less than or equal to 1"),
        ({"interpolate": 7}, "interpolate", "'interpolate' is 7"),
        ({"interpolate": {"frames": 3}}, "interpolate", "'interpolate.to_seed' is missing"),
        ({"interpolate": {"to_seed": 7}}, "interpolate", "'interpolate.frames' is missing"),
        ({"interpolate": {"to_seed": -1, "frames": 3}}, "interpolate", "greater than or equal to 0"),
        ({"interpolate": {"to_seed": 7, "frames": 1}}, "interpolate", "greater than or equal to 2"),
        ({"interpolate": {"to_seed": 7, "frames": 5}}, "interpolate.frames", "ask for at most 4 pictures"),
        ({"interpolate": FRAMES, "n": 2}, "n", "'interpolate.frames' asks for 3 pictures; leave n out"),
        ({"output_format": "jpeg"}, "output_format", "'png', 'gif', 'webp' or 'npy'"),
        ({"layout": "row"}, "layout", "'separate', 'grid', 'animation' or 'array'"),
        ({"layout": "grid", "output_format": "gif"}, "output_format", "layout 'grid' is 'png'"),
        ({"layout": "animation", "output_format": "png"}, "output_format", "layout 'animation' is 'gif' or 'webp'"),
        ({"frame_milliseconds": 100}, "frame_milliseconds", "is for layout 'animation'"),
        ({"layout": "animation", "frame_milliseconds": 19}, "frame_milliseconds", "greater than or equal to 20"),
        ({"layout": "animation", "frame_milliseconds": 10_001}, "frame_milliseconds", "less than or equal to 10000"),
    ],
)
def test_what_cannot_be_is_a_400_that_says_what_is_right(client, redis, fields, param, words):
    response = client.post(ROUTE, json=fields)
    error = response.get_json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert not redis.keys("rq:job:*")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_latents_are_finite(client, number):
    response = client.post(ROUTE, data=json.dumps({"latents": [[0, 0, "?"]]}).replace('"?"', number))
    assert response.status_code == 400
    message = response.get_json()["error"]["message"]
    assert "is not a JSON number" in message or "should be a finite number" in message


@pytest.mark.parametrize(
    ("accept", "fields", "words"),
    [
        ("image/gif", {"layout": "grid"}, "'Accept' is image/gif, but layout 'grid' makes image/png"),
        ("image/png", {"layout": "separate", "n": 2}, "layout 'separate' makes 2 files"),
        ("image/webp", {"layout": "animation"}, "makes image/gif"),
    ],
)
def test_a_file_that_the_layout_does_not_make_is_refused(client, accept, fields, words):
    response = client.post(ROUTE, json=fields, headers={"Accept": accept})
    assert response.status_code == 400
    assert words in response.get_json()["error"]["message"]


def test_a_file_of_too_many_pixels_is_refused(monkeypatch, client):
    monkeypatch.setattr("contracts.requests.MAX_FILE_PIXELS", 3 * 8 * 8)
    assert (
        client.post("/v1/jobs", json={"model": "tiny-picture", "input": {"n": 3, "layout": "grid"}}).status_code == 202
    )
    response = client.post(ROUTE, json={"n": 4, "layout": "grid"})
    assert response.status_code == 400
    assert "for 4 pictures of 8x8; ask for at most 3 in one file" in response.get_json()["error"]["message"]


def test_a_model_says_how_long_its_latents_are(client):
    assert client.get("/v1/models/tiny-picture").get_json()["latent_length"] == 3
    assert "latent_length" not in client.get("/v1/models/tiny-text").get_json()
