"""The page: everything of the results is on it, nothing is loaded, nothing is markup by chance."""

import base64
import io
import re
from html.parser import HTMLParser

import torch
from PIL import Image

from statefilm.evaluation.world import Metric, Results, write_page
from statefilm.evaluation.world.results import Sample

METRIC = Metric(0.5, 0.4, 0.6, 100, 0.1)


class Tags(HTMLParser):
    """The tags of a page that are open at its end, and all addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def results():
    clip = torch.arange(3 * 3 * 8 * 8).remainder(256).to(torch.uint8).view(3, 3, 8, 8)
    bad = 'a <script>alert("x")</script> & a circle'
    return Results(
        {"colors.strict": METRIC, "colors.strict.seen": METRIC, "total_score": METRIC},
        {"colors.strict": 1.0},
        {
            "colors.best": [Sample(bad, clip[0], clip[:1], 1.0, 0.75, 7)],
            "clips.worst": [Sample("moves", clip[0], clip, 0.0, 0.25, 8)],
            "old": [Sample("a strip", clip[0])],
            "none": [],
        },
        {"run": {"model": "</pre><b>"}},
    )


def test_the_page_is_whole_and_self_contained(tmp_path):
    path = write_page(results(), tmp_path / "deep", "A & B")
    text = path.read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert path.name == "index.html" and tags.open == []
    assert len(tags.addresses) == 3
    assert all(one.startswith("data:image/webp;base64,") for one in tags.addresses)
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text and "&lt;script&gt;" in text and "</pre><b>" not in text
    assert "<title>A &amp; B</title>" in text


def test_figures_and_samples_are_on_it(tmp_path):
    text = write_page(results(), tmp_path).read_text("utf-8")
    assert "0.400 to 0.600" in text and "<td>1.000</td>" in text
    assert "strict 1.00, soft 0.75, seed 7" in text
    assert "<h2>none</h2>" not in text
    frames = []
    for data in re.findall('base64,([^"]+)', text):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            frames.append(getattr(image, "n_frames", 1))
    assert frames == [1, 3, 1]
