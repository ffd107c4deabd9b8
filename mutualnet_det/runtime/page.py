"""A local web page: choose an image, drag a budget, watch what the model then finds."""

# No postponed annotations: Gradio tells by that of an argument that it is to be the event.
import html
import json
import math
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .demo import timed
from .drawing import MIN_SCORE, draw_detections
from .images import ImageError, open_image, rgb_pixels
from .predictor import BudgetPredictor, Prediction
from .query_table import SCORE_LABELS, QueryEntry
from .sources import IMAGE_SUFFIXES

# Budgets from the cheapest point to the dearest, besides those of the points themselves.
STEPS = 60
# As Pillow calls them, by content: it would hand others to programs such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Images of more pixels are refused before they are decoded.
MAX_PIXELS = 50_000_000
# Larger images are made smaller, in px of the long side: no screen shows more, and masks have the
# size of the image.
MAX_SIDE = 1600
THUMBNAIL, FEWEST_COLUMNS = 320, 6
# Of uploads: when they are looked through, and the age at which they are deleted, in s.
CLEAN_UP = (600, 3600)
# Visitors who wait for the model.
MAX_WAITING = 32
# Visits whose image is remembered.
MAX_VISITS = 64
CACHE_VARIABLE = "GRADIO_TEMP_DIR"
SANS, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")

CSS = """
.gradio-container { max-width: 1200px !important; }
#budget input[type=number], #budget .min_value, #budget .max_value,
#budget .tab-like-container { display: none !important; }
#shown-budget, #shown-budget * { font-size: 1.6rem !important; font-weight: 600; line-height: 1.2; }
#answer .tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
#answer .tile { border: 1px solid var(--border-color-primary); border-radius: 8px;
                padding: 8px 12px; }
#answer .tile b { display: block; font-size: 1.25rem; white-space: nowrap; }
#answer .tile span { font-size: .75rem; opacity: .75; }
#points table { width: 100%; border-collapse: collapse; border: 0 !important; margin: 0;
                font-variant-numeric: tabular-nums; font-size: .85rem; }
#points th, #points td { padding: 4px 6px; text-align: right; border: 0; white-space: nowrap;
                         border-bottom: 1px solid var(--border-color-primary); }
#points th:first-child, #points td:first-child { text-align: left; }
#points tr.chosen td { background: #0072b2; color: white; font-weight: 600; }
#points tr, #points thead, #points tbody { border: 0 !important; }
#examples .grid-container {
    grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important;
}
#points p { font-size: .8rem; opacity: .75; margin: 6px 8px; }
"""


class PageError(UserError):
    """A page that cannot be served; the message says why, and what to do."""


@dataclass(frozen=True)
class BudgetScale:
    """
    The scale that the slider goes through.

    Attributes:
        name: the keyword of the predictor, "gflops" or "milliseconds".
        unit: as it is shown.
        budgets: ascending; every entry of the table that the unit can choose is chosen by one.
    """

    name: str
    unit: str
    budgets: tuple[float, ...]

    @property
    def labels(self) -> list[str]:
        """The text that is shown of each budget."""
        return [f"{budget:.4g} {self.unit}" for budget in self.budgets]


def budget_scales(predictor: BudgetPredictor) -> list[BudgetScale]:
    """Scales in GFLOPs, and in milliseconds where the table knows the predictor's device."""
    table, device = predictor.table, predictor.latency_device
    scales = [BudgetScale("gflops", "GFLOPs", _budgets([e.gflops for e in table.by_gflops()]))]
    if device in table.devices:
        costs = [entry.latency[device].p50 for entry in table.by_latency(device)]
        scales.append(BudgetScale("milliseconds", "ms", _budgets(costs)))
    return scales


def _budgets(costs: Sequence[float]) -> tuple[float, ...]:
    """Even steps of the logarithm from the lowest cost to the highest, and each cost itself."""
    # A slider needs two ends, also where there is one point alone.
    steps = np.geomspace(costs[0], max(costs[-1], 2 * costs[0]), STEPS)
    # Rounded up, so that what is shown is enough.
    return tuple(sorted({_rounded_up(float(cost)) for cost in (*steps, *costs)}))


def _rounded_up(number: float) -> float:
    """Round to the four significant digits that are shown."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 3)
    return float(f"{math.ceil(number / unit * (1 - 1e-12)) * unit:.4g}")


def read_upload(path: str | Path) -> np.ndarray:
    """
    An image that a visitor gives, in RGB, (H, W, 3) in uint8, at most MAX_SIDE px long.

    Raises:
        ImageError: for one that cannot be used; the message does not tell where it lies.
    """
    with open_image(path, "This image", FORMATS) as file:
        pixels = rgb_pixels(file, "This image", MAX_PIXELS)
    if max(pixels.shape[:2]) > MAX_SIDE:
        small = Image.fromarray(pixels)
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        pixels = np.asarray(small)
    return pixels


def build_page(
    predictor: BudgetPredictor, examples: Sequence[Path], *, min_score: float = MIN_SCORE
) -> Any:
    """
    The page, as ``gradio.Blocks``.

    The model runs for one visitor after the other, and what one looks at is kept for the visit
    alone, so that visitors do not disturb each other.

    Args:
        examples: images to choose from. The first is shown at once.
        min_score: of the detections to draw.

    Raises:
        ImageError: for an example that cannot be used.
    """
    gr = _gradio()
    scales = budget_scales(predictor)
    example_pixels = [_read_example(path) for path in examples]

    def show(pixels: np.ndarray | None, unit: int, position: float) -> tuple[Any, str, str]:
        """The picture, what is told of it, and the table with the chosen point marked."""
        if pixels is None:
            return None, "", _points(predictor, None)
        scale = scales[unit]
        # A visitor's browser may send anything.
        budget = scale.budgets[min(max(int(position), 0), len(scale.budgets) - 1)]
        prediction, seconds = timed(predictor, pixels, **{scale.name: budget})
        picture = draw_detections(
            pixels, prediction.instances, predictor.table.classes, min_score=min_score
        )
        count = int((prediction.instances.scores >= min_score).sum())
        return (
            picture,
            _answer(predictor, prediction, seconds, count),
            _points(predictor, prediction.entry),
        )

    def choose(chosen: gr.SelectData, unit: int, position: float) -> tuple:
        pixels = example_pixels[chosen.index]
        return pixels, *show(pixels, unit, position)

    def upload(path: str, unit: int, position: float) -> tuple:
        try:
            pixels = read_upload(path)
        except ImageError as error:
            # An error would hide the picture that is there.
            gr.Warning(html.escape(str(error)))
            return (gr.skip(),) * 4
        return pixels, *show(pixels, unit, position)

    def change_unit(pixels: np.ndarray | None, unit: int) -> tuple:
        last = len(scales[unit].budgets) - 1
        slider = gr.Slider(maximum=last, value=last)
        return slider, scales[unit].labels[last], *show(pixels, unit, last)

    with gr.Blocks(
        title="Detections within a budget", analytics_enabled=False, delete_cache=CLEAN_UP
    ) as page:
        pixels = gr.State(example_pixels[0] if examples else None)
        gr.Markdown(
            "# Detections within a budget\n"
            "One set of weights, many operating points: drag the budget, and the best point that "
            "it allows runs on the image."
        )
        with gr.Row():
            with gr.Column(scale=3):
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    format="jpeg",
                    height=480,
                    buttons=["download", "fullscreen"],
                    elem_id="picture",
                )
                answer = gr.HTML(elem_id="answer")
            with gr.Column(scale=2):
                last = len(scales[0].budgets) - 1
                shown = gr.HTML(scales[0].labels[last], elem_id="shown-budget")
                slider = gr.Slider(
                    0,
                    last,
                    last,
                    step=1,
                    label="Budget per image",
                    buttons=[],
                    elem_id="budget",
                )
                unit = gr.Radio(
                    [(scale.unit, index) for index, scale in enumerate(scales)],
                    value=0,
                    label="counted in",
                    visible=len(scales) > 1,
                    elem_id="unit",
                )
                points = gr.HTML(_points(predictor, None), elem_id="points")
        with gr.Row():
            if examples:
                gallery = gr.Gallery(
                    [_thumbnail(example) for example in example_pixels],
                    label="Examples",
                    show_label=False,
                    columns=max(len(examples), FEWEST_COLUMNS),
                    height=130,
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    scale=3,
                    elem_id="examples",
                )
            file = gr.File(
                file_types=list(IMAGE_SUFFIXES),
                label="Or an image of your own",
                height=150,
                scale=2,
                elem_id="upload",
            )
        file.async_move_resource_to_block_cache = _only_uploads(
            file.async_move_resource_to_block_cache
        )

        # The model serves one event at a time: visitors wait for each other outside of what is
        # timed.
        model = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        answers = [picture, answer, points]
        page.load(show, [pixels, unit, slider], answers, show_progress="hidden", **model)
        # While the model is busy only the slider's last position waits.
        slider.change(
            show,
            [pixels, unit, slider],
            answers,
            trigger_mode="always_last",
            show_progress="hidden",
            **model,
        )
        labels = json.dumps([scale.labels for scale in scales])
        slider.change(
            None,
            [unit, slider],
            shown,
            js=f"(unit, position) => {labels}[unit][position] ?? ''",
            api_visibility="private",
        )
        unit.change(
            change_unit, [pixels, unit], [slider, shown, *answers], show_progress="hidden", **model
        )
        if examples:
            gallery.select(choose, [unit, slider], [pixels, *answers], **model)
        file.upload(upload, [file, unit, slider], [pixels, *answers], **model).then(
            lambda: None, None, file, api_visibility="private"
        )
    return page.queue(max_size=MAX_WAITING)


def _read_example(path: Path) -> np.ndarray:
    try:
        return read_upload(path)
    except ImageError as error:
        raise ImageError(f"The example {path} cannot be used: {error}") from error


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _answer(
    predictor: BudgetPredictor, prediction: Prediction, seconds: float, objects: int
) -> str:
    entry = prediction.entry
    tiles = [
        (str(prediction.point), f"{entry.gflops:.3g} GFLOPs"),
        (f"{1e3 * seconds:.3g} ms", "measured now"),
        (f"{predictor.table.ap(entry):.1f}", f"{SCORE_LABELS[predictor.table.metric]} expected"),
        (str(objects), "object found" if objects == 1 else "objects found"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{big}</b><span>{small}</span></div>' for big, small in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _points(predictor: BudgetPredictor, chosen: QueryEntry | None) -> str:
    """The query table, the chosen entry marked."""
    table, device = predictor.table, predictor.latency_device
    columns = {"point": lambda e: str(e.point), "GFLOPs": lambda e: f"{e.gflops:.3g}"}
    if device in table.devices:
        columns["ms"] = lambda e: f"{e.latency[device].p50:.3g}"
    for name, label in SCORE_LABELS.items():
        if all(getattr(entry, name) is not None for entry in table.entries):
            columns[label] = lambda e, name=name: f"{getattr(e, name):.1f}"
    rows = []
    for entry in table.entries:
        mark = ' class="chosen" aria-current="true"' if entry == chosen else ""
        cells = "".join(f"<td>{column(entry)}</td>" for column in columns.values())
        rows.append(f"<tr{mark}>{cells}</tr>")
    header = "".join(f"<th>{label}</th>" for label in columns)
    note = f"AP on {html.escape(table.dataset)}"
    if device in table.devices:
        note += f"; ms of the network alone, on {html.escape(device)}"
    body = f"<thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<table>{body}</table><p>{note}</p>"


def _only_uploads(
    move: Callable[[str | None], Awaitable[str | None]],
) -> Callable[[str | None], Awaitable[str | None]]:
    """Wrap what takes a visitor's file in: nothing is fetched from an address given as a path."""

    async def move_upload(path: str | None) -> str | None:
        if path is not None and "://" in path:
            raise PageError("Files are uploaded, not fetched from an address.")
        return await move(path)

    return move_upload


@contextmanager
def served(
    predictor: BudgetPredictor,
    examples: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_upload_mb: float = 10,
    min_score: float = MIN_SCORE,
) -> Iterator[str]:
    """
    Serve the page as long as the block runs, which is given its address.

    Nothing is asked of other hosts, no file of this machine can be read, and uploads are deleted at
    the end.

    Args:
        predictor, examples, min_score: see :func:`build_page`.
        max_upload_mb: the most that an uploaded file may have, in MiB.

    Raises:
        PageError: for a host and port that cannot be served on, a limit of uploads that is none,
            and without Gradio.
        ImageError: for an example that cannot be used.
    """
    if not 0 < max_upload_mb < math.inf:
        raise PageError(
            f"The limit of uploads must be a positive number of MB, got {max_upload_mb}."
        )
    is_ipv6 = ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PageError(
            f"The page cannot be served at {host}:{port}: {reason}. Choose another --port or "
            "--host."
        ) from error
    gr = _gradio()
    with _private_cache():
        page = build_page(predictor, examples, min_score=min_score)
        _, url, _ = page.launch(
            server_name=f"[{host}]" if is_ipv6 else host,  # as it stands in an address
            server_port=port,
            max_file_size=int(max_upload_mb * 2**20),
            state_session_capacity=MAX_VISITS,
            # Fonts of the visitor's machine.
            theme=gr.themes.Default(primary_hue="blue", font=SANS, font_mono=MONO),
            css=CSS,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


@contextmanager
def _private_cache() -> Iterator[None]:
    """A folder for what Gradio keeps of visitors; it goes with the page."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="mutualnet_det_page_") as cache:
        os.environ[CACHE_VARIABLE] = cache
        try:
            yield
        finally:
            if before is None:
                del os.environ[CACHE_VARIABLE]
            else:
                os.environ[CACHE_VARIABLE] = before


def _gradio() -> ModuleType:
    # Parts of it ask the environment alone.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise PageError(
            'The page needs Gradio: pip install "mutualnet_det[serve]", or in a checkout '
            'pip install -e ".[serve]".'
        ) from error
    return gradio
