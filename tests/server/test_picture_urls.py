"""Pictures by URL: signed, good for as long as the job is kept, and for nothing but that picture."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlsplit

import pytest

from contracts import keys
from contracts.api_keys import ApiKeys
from server import access, picture_urls
from server.app import create_app

ROUTE = "/v1/images/generations"
PICTURE = b"not really a PNG"  # what the stand-in draws


@pytest.fixture(autouse=True)
def fresh_secret(monkeypatch):
    """Redis is emptied between tests, and the application is not."""
    monkeypatch.setattr(picture_urls, "CACHE_SECONDS", -1.0)


@pytest.fixture
def draw(client, worker):
    def ask(**fields):
        with worker.working():
            response = client.post(ROUTE, json={"response_format": "url", **fields})
        assert response.status_code == 200, response.get_json()
        return [picture["url"] for picture in response.get_json()["data"]]

    return ask


def path_of(url):
    """What to ask the client for; the URL is absolute."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def error_of(response):
    return response.status_code, response.get_json()["error"]["code"]


def test_a_url_brings_the_picture_as_a_file_that_may_be_kept_until_it_expires(client, settings, draw):
    urls = draw(n=3)
    assert len(set(urls)) == 3
    for index, url in enumerate(urls):
        assert urlsplit(url).path.endswith(f"/{index}.png")
        response = client.get(path_of(url))
        assert (response.status_code, response.mimetype, response.data) == (200, "image/png", PICTURE)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        private, age, immutable = response.headers["Cache-Control"].split(", ")
        assert (private, immutable) == ("private", "immutable")
        assert 0 < int(age.removeprefix("max-age=")) <= settings.job_result_seconds


def test_the_default_is_base64_which_needs_no_second_request(client, worker, redis):
    with worker.working():
        for fields in ({}, {"response_format": "b64_json"}, {"response_format": None}):
            (picture,) = client.post(ROUTE, json=fields).get_json()["data"]
            assert base64.b64decode(picture["b64_json"]) == PICTURE
    assert not redis.exists(keys.URL_SECRET)


def test_a_url_is_of_the_host_that_was_asked(client, worker):
    with worker.working():
        response = client.post(ROUTE, json={"response_format": "url"}, headers={"Host": "localhost:8123"})
    assert response.get_json()["data"][0]["url"].startswith("http://localhost:8123/v1/images/")


def test_every_part_of_a_url_is_signed_and_whatever_is_changed_is_refused(client, draw):
    first, second = map(urlsplit, draw(n=2))
    other = urlsplit(draw()[0])
    good = parse_qs(first.query)
    expires, signature = good["expires"][0], good["signature"][0]
    later = str(int(expires) + 1)
    for path, query in [
        (second.path, first.query),
        (other.path, first.query),
        (first.path.replace("/0.png", "/00.png"), first.query),
        (first.path.replace("/0.png", "/-1.png"), first.query),
        (first.path.replace("/0.png", "/a.png"), first.query),
        (first.path, f"expires={later}&signature={signature}"),
        (first.path, f"expires=&signature={signature}"),
        (first.path, f"signature={signature}"),
        (first.path, f"expires={expires}"),
        (first.path, f"expires={expires}&signature="),
        (first.path, f"expires={expires}&signature={signature[:-1]}"),
        (first.path, f"expires={expires}&signature={signature.upper()}"),
        (first.path, f"expires={expires}&signature={'0' * 64}"),
        (first.path, f"expires={expires}&signature={signature[:-1]}%C3%A9"),
        (first.path, ""),
    ]:
        response = client.get(f"{path}?{query}")
        assert error_of(response) == (403, "forbidden"), (path, query)
        assert "signature" in response.get_json()["error"]["message"]
    assert client.get(f"{first.path}?{first.query}").status_code == 200


def test_a_url_that_has_expired_says_so(settings, worker, eventually, monkeypatch):
    client = create_app(settings.__class__(**vars(settings) | {"job_result_seconds": 1})).test_client()
    with worker.working():
        url = client.post(ROUTE, json={"response_format": "url"}).get_json()["data"][0]["url"]
    eventually(lambda: client.get(path_of(url)).status_code != 200)
    response = client.get(path_of(url))
    assert error_of(response) == (404, "not_found")
    assert "expired" in response.get_json()["error"]["message"]


def test_a_url_needs_no_key_and_opens_nothing_else(settings, worker, redis, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    client = create_app(settings).test_client()
    headers = {"Authorization": f"Bearer {ApiKeys(redis).create('one', 'infer')}"}
    with worker.working():
        response = client.post(ROUTE, json={"response_format": "url"}, headers=headers)
    url = urlsplit(response.get_json()["data"][0]["url"])
    assert client.get(f"{url.path}?{url.query}").data == PICTURE
    job_id = url.path.split("/")[3]
    assert error_of(client.get(f"/v1/jobs/{job_id}?{url.query}")) == (401, "invalid_api_key")
    assert client.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 200


def test_guesses_make_no_secret(client, redis):
    for signature in ("0" * 64, "guess"):
        assert client.get(f"/v1/images/x/0.png?expires=1&signature={signature}").status_code == 403
    assert not redis.exists(keys.URL_SECRET)


def test_all_servers_share_a_secret_of_256_random_bits(client, settings, redis, draw):
    (url,) = draw()
    secret = redis.get(keys.URL_SECRET)
    assert len(secret) == 32
    assert create_app(settings).test_client().get(path_of(url)).data == PICTURE
    draw()
    assert redis.get(keys.URL_SECRET) == secret
    redis.set(keys.URL_SECRET, bytes(32))
    assert client.get(path_of(url)).status_code == 403


def test_a_call_with_urls_keeps_its_job_as_long_as_its_urls(client, worker, redis, settings, draw, eventually):
    (url,) = draw()
    kept = f"rq:job:{urlsplit(url).path.split('/')[3]}"
    assert int(redis.hget(kept, "result_ttl")) == settings.job_result_seconds
    with worker.working():
        client.post(ROUTE, json={})
    (other,) = (key for key in redis.keys("rq:job:*") if key.decode() != kept)
    eventually(lambda: redis.ttl(other) > 0)  # once the later call is forgotten, the earlier would be, too
    assert redis.ttl(kept) == -1  # the stand-in gives no lifetime


def test_a_job_shows_urls_when_it_is_read_and_they_end_with_it(client, worker):
    asked = {"model": "tiny-picture", "input": {"n": 2, "response_format": "url"}}
    job = client.post("/v1/jobs", json=asked).get_json()
    worker.finish(worker.take())
    read = [client.get(f"/v1/jobs/{job['id']}").get_json()["result"]["data"] for _ in range(2)]
    assert read[0] == read[1], "the same URL each time, so that what is kept of it is found"
    paths = [path_of(picture["url"]) for picture in read[0]]
    assert [client.get(path).data for path in paths] == [PICTURE] * 2
    (event,) = (
        line for line in client.get(f"/v1/jobs/{job['id']}/events").text.splitlines() if line.startswith("data: {")
    )
    assert all(path in event for path in paths)
    client.delete(f"/v1/jobs/{job['id']}")
    assert error_of(client.get(paths[0])) == (404, "not_found")


def test_without_redis_a_url_is_answered_503(settings, draw, tmp_path):
    (url,) = draw()
    away = create_app(settings.__class__(**vars(settings) | {"redis_url": f"unix://{tmp_path}/none.sock"}))
    assert error_of(away.test_client().get(path_of(url))) == (503, "queue_unavailable")
