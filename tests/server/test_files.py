"""Files over HTTP: uploaded as they come, kept by owner, listed, read, deleted and forgotten."""

from __future__ import annotations

import io
import json
import re
import resource
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.api_keys import ApiKeys, Scope, key_id
from contracts.errors import StorageFull
from contracts.settings import Settings
from server import access, files
from server.app import create_app
from server.files import FileStore
from server.uploads import MOST_FORM_BYTES
from tests.soak.sampler import memory

CONTENT = b'{"a": "\xc3\xa4"}\n' * 3


@pytest.fixture
def settings(settings, tmp_path):
    return settings.__class__(**vars(settings) | {"files": str(tmp_path / "files"), "max_file_bytes": 300_000})


@pytest.fixture
def app(settings, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    return create_app(settings)


@pytest.fixture
def root(settings):
    return Path(settings.files)


def upload(client, content=CONTENT, name="requests.jsonl", headers=None, **fields):
    form = {"file": (io.BytesIO(content), name), "purpose": "batch", **fields}
    return client.post("/v1/files", data=form, headers=headers)


def shift_clock(monkeypatch, seconds):
    shifted = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: shifted)


def uploaded(client, **options):
    response = upload(client, **options)
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def error_of(response):
    error = response.get_json()["error"]
    return response.status_code, error["code"], error["param"]


def test_a_file_is_kept_listed_read_and_deleted(client, root):
    file = uploaded(client)
    assert re.fullmatch("file-[0-9a-f]{32}", file["id"])
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + 30 * 24 * 3600,
        "filename": "requests.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert abs(file["created_at"] - time.time()) < 60
    assert client.get(f"/v1/files/{file['id']}").get_json() == file
    read = client.get(f"/v1/files/{file['id']}/content")
    assert (read.data, read.content_length, read.mimetype) == (CONTENT, len(CONTENT), "application/octet-stream")
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    deleted = client.delete(f"/v1/files/{file['id']}").get_json()
    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
        assert error_of(client.get(path)) == (404, "not_found", "id")
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_nobody_else_on_the_machine_can_read_files(client, root):
    uploaded(client)
    assert [oct(path.stat().st_mode & 0o077) for path in (root, *root.iterdir())] == ["0o0", "0o0"]


def test_a_list_has_pages_in_both_orders_and_of_one_purpose(client):
    ids = [uploaded(client)["id"] for _ in range(5)]

    def listed(query):
        found = client.get(f"/v1/files?{query}").get_json()
        assert found["object"] == "list"
        listed_ids = [file["id"] for file in found["data"]]
        assert (found["first_id"], found["last_id"]) == (
            (listed_ids[0], listed_ids[-1]) if listed_ids else (None, None)
        )
        return [ids.index(each) for each in listed_ids], found["has_more"]

    assert listed("") == ([4, 3, 2, 1, 0], False)
    assert listed("limit=2") == ([4, 3], True)
    assert listed(f"limit=2&after={ids[3]}") == ([2, 1], True)
    assert listed(f"limit=2&after={ids[1]}") == ([0], False)
    assert listed(f"limit=2&order=asc&after={ids[0]}") == ([1, 2], True)
    assert listed("purpose=batch_output") == ([], False)
    assert listed("purpose=batch&order=asc") == ([0, 1, 2, 3, 4], False)


@pytest.mark.parametrize(
    "query",
    [
        "limit=",
        "order=",
        "purpose=",
        "limit=0",
        "limit=x",
        "limit=10001",
        "limit=1&limit=1",
        "order=up",
        "purpose=fine-tune",
        "limit=٣",
    ],
)
def test_a_query_that_makes_no_sense_is_refused_by_name(client, query):
    assert error_of(client.get(f"/v1/files?{query}")) == (400, "invalid_value", query.split("=")[0])


def test_a_lifetime_may_be_chosen_and_is_kept_to(client, monkeypatch):
    chosen = uploaded(client, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert chosen["expires_at"] == chosen["created_at"] + 3600
    shift_clock(monkeypatch, 3601)
    assert error_of(client.get(f"/v1/files/{chosen['id']}")) == (404, "not_found", "id")
    assert client.get("/v1/files").get_json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"nonsense": "1"}, "nonsense"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after": "3600"}, "expires_after"),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(client, root, fields, param):
    assert error_of(upload(client, **fields))[::2] == (400, param)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_form_without_a_file_with_two_or_of_another_kind_is_refused(client, root):
    assert error_of(client.post("/v1/files", data={"purpose": "batch"})) == (400, "invalid_value", None)
    empty = {"purpose": "batch"}
    boundary = "--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--x--\r\n"
    kind = {"content_type": "multipart/form-data; boundary=x"}
    assert error_of(client.post("/v1/files", data=boundary, **kind)) == (400, "invalid_value", "file")
    two = {**empty, "file": [(io.BytesIO(b"a"), "a"), (io.BytesIO(b"b"), "b")]}
    assert error_of(client.post("/v1/files", data=two)) == (400, "invalid_value", "file")
    other = {**empty, "picture": (io.BytesIO(b"a"), "a")}
    assert error_of(client.post("/v1/files", data=other)) == (400, "invalid_value", "picture")
    assert error_of(client.post("/v1/files", json=empty)) == (400, "invalid_value", None)
    assert error_of(client.post("/v1/files", data=b"--x", **kind)) == (400, "invalid_value", None)
    unbound = {"content_type": "multipart/form-data; boundary="}
    assert error_of(client.post("/v1/files", data=b"--x", **unbound)) == (400, "invalid_value", None)
    words = boundary.replace("name=purpose", "name=file")
    assert error_of(client.post("/v1/files", data=words, **kind))[0] == 400
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def lasting_app(store, redis_url, tmp_path_factory):
    return create_app(Settings(store=store.root, redis_url=redis_url, files=str(tmp_path_factory.mktemp("files"))))


@given(data=st.data())
def test_no_body_makes_the_upload_fail(lasting_app, damaged, data):
    form = b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n"
    form += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + CONTENT + b"\r\n--x--\r\n"
    body = data.draw(damaged(form))
    response = lasting_app.test_client().post("/v1/files", data=body, content_type="multipart/form-data; boundary=x")
    assert response.status_code in (200, 400, 413)


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(client, root, settings):
    largest = uploaded(client, content=b"x" * settings.max_file_bytes)
    assert largest["bytes"] == settings.max_file_bytes
    assert error_of(upload(client, content=b"x" * (settings.max_file_bytes + 1))) == (413, "body_too_large", None)
    over = b"x" * (settings.max_file_bytes + MOST_FORM_BYTES)
    assert error_of(upload(client, content=over)) == (413, "body_too_large", None)
    assert error_of(upload(client, purpose="x" * (MOST_FORM_BYTES + 1))) == (413, "body_too_large", None)
    assert len([path for path in root.rglob("file-*") if path.suffix == ""]) == 1


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\u2028b", "日本.jsonl", "x" * 5000, '"; filename="b'])
def test_a_files_name_is_words_and_leads_nowhere(client, root, name):
    file = uploaded(client, name=name)
    assert len(file["filename"]) <= 255
    assert file["filename"].isprintable()
    assert {path.parent for path in root.rglob("file-*")} == {root / "anyone"}
    with client.get(f"/v1/files/{file['id']}/content") as read:
        assert read.headers["Content-Disposition"] == f'attachment; filename="{file["id"]}.jsonl"'


@pytest.mark.parametrize(
    "given", ["..%2f..%2fetc%2fpasswd", "file-" + "g" * 32, "file-" + "0" * 32, "file-" + "0" * 31, "%00", "*", "file-"]
)
def test_an_id_leads_nowhere(client, given):
    uploaded(client)
    for path in (f"/v1/files/{given}", f"/v1/files/{given}/content"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/v1/files/{given}").status_code == 404


def test_files_of_others_are_answered_exactly_as_unknown_ones_and_stay(client, redis, root):
    scopes: dict[str, Scope] = {"a": "infer", "b": "infer", "c": "admin"}
    keys = {name: ApiKeys(redis).create(name, scope) for name, scope in scopes.items()}
    headers = {name: {"Authorization": f"Bearer {text}"} for name, text in keys.items()}
    file = uploaded(client, headers=headers["a"])
    unknown = "file-" + "0" * 32
    for method, path in (("get", ""), ("get", "/content"), ("delete", "")):
        anothers = getattr(client, method)(f"/v1/files/{file['id']}{path}", headers=headers["b"])
        never = getattr(client, method)(f"/v1/files/{unknown}{path}", headers=headers["b"])
        assert anothers.status_code == 404
        assert anothers.get_data(as_text=True).replace(file["id"], unknown) == never.get_data(as_text=True)
    seen = {name: len(client.get("/v1/files", headers=each).get_json()["data"]) for name, each in headers.items()}
    assert seen == {"a": 1, "b": 0, "c": 1}
    for name in ("a", "c"):
        assert client.get(f"/v1/files/{file['id']}/content", headers=headers[name]).data == CONTENT
    assert [path.name for path in root.iterdir()] == [key_id(keys["a"])]


def test_a_sidecar_that_was_damaged_or_moved_to_another_owner_is_no_file(client, root):
    one, two, three = (uploaded(client)["id"] for _ in range(3))
    (root / "anyone" / f"{one}.json").write_text("{")
    stolen = root / "0123456789ab"
    stolen.mkdir()
    for suffix in ("", ".json"):
        (root / "anyone" / f"{two}{suffix}").rename(stolen / f"{two}{suffix}")
    assert [file["id"] for file in client.get("/v1/files").get_json()["data"]] == [three]


# Keeping order


def keep(store, content=b"a", owner="anyone", **options):
    with store.incoming() as incoming:
        incoming.write(content)
        incoming.finish()
        return store.keep(incoming.path, owner, "name", "batch", **options)


def test_what_expired_and_what_was_left_behind_is_removed(tmp_path, monkeypatch):
    store = FileStore(tmp_path / "files", 3600)
    expired, kept = keep(store, seconds=10), keep(store)
    (tmp_path / "files" / "anyone" / ("file-" + "1" * 32)).write_bytes(b"its sidecar was never written")
    (tmp_path / "files" / ".incoming-x").write_bytes(b"its server was killed")
    store.tidy()
    assert len(list((tmp_path / "files" / "anyone").glob("file-*"))) == 5, "nobody is disturbed at work"
    shift_clock(monkeypatch, 11)
    store.tidy()
    assert not store.path_of(expired).exists()
    assert store.find(kept.id, None) == kept
    monkeypatch.setattr(files, "_ABANDONED_SECONDS", 5.0)
    store.tidy()
    assert {path.name for path in (tmp_path / "files").rglob("*") if path.is_file()} == {kept.id, f"{kept.id}.json"}


def test_keeping_a_content_again_under_its_id_makes_the_same_file(tmp_path):
    store = FileStore(tmp_path, 3600)
    content = tmp_path / "output"
    content.write_bytes(b"abc")
    made = [store.keep(content, "anyone", "name", "batch_output", file_id="file-" + "2" * 32) for _ in range(2)]
    assert made[0].model_copy(update={"created_at": 0, "expires_at": 0}) == made[1].model_copy(
        update={"created_at": 0, "expires_at": 0}
    )
    assert store.path_of(made[1]).read_bytes() == b"abc"
    assert len(store.page(None, limit=9, after=None, newest_first=True, purpose=None).files) == 1


@pytest.fixture
def small_disk():
    """Files of this process cannot grow beyond this many bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def shrink(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield shrink
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("room_bytes", "content"), [(1000, b"x" * 5000), (100, b"x" * 50)])
def test_a_full_disk_is_told_and_leaves_nothing(client, root, small_disk, room_bytes, content):
    """Of the second one the content has room, but not what is said of it."""
    small_disk(room_bytes)
    response = upload(client, content=content)
    small_disk(resource.RLIM_INFINITY)
    assert error_of(response) == (503, "storage_full", None)
    assert response.headers["Retry-After"]
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_write_that_fits_only_in_part_is_told(tmp_path, small_disk):
    small_disk(3)
    with FileStore(tmp_path, 60).incoming() as incoming, pytest.raises(StorageFull):
        incoming.write(b"12345")


# A real server


@pytest.fixture
def large_server(start, tmp_path):
    return start(files=str(tmp_path / "large"), max_file_bytes=200 << 20, slow_client_seconds=1.0)


def send(server, size, pause_seconds=0.0):
    """A raw upload of so many bytes; the answer's status."""
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b"\r\n--x--\r\n"
    length = len(head) + size + len(tail)
    with server.connect() as connection:
        connection.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nContent-Length: {length}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
            + head
        )
        piece, left = b"\r\n-x--" * 20_000, size
        try:
            while left > 0:
                connection.sendall(piece[:left])
                left -= len(piece)
                time.sleep(pause_seconds)
            connection.sendall(tail)
        except OSError:
            pass  # the server has answered already
        return int(connection.recv(65536).split()[1])


def test_tens_of_megabytes_go_through_in_little_memory_and_others_are_served_meanwhile(large_server, worker, read_all):
    (process,) = psutil.Process(large_server.process.pid).children()
    send(large_server, 1 << 20)
    before = memory(process.pid)[0]
    most, slowest, over = before, 0.0, threading.Event()

    def watch():
        nonlocal most, slowest
        while not over.is_set():
            began = time.monotonic()
            large_server.alive()
            slowest = max(slowest, time.monotonic() - began)
            most = max(most, memory(process.pid)[0])

    watching = threading.Thread(target=watch)
    watching.start()
    status = send(large_server, 80 << 20)
    listed = json.loads(read_all(large_server.request("GET", "/v1/files")).partition(b"\r\n\r\n")[2])
    file = max(listed["data"], key=lambda each: each["bytes"])
    received = 0
    with large_server.request("GET", f"/v1/files/{file['id']}/content") as connection:
        while piece := connection.recv(1 << 20):
            received += len(piece)
    over.set()
    watching.join()
    assert status == 200
    assert file["bytes"] == 80 << 20
    assert received > file["bytes"]
    assert most - before < 16 << 20, f"grew by {(most - before) >> 20} MiB"
    assert slowest < 5


def test_an_upload_that_stands_still_is_given_up_and_leaves_nothing(large_server, worker, tmp_path):
    assert send(large_server, 4 << 20, pause_seconds=0.5) == 408
    assert [path for path in (tmp_path / "large").rglob("*") if path.is_file()] == []


def test_an_upload_may_take_its_time_by_its_length(large_server, worker):
    assert send(large_server, 4 << 20, pause_seconds=0.05) == 200, "2 MiB a second, over 2 seconds"


def test_a_client_that_vanishes_leaves_nothing(large_server, worker, tmp_path, eventually):
    with large_server.connect() as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 9999999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
        )
        eventually(lambda: any((tmp_path / "large").glob(".incoming-*")))
    eventually(lambda: not any((tmp_path / "large").glob(".incoming-*")))
    assert list((tmp_path / "large").iterdir()) == []
