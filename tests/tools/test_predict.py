"""tools/predict.py: COCO results of a folder and of a list without a ground truth; resume."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from mutualnet_det import BudgetPredictor
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.errors import UserError
from mutualnet_det.evaluation import predictions
from mutualnet_det.evaluation.progress import ProgressError
from mutualnet_det.runtime import BudgetError
from tools import predict as tool


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    """Runs the tool on the CPU; gives the content of its two files, and what it prints."""
    output = tmp_path / "out"

    def run(*arguments, budget=("--point", "0.5x48")):
        arguments = [model_folder, *arguments, *budget, "--output", output, "--device", "cpu"]
        tool.main(tool.parse_args(list(map(str, arguments))))
        names = predictions.PREDICTIONS, predictions.IMAGES
        assert sorted(path.name for path in output.iterdir()) == sorted(names)
        return [json.loads((output / name).read_text()) for name in names], capsys.readouterr().out

    run.output = output
    return run


@pytest.fixture
def images(tmp_path):
    """Four images in a folder, the second of them truncated."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (60, 80 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    second = folder / "1.png"
    second.write_bytes(second.read_bytes()[:2000])
    return folder


@pytest.fixture
def listed(tmp_path, images):
    """Writes a COCO-format list of the images, without annotations."""

    def write(**sections):
        records = [{"id": 10 * n, "file_name": f"{n}.png", "licence": 1} for n in (3, 0)]
        path = tmp_path / "list.json"
        path.write_text(json.dumps({"images": records, **sections}))
        return path

    return write


def test_a_folder(run, images, model_folder):
    (found, written), text = run(images)
    assert [image["file_name"] for image in written["images"]] == ["0.png", "2.png", "3.png"]
    assert [image["id"] for image in written["images"]] == [1, 3, 4]
    assert written["images"][1] == {"id": 3, "file_name": "2.png", "height": 60, "width": 82}
    (unusable,) = written["unusable"]
    assert unusable["id"] == 2 and "cannot be decoded" in unusable["error"]
    assert [c["name"] for c in written["categories"]] == ["circle", "square", "triangle"]
    assert re.search(rf"{len(found)} detections on 4 images at 0.50x48.*\. 1 could not be", text)

    predictor = BudgetPredictor.from_pretrained(model_folder, "cpu")
    expected = predictor(images / "2.png", point="0.5x48").instances
    of_third = [one for one in found if one["image_id"] == 3]
    assert len(of_third) == len(expected) > 0
    for index, one in enumerate(of_third):
        assert one["category_id"] == int(expected.pred_classes[index]) + 1
        assert one["score"] == pytest.approx(float(expected.scores[index]))
        mask = mask_util.decode(one["segmentation"])
        assert np.array_equal(mask, expected.pred_masks[index].numpy())


def test_a_list_says_ids_of_images_and_categories(run, images, listed):
    categories = [{"id": 7, "name": n} for n in ("triangle",)]
    categories += [{"id": 5, "name": "circle"}, {"id": 9, "name": "square"}, {"id": 1, "name": "x"}]
    (found, written), _ = run(images, "--json", listed(categories=categories))
    assert written["images"][0] == {
        "id": 30,
        "file_name": "3.png",
        "licence": 1,
        "height": 60,
        "width": 83,
    }
    assert written["categories"] == categories
    assert [image["id"] for image in written["images"]] == [30, 0]
    assert {one["image_id"] for one in found} == {30, 0}
    assert found[0]["image_id"] == 30  # in the list's order
    assert {one["category_id"] for one in found} <= {5, 7, 9}
    (plain, written), _ = run(images, "--json", listed())
    assert [c["id"] for c in written["categories"]] == [1, 2, 3]
    ids = {1: 5, 2: 9, 3: 7}
    assert [ids[one["category_id"]] for one in plain] == [one["category_id"] for one in found]


def test_a_kill_and_a_resume_change_nothing(run, images, monkeypatch):
    whole, _ = run(images)
    before = (run.output / predictions.PREDICTIONS).read_bytes()
    predicted = predictions._predicted
    seen = []

    def interrupted(predictor, path, *others):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(path.name)
        return predicted(predictor, path, *others)

    monkeypatch.setattr(predictions, "_predicted", interrupted)
    monkeypatch.setattr(predictions.ProgressLog, "is_due", lambda log: len(seen) == 2)
    with pytest.raises(KeyboardInterrupt):
        run(images)
    assert not (run.output / predictions.IMAGES).exists()
    seen.clear()
    assert run(images, "--resume")[0] == whole
    assert seen == ["2.png", "3.png"]  # what was committed is not done again
    assert (run.output / predictions.PREDICTIONS).read_bytes() == before
    seen.clear()
    again, text = run(images, "--resume")
    assert again == whole and seen == [] and "detections on 4 images" in text
    with pytest.raises(ProgressError, match="point: there 0.50x48, here 0.25x32"):
        run(images, "--resume", budget=("--point", "0.25x32"))
    monkeypatch.undo()
    assert run(images, budget=("--gflops", "2"))[0][1]["info"]["point"] == "0.25x32"


def test_what_cannot_be_used(run, images, listed):
    with pytest.raises(UserError, match="None of 1 images could be used"):
        run(images / "1.png")
    with pytest.raises(BudgetError, match="The cheapest, 0.25x32"):
        run(images, budget=("--gflops", "1"))
    with pytest.raises(DatasetError, match="no category for 2 of the model's 3 classes: square"):
        run(images, "--json", listed(categories=[{"id": 1, "name": "circle"}]))
    for records, message in (
        ([], "lists no images"),
        ([{"id": 1}], "'file_name' must be a string"),
        ([{"file_name": "0.png"}], "needs an 'id' of its own"),
        ([{"id": 1, "file_name": "0.png"}] * 2, "needs an 'id' of its own"),
        ([{"id": 1, "file_name": "a\\0.PNG"}], r"without a file.*: a\\0.PNG.* is there as 0.png"),
    ):
        with pytest.raises(DatasetError, match=message):
            run(images, "--json", listed(images=records))
    for categories in ({"1": "circle"}, ["circle"], [{"name": "circle"}]):
        with pytest.raises(DatasetError, match="'categories' must be a list of records"):
            run(images, "--json", listed(categories=categories))
    listed().write_text('{"pictures": []}')
    with pytest.raises(DatasetError, match="no list of records 'images', but the keys pictures"):
        run(images, "--json", images.parent / "list.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "--json", "c.json"], "--json counts file names from one folder"),
        (["a", "--clamp"], "--clamp needs --gflops or --milliseconds"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(["model", *arguments, "--output", "out"])
    assert message in capsys.readouterr().err
