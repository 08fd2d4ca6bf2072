"""The OpenAPI document and its page: complete, of the types that validate, and true of what is answered."""

from __future__ import annotations

import io
import json
import re
import shlex
from html.parser import HTMLParser
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts import errors
from contracts.bundle import Limits
from contracts.errors import EngineFailed
from contracts.labels import Labels
from contracts.requests import CompletionBody
from contracts.results import Logprobs
from server import answers
from server.docs_page import docs_page
from server.openapi import operations


@pytest.fixture
def document(client):
    return client.get("/openapi.json").get_json()


def rules_of(app):
    return {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def described(document):
    return {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_every_route_is_in_it_and_no_other(app, settings, document):
    assert described(document) == rules_of(app)
    assert set(operations(settings)) == {rule.endpoint for rule in app.url_map.iter_rules()}


def test_every_reference_leads_somewhere(document):
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert set(document["components"]["schemas"]) - names == {"CompletionChunk"}  # named in words, as data of events


def test_every_field_and_limit_of_a_body_is_that_of_the_type_that_validates_it(document):
    fields = document["components"]["schemas"]["CompletionBody"]["properties"]
    assert set(fields) == set(CompletionBody.model_fields)
    assert fields["temperature"]["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 100}, {"type": "null"}]
    assert document["components"]["schemas"]["CompletionBody"]["additionalProperties"] is False


def test_a_field_may_be_null_where_it_may_be_left_out(document):
    for name in ("CompletionBody", "ImageBody"):
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            assert {"type": "null"} in schema.get("anyOf", [schema]), field
            assert schema.get("default", None) is None or "anyOf" in schema


def test_every_error_of_ours_is_the_answer_of_some_route(document):
    told = " ".join(
        answer["description"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for answer in operation["responses"].values()
    )
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.code for kind in classes if issubclass(kind, errors.KamishibaiError)}
    codes -= {errors.JobExpired.code}  # of jobs only: a call has no deadline
    assert [code for code in sorted(codes) if f"`{code}`" not in told] == []


def test_routes_that_need_no_key_say_so(document):
    open_paths = {
        path for path, methods in document["paths"].items() for each in methods.values() if each.get("security") == []
    }
    assert open_paths == {"/healthz", "/readyz", "/v1/images/{job_id}/{file}", "/page/{file}", "/page/vendor/{file}"}
    assert document["security"] == [{"key": []}, {}]


@pytest.mark.parametrize(
    ("answer", "contract"), [(answers.Logprobs, Logprobs), (answers.Limits, Limits), (answers.Labels, Labels)]
)
def test_answers_have_the_fields_of_what_they_are_made_of(answer, contract):
    assert set(get_type_hints(answer)) == set(contract.model_fields)


def test_what_is_answered_is_of_the_type_that_the_document_names(client, worker):
    def check(kind, response):
        assert response.status_code < 300
        TypeAdapter(kind).validate_json(response.data, strict=True, extra="forbid")

    check(answers.ModelList, client.get("/v1/models"))
    check(answers.Model, client.get("/v1/models/tiny-text"))
    check(answers.Health, client.get("/healthz"))
    check(answers.Readiness, client.get("/readyz"))
    check(answers.Index, client.get("/"))
    with worker.working():
        body = {"model": "tiny-text", "prompt": "ab", "echo": True, "logprobs": 1}
        check(answers.Completion, client.post("/v1/completions", json=body))
        check(answers.Images, client.post("/v1/images/generations", json={}))
    created = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}})
    check(answers.Job, created)
    job = f"/v1/jobs/{created.get_json()['id']}"
    check(answers.Job, client.get(job))
    worker.fail(worker.take(), EngineFailed("it broke"))
    check(answers.Job, client.get(job))
    check(answers.Deleted, client.delete(job))
    TypeAdapter(answers.Error).validate_json(client.get(job).data, strict=True, extra="forbid")
    form = {"purpose": "batch", "file": (io.BytesIO(b"{}"), "a.jsonl")}
    uploaded = client.post("/v1/files", data=form)
    check(answers.File, uploaded)
    file = f"/v1/files/{uploaded.get_json()['id']}"
    check(answers.File, client.get(file))
    check(answers.FileList, client.get("/v1/files"))
    asked = {"input_file_id": uploaded.get_json()["id"], "endpoint": "/v1/classify", "completion_window": "24h"}
    made = client.post("/v1/batches", json=asked)
    check(answers.Batch, made)
    batch = f"/v1/batches/{made.get_json()['id']}"
    check(answers.Batch, client.get(batch))
    check(answers.Batch, client.post(f"{batch}/cancel"))
    check(answers.BatchList, client.get("/v1/batches"))
    check(answers.FileDeleted, client.delete(file))


def test_pieces_of_a_stream_are_of_their_type_and_its_ids_of_their_pattern(client, worker, document):
    with worker.working():
        asked = {"prompt": "a", "stream": True, "n": 2, "stream_options": {"include_usage": True}}
        text = client.post("/v1/completions", json=asked).get_data(as_text=True)
    pieces = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    assert len(pieces) == 5
    for piece in pieces:
        TypeAdapter(answers.CompletionChunk).validate_json(piece, strict=True, extra="forbid")
    parameters = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["parameters"]
    (pattern,) = (each["schema"]["pattern"] for each in parameters if each["name"] == "Last-Event-ID")
    ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    assert ids
    assert all(re.fullmatch(pattern, each) for each in ids)


@pytest.mark.parametrize(
    "body", [{"stream": 0}, {"partial_images": False}, {"output_compression": True}], ids=lambda body: next(iter(body))
)
def test_a_truth_is_no_number_and_a_number_no_truth(client, body):
    assert client.post("/v1/images/generations", json=body).status_code == 400


@pytest.mark.parametrize("given", ["x", "1,", "-1", "1" * 10, "1,2,", "٣"])
def test_what_is_no_id_of_an_event_is_refused_for_pictures_too(client, given):
    created = client.post("/v1/jobs", json={"model": "tiny-picture", "input": {}}).get_json()
    response = client.get(
        f"/v1/jobs/{created['id']}/events", headers={"Last-Event-ID": given.encode().decode("latin1")}
    )
    assert response.status_code == 400


@pytest.mark.parametrize("query", ["wait=0&wait=0", "wait=0&wait=x", "wait=&wait=1"])
def test_a_wait_is_given_once(client, query):
    created = client.post("/v1/jobs", json={"model": "tiny-picture", "input": {}}).get_json()
    assert client.get(f"/v1/jobs/{created['id']}?{query}").status_code == 400


def test_an_unforeseen_invalid_value_does_not_show_what_was_sent():
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate({"prompt": ["a", {"a secret": 1}]})
    assert "a secret" not in str(caught.value)


class Page(HTMLParser):
    """What a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src") if name in given]


def test_the_page_names_all_of_it_and_needs_nothing_from_elsewhere(client, document):
    response = client.get("/docs")
    assert response.mimetype == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = response.get_data(as_text=True)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "form"}
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for path, method in described(document):
        assert document["paths"][path][method]["operationId"] in page.ids
    assert set(document["components"]["schemas"]) <= set(page.ids)


def test_the_pages_examples_are_commands_with_bodies_that_validate(client, document):
    text = client.get("/docs", headers={"Host": "localhost:8123"}).get_data(as_text=True)
    commands = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert len(commands) == len(list(described(document)))
    bodies = 0
    for command in commands:
        words = shlex.split(command.replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&"))
        assert words[0] == "curl"
        assert any(word.startswith("http://localhost:8123/") for word in words)
        if "-d" in words:
            bodies += 1
            assert isinstance(json.loads(words[words.index("-d") + 1]), dict)
    assert bodies == 9


def test_nothing_in_the_document_becomes_markup(document):
    document["paths"]["/healthz"]["get"]["summary"] = "<script>alert(1)</script>"
    text = docs_page(document, "http://x/'$(id)'<b>").get_data(as_text=True)
    assert "<script>" not in text
    assert "<b>" not in text
