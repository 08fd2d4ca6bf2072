"""The page in a real browser against the running product: every tab, what goes wrong, and whether all can use it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from contracts.store import Store
from tests.conftest import write_lstm

AXE = Path(__file__).parent / "axe" / "axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TABS = ("text", "plots", "faces", "genres", "jobs", "dashboard")
MODELS = 6  # of the store
WAIT_MILLISECONDS = 10_000  # the machine may be busy


@pytest.fixture(scope="module")
def root(dump_store, classifiers, tmp_path_factory):
    """A model for each tab."""
    root = shutil.copytree(dump_store.root, tmp_path_factory.mktemp("page") / "store")
    shutil.copytree(classifiers.root / "genres", root / "genres")
    write_lstm(Store(root), "saga", max_tokens=65_536)  # half a minute long: does not end before it is stopped
    add_report(root / "faces" / "1", "losses.png")
    return root


def add_report(bundle, name):
    """As `export` does with what a training has drawn."""
    picture = (Path(__file__).parents[2] / "docs" / "figures" / "shakespeare-loss.png").read_bytes()
    (bundle / name).write_bytes(picture)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(picture).hexdigest(), "bytes": len(picture)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def product(start_shared_product, root):
    return start_shared_product(root, settings={"KAMISHIBAI_MODEL_CONTROL": "on"})


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"none of {', '.join(BROWSERS)} is installed, and CI needs one")
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def context(browser, product):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=product.url)
    context.set_default_timeout(WAIT_MILLISECONDS)
    expect.set_options(timeout=WAIT_MILLISECONDS)
    yield context
    context.close()


@pytest.fixture
def page(context):
    """A new tab. Scripts that fail and what the policy refuses fail the test."""
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    yield page
    assert faults == []


@pytest.fixture
def proxy(product):
    """A way to the server that can be cut."""
    proxy = Proxy(product.port)
    yield proxy
    proxy.cut()


@pytest.fixture
def keys(root, product):
    """Runs `kamishibai keys`; afterwards the server needs none again."""

    def run(*arguments):
        command = [sys.executable, "-P", "-m", "cli.main", "keys", *arguments, "--store", str(root)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KAMISHIBAI_")}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    yield run
    run("off", "--yes")
    wait_until(lambda: product.get("/v1/models")[0] == 200)


class Proxy:
    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(self._target)
                self._ends += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source, target):
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def choose_model(page, name):
    """By its name, in the tab that is open."""
    box = page.locator("section:visible").get_by_label("Model")
    box.first.select_option(name)


def fix_seed(page, seed):
    page.locator("section:visible").get_by_label("Seed").fill(str(seed))


def write(page, *, model="lstm", tokens=40, **settings):
    """Where another tab or nothing is open, that of texts is opened first."""
    if not page.url.endswith("#text"):
        page.goto("/#text")
    choose_model(page, model)
    page.get_by_label("Length, as a number").fill(str(tokens))
    for label, value in settings.items():
        page.get_by_label(label, exact=True).fill(str(value))
    button(page, "Write").click()


def written(page):
    expect(page.locator(".status-line").get_by_text("Done.")).to_be_visible()
    return [each.text_content() for each in page.locator(".card .text").all()]


def call_to_copy(page, language):
    """The program that is shown for the tab that is open."""
    shown = page.locator("section:visible .settings .copy-as")
    if shown.get_attribute("open") is None:
        shown.locator("summary").click()
    return shown.get_by_role("region", name=f"The call for {language}").text_content()


def run_program(language, text, folder):
    command = ["bash", "-c", text] if language == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=folder)
    return done.stdout.decode()  # as it is: read as text, other ends of lines would become newlines


# Text


def test_a_visitor_gets_text_within_one_click_and_the_same_again_by_its_seed(page):
    page.goto("/")
    button(page, "Write").click()
    (first,) = written(page)
    assert first.startswith("In the year")
    assert len(first) > len("In the year") + 20
    (seed,) = re.findall(r"seed (\d+)", page.locator(".status-line").text_content())
    button(page, "Write").click()
    expect(page.locator(".status-line")).not_to_contain_text(f"seed {seed} ")
    assert written(page) != [first]
    fix_seed(page, seed)
    button(page, "Write").click()
    expect(page.locator(".status-line")).to_contain_text(f"seed {seed} ")
    assert written(page) == [first]


def test_texts_stand_side_by_side_and_each_token_tells_how_likely_it_was(page):
    page.goto("/#text")
    page.get_by_label("Texts, as a number").fill("3")
    write(page)
    texts = written(page)
    assert len(set(texts)) == 3
    card = page.get_by_role("article", name="Text 2")
    card.locator(".token").nth(4).hover()
    expect(card.locator(".token-line")).to_contain_text(re.compile(r"\d %.*instead of"))
    before = card.locator(".token-line").text_content()
    card.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    expect(card.locator(".token.chosen")).to_have_attribute("data-place", "5")
    assert card.locator(".token-line").text_content() != before


def test_stop_cancels_the_job_and_keeps_what_was_written(page, product):
    cancelled = r'kamishibai_jobs_total\{.*outcome="cancelled"'
    before = product.metric(cancelled)
    page.goto("/#text")
    write(page, model="saga", tokens=65_536)
    text = page.locator(".card .text").first
    expect(text).to_have_text(re.compile(".{30}", re.DOTALL))
    button(page, "Stop").click()
    expect(page.locator(".status-line")).to_contain_text("Stopped.")
    assert 30 <= len(text.text_content()) < 65_536
    wait_until(lambda: product.metric(cancelled) > before)
    expect(button(page, "Write")).to_be_enabled()


def test_every_setting_is_in_the_call_and_what_is_wrong_is_said(page):
    page.goto("/#text")
    for title in ("Choosing tokens", "Where a text ends", "Beam search", "What comes back"):
        page.locator("summary", has_text=title).click()
    page.get_by_label("Biases").fill("forty: 2")
    expect(page.get_by_text("is no token id")).to_be_visible()
    button(page, "Write").click()
    expect(page.locator(".status-line")).to_contain_text("Nothing written yet.")
    page.get_by_label("Biases").fill("4: -100\n5: 2.5")
    page.get_by_label("Stop at", exact=True).fill("the end\nthat is all")
    page.get_by_label("Stop at tokens").fill("3, 7")
    page.get_by_label("Shortest").fill("2")
    page.get_by_label("Lengths count").select_option("prompt and text together")
    page.get_by_label("Search ends").select_option("when there are enough texts")
    for label, value in (("Beams", 2), ("Min p", 0.1), ("Presence penalty", -1), ("Token probabilities", -1)):
        page.get_by_label(f"{label}, as a number").fill(str(value))
        (sent,) = re.findall(r"-d '(.*)'", call_to_copy(page, "curl"), re.DOTALL)
    body = json.loads(sent)
    del body["seed"], body["model"]
    assert body == {
        "prompt": "In the year", "max_length": 120, "min_length": 2, "temperature": 0.8, "min_p": 0.1,
        "presence_penalty": -1, "logit_bias": {"4": -100, "5": 2.5}, "stop": ["the end", "that is all"],
        "stop_token_ids": [3, 7], "num_beams": 2, "early_stopping": True, "stream": True,
    }  # fmt: skip
    button(page, "Write").click()
    assert len(written(page)) == 1
    page.get_by_label("Presence penalty, as a number").fill("7")
    button(page, "Write").click()
    expect(page.get_by_role("alert")).to_contain_text("'presence_penalty' is 7")


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_call_to_copy_does_what_the_page_did(page, language, tmp_path):
    page.goto("/#text")
    page.get_by_label("Prompt", exact=True).fill('it\'s "a" $HOME \\ ü')
    write(page, model="gpt2")
    (text,) = written(page)
    output = run_program(language, call_to_copy(page, language), tmp_path)
    if language == "curl":
        events = [json.loads(line[6:]) for line in output.split("\n") if line.startswith("data: {")]
        output = "".join(choice["text"] for event in events for choice in event["choices"])
    assert text.removeprefix('it\'s "a" $HOME \\ ü') == output


def test_markup_that_a_model_writes_is_shown_as_text(page):
    markup = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.goto("/#text")
    page.get_by_label("Prompt", exact=True).fill(markup)
    page.locator("summary", has_text="What comes back").click()
    page.get_by_label("Begin with the prompt").check()
    write(page, model="gpt2", tokens=5)
    (text,) = written(page)
    assert text.startswith(markup)
    assert page.locator("main img, main script").count() == 0


# Plots, faces, genres


def test_a_plot_comes_with_its_parts(page, tmp_path):
    page.goto("/#plots")
    page.get_by_label("Genre").fill("a pilot")
    page.get_by_label("Title").fill("the sea")
    page.get_by_label("Beginning of the plot").fill("in love")
    page.get_by_label("End with a full sentence").uncheck()
    button(page, "Tell it").click()
    expect(page.locator("section:visible .status-line")).to_contain_text("Done.")
    genre, title, plot = page.locator(".plot dd").all_text_contents()
    assert (genre, title) == ("a pilot", "the sea")
    assert plot.startswith("in love")
    answer = json.loads(run_program("curl", call_to_copy(page, "curl"), tmp_path))
    assert answer["choices"][0]["fields"]["plot"].strip() == plot


def test_faces_are_drawn_again_by_their_seeds_and_lead_from_one_to_another(page, tmp_path):
    page.goto("/#faces")
    page.get_by_label("Faces, as a number").fill("7")
    fix_seed(page, 40)
    button(page, "Draw").click()
    expect(page.get_by_text("Choose two faces")).to_be_visible()
    faces = page.locator("button.face")
    assert faces.locator(".seed-of-face").all_text_contents() == [str(seed) for seed in range(40, 47)]
    run_program("curl", call_to_copy(page, "curl"), tmp_path)
    drawn = faces.nth(2).locator("img").get_attribute("src")
    assert drawn == f"data:image/png;base64,{as_base64(tmp_path / 'face-42.png')}"
    faces.nth(2).click()
    faces.nth(5).click()
    page.get_by_label("Pictures, as a number").fill("5")
    button(page, "Go").click()
    film = page.get_by_label("Picture of the way")
    expect(page.get_by_alt_text("From face 42 to face 45")).to_be_visible()
    film.fill("0")
    assert page.locator(".way img").get_attribute("src") == drawn
    expect(button(page, "Play")).to_be_visible()
    with page.expect_download() as download:
        button(page, "Download GIF").click()
    assert Path(download.value.path()).read_bytes().startswith(b"GIF89a")


def test_who_asked_for_less_motion_sees_a_film_only_when_playing_it(page):
    page.emulate_media(reduced_motion="reduce")
    page.goto("/#faces")
    button(page, "Draw").click()
    expect(page.get_by_text("Choose two faces")).to_be_visible()
    page.locator("button.face").nth(0).click()
    page.locator("button.face").nth(1).click()
    button(page, "Go").click()
    expect(button(page, "Play")).to_be_visible()
    assert page.get_by_label("Picture of the way").input_value() == "0"


def test_genres_of_several_texts_have_bars_and_thresholds(page, tmp_path):
    page.goto("/#genres")
    page.get_by_label("Text 1", exact=True).fill("a pilot in love")
    button(page, "Add a text").click()
    page.get_by_label("Text 3", exact=True).fill("the quick brown fox")
    button(page, "Find genres").click()
    found = page.locator(".labelled")
    expect(found).to_have_count(3)
    assert found.nth(2).locator("blockquote").text_content() == "the quick brown fox"
    answer = json.loads(run_program("curl", call_to_copy(page, "curl"), tmp_path))
    for place, expected in enumerate(answer["data"]):
        shares = found.nth(place).locator(".share").all_text_contents()
        assert [share.split(" ")[0] for share in shares] == [
            f"{100 * each['score']:.0f}" for each in expected["scores"]
        ]
        assert found.nth(place).locator(".name.applies").count() == len(expected["labels"])
    assert found.nth(0).locator(".threshold").first.evaluate("(mark) => mark.style.left") == "50%"
    page.get_by_label("A threshold of my own").check()
    page.get_by_label("Threshold, as a number").fill("0")
    button(page, "Find genres").click()
    expect(found.nth(0).locator(".name.applies")).to_have_count(5)


def test_a_tab_without_a_model_says_how_to_get_one(page, product):
    product.post("/v1/models/genres/unload", {})
    wait_until(lambda: "genres" not in [model["id"] for model in product.get("/v1/models")[1]["data"]])
    try:
        page.goto("/#genres")
        expect(page.get_by_text("kamishibai train genres")).to_be_visible()
    finally:
        product.post("/v1/models/genres/load", {})
    wait_until(lambda: "genres" in [model["id"] for model in product.get("/v1/models")[1]["data"]])


# Jobs and batches


def submit(page, model, body):
    page.goto("/#jobs")
    choose_model(page, model)
    page.get_by_label("Input", exact=True).fill(body if isinstance(body, str) else json.dumps(body))
    button(page, "Submit").click()


def test_a_job_is_watched_and_its_result_opened_and_forgotten(page):
    submit(page, "faces", "{no JSON")
    expect(page.get_by_text("This is no JSON")).to_be_visible()
    submit(page, "faces", {"n": 0})
    expect(page.get_by_role("alert")).to_contain_text("'n' is 0")
    submit(page, "faces", {"n": 3, "seed": 2**60})
    panel = page.locator(".result")
    expect(panel).to_contain_text("Succeeded")
    expect(panel).to_contain_text(f"Seed {2**60}")
    expect(panel.locator(".pictures img")).to_have_count(3)
    with page.expect_download() as download:
        button(page, "Download").click()
    assert len(json.loads(Path(download.value.path()).read_text())["data"]) == 3
    button(page, "Forget it").click()
    expect(panel).to_have_count(0)


def test_a_job_that_runs_shows_its_text_and_can_be_cancelled(page):
    submit(page, "lstm", {"prompt": "A", "max_tokens": 4096, "stream": True, "n": 8})
    expect(page.locator(".result .text").first).to_have_text(re.compile(".{20}", re.DOTALL))
    button(page, "Cancel").click()
    expect(page.locator(".result")).to_contain_text("Cancelled")
    expect(page.locator("td .status").first).to_have_text("cancelled")


LINES = [
    {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": {"model": "lstm", "prompt": "A"}}
    for number in range(5)
]
DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(".drop").dispatchEvent(drop);
}"""


def test_a_batch_is_taken_by_dropping_or_choosing_it_run_and_its_answers_kept(page, tmp_path):
    text = "\n".join(map(json.dumps, LINES))
    page.goto("/#jobs")
    page.locator(".drop").wait_for()
    page.evaluate(DROP, ["dropped.jsonl", text])
    expect(page.get_by_text("dropped.jsonl is on its way.")).to_be_visible()
    (tmp_path / "chosen.jsonl").write_text(text)
    page.locator("input[type=file]").set_input_files(tmp_path / "chosen.jsonl")
    expect(page.get_by_text("chosen.jsonl is on its way.")).to_be_visible()
    for place in (1, 0):
        expect(page.locator(".batch").nth(place)).to_contain_text("5 of 5 done")
        expect(page.locator(".batch .status").nth(place)).to_have_text("completed")
    with page.expect_download() as download:
        page.locator(".batch").first.get_by_role("button", name="Download answers").click()
    answers = map(json.loads, Path(download.value.path()).read_text().splitlines())
    assert {answer["custom_id"] for answer in answers} == {line["custom_id"] for line in LINES}


def test_a_file_that_is_no_batch_is_refused_with_the_reason(page):
    page.goto("/#jobs")
    page.locator(".drop").wait_for()
    page.evaluate(DROP, ["story.txt", "Once upon a time"])
    expect(page.get_by_role("alert")).to_contain_text("The first line is no JSON")
    doubled = "\n".join(json.dumps(LINES[0]) for _ in range(2))
    page.evaluate(DROP, ["doubled.jsonl", doubled])
    expect(page.locator(".batch").first).to_contain_text("Line 2")


# Dashboard


def test_the_dashboard_shows_what_the_server_does_and_an_operator_controls_it(page, product):
    page.goto("/#dashboard")
    expect(page.locator(".tile").first).to_contain_text("1 of 1")
    expect(page.locator("canvas")).to_have_count(8)
    product.post("/v1/completions", {"model": "lstm", "prompt": "A", "max_tokens": 2000})
    expect(page.get_by_label("Tokens per second", exact=True)).to_contain_text(re.compile("tokens: [1-9]"))
    for about in ("Batch size", "Time to first token", "Time between tokens"):
        expect(page.get_by_label(about, exact=True)).to_contain_text(re.compile(r": [\d.]+"))
    models = page.get_by_role("region", name="Models")
    product.post("/v1/classify", {"model": "genres", "input": ["a", "b"]})
    genres = models.get_by_role("row").filter(has_text="genres").get_by_role("cell")
    expect(genres.nth(6)).to_have_text(re.compile("[1-9]"))
    assert genres.nth(7).text_content() == "0", "failed or cancelled"
    assert models.locator("tbody tr").count() == MODELS
    expect(models.locator("tbody")).to_contain_text("pytorch:fp32cpu")
    models.get_by_role("button", name="Reload faces").click()
    expect(models).to_contain_text("Workers do it within seconds.")
    workers = page.get_by_role("region", name="Workers")
    workers.get_by_role("button", name=re.compile("Drain")).click()
    resume = workers.get_by_role("button", name=re.compile("Resume"))
    expect(resume).to_be_visible()
    resume.click()
    expect(workers.get_by_role("button", name=re.compile("Drain"))).to_be_visible()
    wait_until(lambda: product.get("/readyz")[0] == 200 and len(product.get("/v1/models")[1]["data"]) == MODELS)


def test_the_pictures_of_a_training_can_be_looked_at(page):
    page.goto("/#dashboard")
    button(page, "losses.png").click()
    picture = page.get_by_alt_text("losses.png of the training of faces")
    expect(picture).to_be_visible()
    assert picture.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 100
    page.keyboard.press("Escape")
    expect(picture).to_have_count(0)


# Keys, and what goes wrong


def enter_key(page, key):
    page.get_by_label("API key", exact=True).fill(key)
    button(page, "Use this key").click()


def test_a_key_is_asked_for_kept_for_the_tab_and_in_no_call_to_copy(page, context, keys, product):
    key = keys("create", "visitor")
    wait_until(lambda: product.get("/v1/models")[0] == 401)
    page.goto("/")
    enter_key(page, "kmb_wrong")
    expect(page.get_by_text("The server does not know this key")).to_be_visible()
    enter_key(page, key)
    write(page)
    written(page)
    assert "$KAMISHIBAI_KEY" in call_to_copy(page, "curl")
    assert key not in page.content()
    page.reload()
    expect(button(page, "Write")).to_be_visible()
    other = context.new_page()
    other.goto("/")
    expect(other.get_by_label("API key", exact=True)).to_be_visible()
    page.goto("/#dashboard")
    expect(page.get_by_role("alert")).to_contain_text("--scope admin")
    keys("revoke", "visitor")
    page.goto("/#text")
    wait_until(lambda: fetch_status(page, key) == 401)
    button(page, "Write").click()
    expect(page.get_by_text("it was revoked")).to_be_visible()
    button(page, "Not now").click()
    expect(page.get_by_role("alert")).to_contain_text("revoked")


def fetch_status(page, key):
    return page.evaluate(
        "(key) => fetch('/v1/models', {headers: {Authorization: `Bearer ${key}`}}).then((answer) => answer.status)", key
    )


def test_who_asks_too_much_is_told_when_to_try_again(page, keys, product):
    key = keys("create", "hasty", "--jobs-per-minute", "1")
    wait_until(lambda: product.get("/v1/models")[0] == 401)
    page.goto("/")
    enter_key(page, key)
    write(page)
    written(page)
    button(page, "Write").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(re.compile("Try again in [0-9]+ s"))
    expect(button(page, "Write")).to_be_enabled()


def test_a_server_that_goes_away_midway_leaves_what_was_written_and_the_way_back(page, proxy):
    page.goto(f"{proxy.url}/#text")
    choose_model(page, "lstm")
    page.get_by_label("Length, as a number").fill("4096")
    button(page, "Write").click()
    expect(page.locator(".card .text")).to_have_text(re.compile(".{40}", re.DOTALL))
    proxy.cut()
    expect(page.get_by_role("alert")).to_contain_text("Is it still running?")
    assert len(page.locator(".card .text").text_content()) >= 40
    button(page, "Write").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.get_by_role("link", name="Genres").click()
    expect(page.locator("section:visible").get_by_role("alert")).to_contain_text("could not be loaded")


# For everybody


def act_on(page, tab):
    """Fill a tab with what it can show."""
    page.goto(f"/#{tab}")
    if tab == "text":
        button(page, "Write").click()
        written(page)
    elif tab == "plots":
        button(page, "Tell it").click()
        expect(page.locator("section:visible .status-line")).to_contain_text("Done.")
    elif tab == "faces":
        button(page, "Draw").click()
        expect(page.get_by_text("Choose two faces")).to_be_visible()
        page.locator("button.face").nth(0).click()
        page.locator("button.face").nth(1).click()
    elif tab == "genres":
        button(page, "Find genres").click()
        expect(page.locator(".bars")).to_have_count(2)
    elif tab == "jobs":
        button(page, "Submit").click()
        expect(page.locator(".result")).to_contain_text("Succeeded")
    else:
        expect(page.locator("canvas")).to_have_count(8)
    page.evaluate("document.querySelectorAll('section:not([hidden]) details').forEach((each) => (each.open = true))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab_and_nothing_is_wider_than_a_phone_or_a_screen(page, scheme):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for tab in TABS:
        act_on(page, tab)
        page.evaluate(AXE.read_text())
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            found = page.evaluate("axe.run().then(({ violations }) => violations)")
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            told = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in serious]
            assert not serious, (tab, width, told)


def test_a_keyboard_is_enough(page):
    page.goto("/")
    expect(button(page, "Write")).to_be_visible()
    focused = "document.activeElement.textContent.trim()"
    for name in ("To the content", "Write"):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == name:
                break
        assert page.evaluate(focused) == name
        page.keyboard.press("Enter")
    assert len(written(page)[0]) > 20
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".status-line")).to_contain_text("Writing…")
    page.locator("header a", has_text="Jobs").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="A new job")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_text_streams(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/#text")
    page.get_by_label("Texts, as a number").fill("2")
    page.evaluate("""() => {
      window.moved = [];
      // A word that grows beyond the end of its line goes to the next one: that is what text does.
      const isWritten = ({ node }) => node?.parentElement?.closest(".text");
      const nameOf = ({ node }) => (node?.outerHTML ?? node?.textContent ?? "gone").slice(0, 80);
      const note = ({ sources }) => window.moved.push(...sources.filter((each) => !isWritten(each)).map(nameOf));
      const observer = new PerformanceObserver((list) => list.getEntries().forEach(note));
      observer.observe({ type: "layout-shift", buffered: false });
    }""")
    write(page, tokens=600)
    written(page)
    assert page.evaluate("window.moved") == []


def test_the_theme_can_be_chosen_and_is_kept(page):
    page.emulate_media(color_scheme="light")
    page.goto("/")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button(page, "Theme: auto").click()
    button(page, "Theme: light").click()
    expect(button(page, "Theme: dark")).to_be_visible()
    assert page.evaluate(paper) != light
    page.reload()
    expect(button(page, "Theme: dark")).to_be_visible()
    assert page.evaluate(paper) != light


def as_base64(path):
    return base64.b64encode(path.read_bytes()).decode()
