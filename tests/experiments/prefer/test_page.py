"""The server over real connections, and the page in a real browser."""

import errno
import json
import shutil
from http.client import HTTPConnection
from threading import Thread

import pytest

from statefilm.experiments.prefer import make_server


@pytest.fixture
def port(session):
    with make_server(session) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def call(port):
    """(method, path, body, headers) to (status, headers, content)."""

    def invoke(method, path, body=None, **headers):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.headers), content

    return invoke


@pytest.fixture
def token(call):
    page = call("GET", "/")[2].decode()
    return page.split("/media/")[1].split("/")[0]


def test_the_page_asks_for_nothing_from_elsewhere(call):
    status, headers, content = call("GET", "/")
    assert status == 200 and b"TOKEN" not in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"http://" not in content and b"https://" not in content


def test_media_are_those_of_their_sides(call, token, session):
    for index, pair in enumerate(session.pairs):
        for side in ("left", "right"):
            status, headers, content = call("GET", f"/media/{token}/{index}/{side}")
            assert status == 200 and content == pair.file(side).read_bytes()
            assert headers["Content-Type"] == ("video/mp4" if "mp4" in pair.name else "image/png")


def test_parts_of_media(call, token, session):
    whole = session.pairs[0].file("left").read_bytes()
    status, headers, content = call("GET", f"/media/{token}/0/left", Range="bytes=10-19")
    assert (status, content) == (206, whole[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    assert call("GET", f"/media/{token}/0/left", Range="bytes=10-")[2] == whole[10:]


def test_a_choice_is_recorded_and_answered_with_the_next_pair(call, token, session):
    body = {"token": token, "index": 0, "answer": "right", "seconds": 2.5}
    status, _, content = call("POST", "/choice", body)
    assert status == 200 and json.loads(content)["pair"]["index"] == 1
    choice = session.log.choices[session.pairs[0].name]
    assert (choice.preferred, choice.seconds) == (session.pairs[0].right, 2.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "other"}, "does not come from this run's page"),
        ({"index": 9}, "pair 9 does not exist"),
        ({"index": "0"}, "a choice has index"),
        ({"answer": "both"}, "unknown answer 'both'"),
        ({"seconds": -1}, "seconds"),
    ],
)
def test_bad_choices_are_refused(call, token, session, change, message):
    body = {"token": token, "index": 0, "answer": "left", "seconds": 1, **change}
    status, _, content = call("POST", "/choice", body)
    assert status == 400 and message in json.loads(content)["error"]
    assert not session.log.choices


def test_a_choice_that_the_disk_does_not_take_is_answered_with_a_line(
    call, token, session, monkeypatch
):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session.log, "add", full)
    body = {"token": token, "index": 0, "answer": "left", "seconds": 1}
    status, _, content = call("POST", "/choice", body)
    message = json.loads(content)["error"]
    assert status == 500 and "could not be kept: [Errno 28] No space left" in message
    monkeypatch.undo()
    assert call("POST", "/choice", body)[0] == 200 and len(session.log.choices) == 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/../pyproject.toml", {}, 404),
        ("GET", "/media/wrong/0/left", {}, 404),
        ("GET", "/pair/99", {}, 400),
        ("GET", "/", {"Host": "elsewhere.example:80"}, 403),
        ("POST", "/choice", {"Content_Length": "999999"}, 400),
        ("POST", "/other", {}, 404),
    ],
)
def test_what_is_refused(call, method, path, headers, status):
    body = {} if path == "/other" else None
    assert call(method, path, body, **headers)[0] == status


def test_media_beyond_the_pairs(call, token):
    assert call("GET", f"/media/{token}/99/left")[0] == 404


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, port):
    opened = browser.new_page()
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda one: one.type == "error" and problems.append(one.text))
    opened.goto(f"http://127.0.0.1:{port}/")
    opened.wait_for_selector("#pair:not([hidden]) #left > *")
    yield opened
    opened.close()
    assert not problems


def test_a_sitting_by_keys_clicks_and_a_step_back(page, session):
    def wait(done):
        page.locator("#count", has_text=f"{done} of 5").wait_for()

    assert page.locator("#count").inner_text() == "0 of 5"
    page.keyboard.press("a")
    wait(1)
    page.keyboard.press("ArrowRight")
    wait(2)
    page.get_by_role("button", name="Equal").click()
    wait(3)
    page.keyboard.press("u")
    page.locator("#title", has_text="Once more").wait_for()
    page.locator("#left").click()
    page.locator("#title", has_text="Which").wait_for()
    page.locator("#right").click()
    wait(4)
    page.get_by_role("button", name="Right").click()
    page.wait_for_selector("#result:not([hidden])")

    chosen = [session.log.choices[pair.name].preferred for pair in session.pairs]
    sides = ["left", "right", "left", "right", "right"]
    pairs = zip(session.pairs, sides, strict=True)
    assert chosen == [pair.left if side == "left" else pair.right for pair, side in pairs]
    assert len(session.log.path.read_text().splitlines()) == 1 + 6
    text = page.locator("#result").inner_text()
    assert "red" in text and "blue" in text and "95 %" in text


def test_prompts_are_shown_as_text_and_clips_play(page, session):
    for index in range([pair.name for pair in session.pairs].index("five.mp4")):
        page.keyboard.press("e")
        page.locator("#count", has_text=f"{index + 1} of 5").wait_for()
    assert page.locator("#prompt").inner_text() == "“a <b>clip</b>”"
    assert page.locator("figure video").count() == 2
    page.wait_for_timeout(300)
    videos = "[...document.querySelectorAll('video')].map((one) => [one.paused, one.videoWidth])"
    assert page.evaluate(videos) == [[False, 264]] * 2


def test_pictures_fill_their_frames_and_have_names(page):
    image = page.locator("#left > *").first
    frame = page.locator("#left").bounding_box()
    shown = image.bounding_box()
    assert shown["height"] > 0.8 * frame["height"] and shown["y"] >= frame["y"]
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
    if image.evaluate("node => node.tagName") == "IMG":
        assert image.get_attribute("alt").startswith("Left")
