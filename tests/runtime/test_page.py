"""The live page: its budgets and uploads, and the whole of it in a browser."""

import contextlib
import io
import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from mutualnet_det.runtime import BudgetPredictor, ImageError, Latency, QueryEntry, QueryTable
from mutualnet_det.runtime import page as page_module
from mutualnet_det.runtime.page import PageError, budget_scales, read_upload, served
from mutualnet_det.slimmable import OperatingPoint

MIN_SCORE = 0.2
TIMEOUT = 60_000  # ms


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# Budgets ------------------------------------------------------------------------------------------


def made_table(costs):
    """A table of these (GFLOPs, ms on "board"), with increasing AP."""
    entries = [
        QueryEntry(OperatingPoint(0.5, 32 + i), gflops, {"board": Latency(ms, ms)}, box_ap=1.0 + i)
        for i, (gflops, ms) in enumerate(costs)
    ]
    return QueryTable(tuple(entries), "box_ap", "model", "data")


def test_every_entry_can_be_reached():
    """Also those that cost nearly the same."""
    costs = [
        (0.0123456, 9.0),
        (0.0123567, 11.111111),
        (1.2345678, 11.2),
        (1.24, 1234.5),
        (900, 2e3),
    ]
    table = made_table(costs)
    predictor = SimpleNamespace(table=table, latency_device="board")
    gflops, milliseconds = budget_scales(predictor)
    for scale in (gflops, milliseconds):
        assert len(scale.budgets) == len(scale.labels) < 80
        device = "board" if scale.name == "milliseconds" else None
        reached = {
            table.lookup(**{scale.name: budget}, device=device).point for budget in scale.budgets
        }
        assert reached == {entry.point for entry in table.entries}
        steps = np.diff(np.log(scale.budgets))
        assert (steps > 0).all() and steps.max() < 1.1 * np.ptp(np.log(scale.budgets)) / 59


def test_milliseconds_are_of_this_device_alone():
    predictor = SimpleNamespace(table=made_table([(1, 2), (3, 4)]), latency_device="laptop")
    assert [scale.unit for scale in budget_scales(predictor)] == ["GFLOPs"]


def test_one_entry_still_makes_a_slider():
    predictor = SimpleNamespace(table=made_table([(0.12341, 2)]), latency_device="board")
    for scale, cost in zip(budget_scales(predictor), (0.1235, 2.0), strict=True):
        assert scale.budgets[0] == cost and len(scale.budgets) > 1


# Uploads ------------------------------------------------------------------------------------------


def test_an_upload_is_made_as_small_as_a_screen(tmp_path):
    path = tmp_path / "image.png"
    for size, expected in (
        ((3200, 100), (50, 1600)),
        ((30_000, 1), (1, 1600)),
        ((20, 30), (30, 20)),
    ):
        Image.new("RGB", size, (255, 0, 0)).save(path)
        pixels = read_upload(path)
        assert pixels.shape == (*expected, 3) and (pixels == (255, 0, 0)).all()


def test_bad_uploads_are_refused_without_telling_their_path(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(deep, "png")
    text_bomb, text = io.BytesIO(), PngInfo()
    text.add_text("comment", "0" * 5_000_000, zip=True)
    Image.new("RGB", (4, 5)).save(text_bomb, "png", pnginfo=text)
    for given, message in (
        (content[:5000], "This image cannot be decoded: .*truncated"),
        (deep.getvalue(), "This image has pixels of more than 8 bits"),
        (b"text", "This image cannot be read: it is of no known format"),
        (text_bomb.getvalue(), "This image cannot be read: .*too large"),
        # Pillow would ask Ghostscript to draw it.
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "of no known format",
        ),
    ):
        path.write_bytes(given)
        with pytest.raises(ImageError, match=message) as error:
            read_upload(path)
        assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("limit", [(page_module, "MAX_PIXELS"), (Image, "MAX_IMAGE_PIXELS")])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, limit):
    path = tmp_path / "bomb.png"
    Image.new("1", (300, 300)).save(path)
    monkeypatch.setattr(*limit, 40_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="300 x 300 px; at most|is too large"):
        read_upload(path)


# The server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(model_folder):
    return BudgetPredictor.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="module")
def examples(tiny_shapes):
    return sorted(Path(tiny_shapes[2]).glob("*.jpg"))[:3]


@pytest.fixture(scope="module")
def url(predictor, examples):
    """The address of a page that takes uploads of 0.1 MB."""
    options = {"port": free_port(), "max_upload_mb": 0.1, "min_score": MIN_SCORE}
    with served(predictor, examples, **options) as url:
        yield url


def status(url):
    with contextlib.closing(urllib.request.urlopen(url)) as answer:
        return answer.status


def test_no_file_of_the_server_can_be_read(url, examples, model_folder):
    assert status(url) == 200
    for path in (__file__, Path("setup.py").resolve(), "/etc/hosts", examples[0], model_folder):
        with pytest.raises(urllib.error.HTTPError) as error:
            status(f"{url}gradio_api/file={path}")
        assert error.value.code in (403, 404)


def call_upload(url, path):
    """What the server says of a message of a visitor that names a file; no browser is needed."""
    with urllib.request.urlopen(f"{url}config") as answer:
        config = json.load(answer)
    (file,) = [c["id"] for c in config["components"] if c["type"] == "file"]
    (function,) = [d["id"] for d in config["dependencies"] if [file, "upload"] in d["targets"]]
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0, 0]
    body = json.dumps({"data": data, "fn_index": function, "session_hash": "visitor"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}gradio_api/queue/join", body, headers)
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=visitor") as events:
        for line in events:
            event = json.loads(line.partition(b":")[2]) if line.startswith(b"data:") else {}
            if event.get("msg") == "process_completed":
                return event
    return None


def test_a_large_file_is_refused_while_it_comes_in(url):
    """Whatever the visitor's browser would have said of it."""
    for size, code in ((50_000, 200), (200_000, 413)):
        head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = head + bytes(size) + b"\r\n--edge--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        request = urllib.request.Request(f"{url}gradio_api/upload", body, headers)
        try:
            assert status(request) == code
        except urllib.error.HTTPError as error:
            assert error.code == code


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("http://example.org/image.png", "uploaded, not fetched from an address"),
        (__file__, "not uploaded by a user"),
    ],
)
def test_only_uploads_are_read(url, path, message):
    event = call_upload(url, path)
    assert not event["success"] and message in event["output"]["error"]


def test_a_port_that_is_taken_is_an_error(predictor, url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(PageError, match=rf"at 127\.0\.0\.1:{port}: .*[Cc]hoose another --port"):
        with served(predictor, [], port=port):
            pass
    with pytest.raises(PageError, match=r"at 192\.0\.2\.1:7860: "):
        with served(predictor, [], host="192.0.2.1"):
            pass


def test_serves_on_an_ipv6_address(predictor):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(predictor, [], host="::1", port=free_port()) as url:
        assert url.startswith("http://[::1]:") and status(url) == 200
        with pytest.raises(PageError, match="at ::1:"):
            with served(predictor, [], host="::1", port=int(url.rstrip("/").rpartition(":")[2])):
                pass


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_uploads_without_a_limit_are_refused(predictor, limit):
    with pytest.raises(PageError, match="a positive number of MB, got"):
        with served(predictor, [], port=free_port(), max_upload_mb=limit):
            pass


def test_without_gradio_the_error_says_how_to_get_it(predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PageError, match=r'pip install "mutualnet_det\[serve\]"'):
        with served(predictor, [], port=free_port()):
            pass


def test_an_example_that_cannot_be_used_is_named(predictor, tmp_path):
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(ImageError, match=r"bad\.png cannot be used: This image cannot be"):
        with served(predictor, [tmp_path / "bad.png"], port=free_port()):
            pass


# In a browser -------------------------------------------------------------------------------------


class Visitor:
    """A browser window on the page, and all that goes wrong in it."""

    def __init__(self, browser, url):
        self.context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.window = self.context.new_page()
        self.window.set_default_timeout(TIMEOUT)
        self.complaints, self.requests = [], []
        self.window.on(
            "console", lambda m: self.complaints.append(m.text) if m.type == "error" else None
        )
        self.window.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.window.on("request", lambda request: self.requests.append(request.url))
        self.window.goto(url)
        self.window.wait_for_selector("#answer .tile")

    def press(self, key):
        self.window.locator("#budget input[type=range]").press(key)

    def wait_for_point(self, point):
        """Until the answer tells of the point, as the marked row of the table does."""
        self.window.locator("#answer .tile b", has_text=point).wait_for()
        self.window.locator("#points tr.chosen td", has_text=point).wait_for()

    def wait_for_objects(self, count):
        tile = self.window.locator("#answer .tile").nth(3).locator("b")
        self.window.wait_for_function(
            "([tile, count]) => tile.textContent === count", arg=[tile.element_handle(), str(count)]
        )

    def upload(self, path):
        self.window.set_input_files("#upload input[type=file]", str(path))

    def wait_for_message(self, text):
        toast = self.window.locator(".toast-body", has_text=text)
        toast.wait_for()
        toast.locator(".toast-close").click()


@pytest.fixture
def visitors(browser, url):
    """Makes visitors of the page."""
    made = []

    def visit():
        made.append(Visitor(browser, url))
        return made[-1]

    yield visit
    for visitor in made:
        visitor.context.close()


def count(predictor, pixels, point):
    scores = predictor(Image.fromarray(pixels), point=point).instances.scores
    return int((scores >= MIN_SCORE).sum())


def test_the_page_opens_and_the_slider_goes_through_the_points(visitors, url, predictor, examples):
    visitor = visitors()
    window = visitor.window
    visitor.wait_for_point("1.00x64")
    assert window.inner_text("#shown-budget") == "8 GFLOPs"
    pixels = read_upload(examples[0])
    for key, point, budget in (
        ("Home", "0.25x32", "2 GFLOPs"),
        ("PageUp", "0.25x32", None),
        ("End", "1.00x64", "8 GFLOPs"),
        ("ArrowLeft", "0.50x48", None),
    ):
        visitor.press(key)
        visitor.wait_for_point(point)
        visitor.wait_for_objects(count(predictor, pixels, point))
        if budget is not None:
            assert window.inner_text("#shown-budget") == budget
    assert window.locator("#points tbody tr").count() == 3
    # In milliseconds, where this device is known.
    window.get_by_label("ms", exact=True).check()
    visitor.wait_for_point("1.00x64")
    assert window.inner_text("#shown-budget") == "30 ms"
    visitor.press("Home")
    visitor.wait_for_point("0.25x32")
    assert not visitor.complaints
    assert len(visitor.requests) > 10
    assert [
        other for other in visitor.requests if not other.startswith((url, "data:", "blob:"))
    ] == []


@pytest.mark.slow
def test_examples_and_uploads(visitors, predictor, examples, tmp_path):
    visitor = visitors()
    visitor.window.locator("#examples button").nth(1).click()
    visitor.wait_for_objects(count(predictor, read_upload(examples[1]), "1.00x64"))
    picture = visitor.window.locator("#picture img")
    before = picture.get_attribute("src")
    path = tmp_path / "mine.png"
    Image.open(examples[2]).convert("CMYK").convert("RGB").save(path)
    visitor.upload(path)
    visitor.wait_for_objects(count(predictor, read_upload(path), "1.00x64"))
    assert picture.get_attribute("src") != before
    assert not visitor.complaints


@pytest.mark.slow
def test_bad_uploads_give_a_message_and_leave_the_picture(visitors, predictor, examples, tmp_path):
    visitor = visitors()
    text, fake, bomb, large = (tmp_path / n for n in ("a.txt", "fake.png", "bomb.png", "large.png"))
    text.write_text("text")
    fake.write_text("text")
    Image.new("1", (9000, 9000)).save(bomb)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large)
    before = visitor.window.locator("#picture img").get_attribute("src")
    for path, message in (
        (text, "Invalid file type"),
        (large, "maximum allowed size"),
        (fake, "of no known format"),
        (bomb, "9000 x 9000 px; at most 50 million pixels"),
    ):
        visitor.upload(path)
        visitor.wait_for_message(message)
    visitor.press("Home")
    visitor.wait_for_point("0.25x32")
    visitor.wait_for_objects(count(predictor, read_upload(examples[0]), "0.25x32"))
    assert visitor.window.locator("#picture img").get_attribute("src") != before


@pytest.mark.slow
def test_two_visitors_do_not_disturb_each_other(visitors, predictor, examples):
    points = ("0.25x32", "1.00x64")
    images = [read_upload(path) for path in examples[:2]]
    counts = [[count(predictor, pixels, point) for point in points] for pixels in images]
    assert len({*counts[0], *counts[1]}) == 4  # so that none is taken for another
    one, two = visitors(), visitors()
    two.window.locator("#examples button").nth(1).click()
    two.wait_for_objects(counts[1][1])
    for turn in range(4):
        one.press(("Home", "End")[turn % 2])
        two.press(("End", "Home")[turn % 2])
        one.wait_for_point(points[turn % 2])
        two.wait_for_point(points[1 - turn % 2])
        one.wait_for_objects(counts[0][turn % 2])
        two.wait_for_objects(counts[1][1 - turn % 2])
    assert not one.complaints and not two.complaints
