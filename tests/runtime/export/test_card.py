"""The card of an export: its numbers are those of the evaluation, its code runs as it stands."""

import dataclasses
import re
import runpy
import shutil

import numpy as np
import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from PIL import Image

from mutualnet_det.runtime import QueryEntry
from mutualnet_det.runtime.export import FORMATS, Agreement, torchscript
from mutualnet_det.runtime.export.card import card
from mutualnet_det.runtime.export.plain import plain_network
from mutualnet_det.slimmable import OperatingPoint

HALF = OperatingPoint(0.5, 48)


@pytest.mark.parametrize("name", FORMATS)
def test_the_code_finds_what_the_source_finds(
    make_model, exported, source_finds, seen, noise, tmp_path, monkeypatch, name
):
    model = make_model()
    folder = tmp_path / "export"
    shutil.copytree(exported(name), folder)
    Image.fromarray(noise[0]).save(folder / "image.png")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    # A JPEG would not decode to the same everywhere.
    (folder / "code.py").write_text(code.replace("image.jpg", "image.png"))
    monkeypatch.chdir(folder)
    variables = runpy.run_path("code.py")
    image, size = seen(model.cfg, "image.png", HALF.resolution)
    (expected,) = source_finds(model, HALF, [image])
    expected = detector_postprocess(expected, *size)
    assert len(expected) > 5
    if name == "detectron2":
        instances = variables["instances"]
        boxes, masks = instances.pred_boxes.tensor, instances.pred_masks
        scores, classes = instances.scores, instances.pred_classes
    else:
        boxes, masks = (
            torch.as_tensor(variables["boxes"]),
            torch.as_tensor(np.stack(variables["masks"])),
        )
        scores, classes = (
            torch.as_tensor(variables["scores"]),
            torch.as_tensor(variables["classes"]),
        )
    # In the same order, as no two scores are that near.
    assert torch.equal(classes, expected.pred_classes)
    tolerance = {"rtol": 0, "atol": 1e-2, "check_dtype": False}
    torch.testing.assert_close(boxes, expected.pred_boxes.tensor, **tolerance)
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-3)
    assert masks.shape == expected.pred_masks.shape
    assert (masks != expected.pred_masks).float().mean() < 1e-3


def make_card(model, point, entry, exported):
    plain = plain_network(model, point)
    form = torchscript.describe(plain, model.cfg, point, exported("torchscript"))
    return card(form, plain, model, point, entry, Agreement(0.83, 100))


def test_numbers_are_those_of_the_evaluation(make_model, exported):
    text = (exported("torchscript") / "README.md").read_text()
    # 0.50x48 is the third of the table's entries.
    for line in (
        r"\| GFLOPs +\| 3\.25 per image",
        r"\| box AP +\| 12\.5 % on tiny_shapes",
        r"\| mask AP +\| 11\.5 % on tiny_shapes",
    ):
        assert re.search(line, text)
    entry = QueryEntry(HALF, gflops=0.5, box_ap=33.3)
    text = make_card(make_model(), HALF, entry, exported)
    assert "33.3 % on tiny_shapes" in text and "0.5 per image" in text and "mask AP" not in text


def test_a_point_that_was_not_evaluated_has_no_numbers(make_model, exported):
    text = make_card(make_model(), OperatingPoint(1.0, 64), None, exported)
    assert "unknown: this operating point was not evaluated" in text and "GFLOPs" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_the_input_contract(exported, name):
    text = " ".join((exported(name) / "README.md").read_text().split())
    for part in (
        "# Operating point 0.50x48",
        "in the order R G B",
        "short side of 48 px, less where the long side would exceed 128 px",
        "mean (123.675, 116.28, 103.53)",
        "deviation (58.395, 57.12, 57.375)",
        "multiples of 32 px",
        "scores above 0.83; an image has at most 100",
        "0 circle, 1 square, 2 triangle",
        f"torch {torch.__version__.split('+')[0]}",
    ):
        assert part in text


def test_classes_that_are_not_known_are_not_invented(make_model, exported):
    model = make_model()
    table = dataclasses.replace(model.table, classes=())
    text = make_card(model._replace(table=table), HALF, None, exported)
    assert "the query table does not name them" in text and "circle" not in text
