"""The generated data sets: exact masks, fair objects, the same bytes, and safe files."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import shapely
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from mutualnet_det.data.coco_check import check_coco_format
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.shapes import objects as shapes
from mutualnet_det.data.shapes import render as shapes_render
from mutualnet_det.data.shapes import scene as shapes_scene

VARIANTS = list(shapes.SHAPES_VARIANTS.values())
SMALL = dataclasses.replace(shapes.SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40))


def by_name(variant):
    return variant.name


def scene_of(variant, index, seed=5):
    return shapes_scene.sample_scene(variant, np.random.default_rng([seed, index]))


def mask_of(polygons, size):
    rles = mask_util.frPyObjects([np.asarray(p).reshape(-1).tolist() for p in polygons], size, size)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def files_under(folder):
    return {
        os.path.relpath(os.path.join(place, name), folder): hashlib.sha256(
            open(os.path.join(place, name), "rb").read()
        ).hexdigest()
        for place, _, names in os.walk(folder)
        for name in names
    }


# What is drawn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=by_name)
def test_polygons_are_the_pixels_an_object_is_seen_at(variant, monkeypatch):
    monkeypatch.setattr(shapes_render, "_background_colours", lambda rng: np.zeros((2, 3)))
    monkeypatch.setattr(shapes_render, "_background_mix", lambda size, _: np.zeros((size, size)))
    monkeypatch.setattr(shapes_render, "_smooth_noise", lambda size, *_: np.full((size, size), 0.5))
    monkeypatch.setattr(
        shapes_render,
        "_surface",
        lambda item, *_: lambda x, y: np.full(3, 200.0 if item is shown else 0.0),
    )
    variant = dataclasses.replace(variant, clutter=(0, 0))
    checked = Counter()
    for index in range(12):
        scene = scene_of(variant, index)
        covered = np.zeros((variant.image_size, variant.image_size), int)
        for shown in scene:
            pixels = shapes_render.render_scene(variant, scene, np.random.default_rng(index))
            seen = pixels.mean(axis=-1) > 100
            polygons = shapes_scene.visible_polygons(shown.visible)
            mask = mask_of(polygons, variant.image_size)
            iou = (seen & mask).sum() / (seen | mask).sum()
            assert iou > (0.97 if seen.sum() > 400 else 0.85)
            covered += mask
            checked["split" if len(polygons) > 1 else "whole"] += 1
            checked["covered"] += shown.visible.area < shown.outline.area
        assert (covered > 1).sum() <= 0.002 * covered.size
    assert checked["whole"] + checked["split"] >= 25 and checked["covered"] >= 3
    assert checked["split"] or variant.name == "shapes"  # rare there


def test_a_hole_is_left_open_without_a_seam():
    outer, hole = shapely.box(10, 10, 90, 90), shapely.Point(47.3, 52.1).buffer(17)
    region = outer.difference(hole).difference(shapely.box(20, 20, 30, 31))
    polygons = shapes_scene.visible_polygons(region)
    assert len(polygons) == 3
    for scale in (1.0, 0.37, 28 / 80):
        size = math.ceil(100 * scale)
        mask = mask_of([p * scale for p in polygons], size)
        filled = mask_of([np.array(outer.exterior.coords[:-1]) * scale], size)
        holes = mask_of([np.array(hole.exterior.coords[:-1]) * scale], size)
        holes |= mask_of([np.array([[20, 20], [30, 20], [30, 31], [20, 31]]) * scale], size)
        assert (mask ^ (filled & ~holes)).sum() <= 0.02 * mask.sum()
        # The cut through the hole is no gap.
        column = round(47.3 * scale)
        assert mask[math.ceil(11 * scale) : math.floor(34 * scale), column - 2 : column + 2].all()


@pytest.mark.parametrize("variant", VARIANTS, ids=by_name)
def test_objects_are_of_the_kinds_numbers_and_sizes_declared(variant):
    scenes = [scene_of(variant, index) for index in range(200)]
    low, high = variant.objects
    assert {len(scene) for scene in scenes} == set(range(low, high + 1))
    items = [item for scene in scenes for item in scene]
    assert {item.category for item in items} == set(range(len(variant.classes)))
    sides = np.array([item.side for item in items])
    low, high = variant.sides
    scale = np.log if variant.log_uniform else np.asarray
    places = (scale(sides) - scale(low)) / (scale(high) - scale(low))
    assert places.min() >= 0 and places.max() <= 1
    # Uniform: as many in each quarter of the range, whatever is hard to place.
    share = np.histogram(places, 4, (0, 1))[0] / len(places)
    assert np.abs(share - 0.25).max() < 0.06
    for item in items:
        left, top, right, bottom = item.outline.bounds
        assert left >= 0 and top >= 0 and max(right, bottom) <= variant.image_size
        assert item.visible.area >= 0.4 * item.outline.area
    hidden = [item.visible.area < 0.95 * item.outline.area for item in items]
    assert np.mean(hidden) > 0.05  # objects overlap


def test_sides_are_those_of_the_outlines():
    for outline, area in (("circle", math.pi / 4), ("square", 1), ("triangle", math.sqrt(3) / 4)):
        points = shapes_scene.outline_points(outline, 50, angle=0.3)
        assert shapes_scene.polygon_area(points) == pytest.approx(area * 50**2, rel=0.003)


def test_hard_classes_need_both_outline_and_texture():
    classes = shapes.SHAPES_VARIANTS["shapes_hard"].classes
    assert len({(c.outline, c.texture) for c in classes}) == len(classes) == 6
    by_outline, by_texture = defaultdict(set), defaultdict(set)
    for c in classes:
        by_outline[c.outline].add(c.name)
        by_texture[c.texture].add(c.name)
    assert min(map(len, [*by_outline.values(), *by_texture.values()])) >= 2


@pytest.mark.parametrize("variant", VARIANTS, ids=by_name)
def test_objects_stand_out_and_have_their_texture(variant):
    contrasts = []
    for index in range(25):
        scene = scene_of(variant, index)
        pixels = shapes_render.render_scene(variant, scene, np.random.default_rng(index))
        objects = shapely.union_all([item.outline for item in scene])
        for item in scene:
            if item.side < 20 or item.visible.area < item.outline.area:
                continue
            inside = mask_of([np.array(item.outline.buffer(-3).exterior.coords)], len(pixels))
            around = item.outline.buffer(8).difference(objects.buffer(2))
            if around.area < 100:
                continue
            near = np.zeros_like(inside)
            for part in shapes_scene.visible_polygons(around):
                near |= mask_of([part], len(pixels))
            colour, others = shapes_render._lab(pixels[inside]), shapes_render._lab(pixels[near])
            spread = np.linalg.norm(colour.std(axis=0))
            if variant.classes[item.category].texture == "plain":
                contrasts.append(np.linalg.norm(colour.mean(axis=0) - others.mean(axis=0)))
                assert spread < 12
            else:
                assert spread > 11
                # Neither of its two colours is the background's; blends of the two may be.
                to_background = np.linalg.norm(colour - others.mean(axis=0), axis=1)
                assert (to_background < 12).mean() < 0.25
                contrasts.append(to_background.mean())
    assert len(contrasts) > 25
    assert min(contrasts) > 12 and np.median(contrasts) > 25


# What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=by_name)
def test_annotations_are_valid_coco(variant, tmp_path):
    json_file = shapes.generate_shapes(variant, str(tmp_path), "train", 12, seed=3)
    folder = tmp_path / variant.name / "train"
    assert json_file == str(tmp_path / variant.name / "annotations" / "instances_train.json")
    checked = check_coco_format(
        json_file, str(folder), need_masks=True, bad_records="error", need_instances=True
    )
    data = checked.data
    assert checked.class_names == [c.name for c in variant.classes]
    assert [c["id"] for c in data["categories"]] == list(range(1, len(variant.classes) + 1))
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    assert data["info"]["seed"] == 3 and data["info"]["version"] == shapes.VERSION
    for image in data["images"]:
        with Image.open(folder / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (variant.image_size,) * 2
    for a in data["annotations"]:
        assert a["iscrowd"] == 0
        mask = mask_of(a["segmentation"], variant.image_size)
        assert mask.sum() == pytest.approx(a["area"], rel=0.02, abs=8)
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert np.abs(np.array(box) - a["bbox"]).max() <= 1.6


def test_same_seed_same_bytes_and_images_do_not_depend_on_their_number(tmp_path, monkeypatch):
    def make(place, num_images, seed, num_cpus):
        monkeypatch.setattr(shapes, "_num_cpus", lambda: num_cpus)
        shapes.generate_shapes(SMALL, str(tmp_path / place), "train", num_images, seed)
        return files_under(tmp_path / place / "shapes")

    alone, workers = make("a", 70, 3, num_cpus=1), make("b", 70, 3, num_cpus=2)
    assert alone == workers
    images = {name: digest for name, digest in alone.items() if name.endswith(".jpg")}
    assert len(set(images.values())) == 70
    fewer = make("c", 4, 3, num_cpus=1)
    assert {name: images[name] for name in fewer if name.endswith(".jpg")} == {
        name: digest for name, digest in fewer.items() if name.endswith(".jpg")
    }
    assert not set(make("d", 4, 4, num_cpus=1).values()) & set(images.values())


def test_what_version_1_draws_stays_as_it_is():
    # Changing what is drawn needs another VERSION: else old data on disk passes for the new.
    assert shapes.VERSION == 1
    variant = shapes.SHAPES_VARIANTS["shapes_hard"]
    scene = scene_of(variant, 0)
    assert [item.category for item in scene] == [0, 1, 4, 5, 2, 3, 1, 0, 1]
    assert scene[2].visible.area == pytest.approx(29123.8, abs=0.1)
    pixels = shapes_render.render_scene(variant, scene, np.random.default_rng(0))
    assert pixels.mean() == pytest.approx(132.517, abs=0.01)


def test_what_is_complete_is_left_alone(tmp_path, monkeypatch):
    shapes.generate_shapes(SMALL, str(tmp_path), "val", 5, seed=1)
    monkeypatch.setattr(shapes, "_write_images", lambda *_: pytest.fail("made anew"))
    shapes.generate_shapes(SMALL, str(tmp_path), "val", 5, seed=1)


def test_a_killed_generation_is_continued(tmp_path, monkeypatch):
    render, drawn = shapes_render.render_scene, []

    def killed_at_the_fourth(variant, scene, rng):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(len(scene))
        return render(variant, scene, rng)

    monkeypatch.setattr(shapes, "render_scene", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        shapes.generate_shapes(SMALL, str(tmp_path / "a"), "val", 6, seed=1)
    assert not os.path.exists(tmp_path / "a" / "shapes" / "annotations" / "instances_val.json")

    monkeypatch.setattr(shapes, "render_scene", lambda *args: drawn.append(0) or render(*args))
    shapes.generate_shapes(SMALL, str(tmp_path / "a"), "val", 6, seed=1)
    assert len(drawn) == 6  # none twice
    shapes.generate_shapes(SMALL, str(tmp_path / "b"), "val", 6, seed=1)
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_killed_outright_it_holds_up_nobody(tmp_path):
    code = (
        "from mutualnet_det.data.shapes import objects as shapes; shapes._num_cpus = lambda: 2;"
        "v = shapes.SHAPES_VARIANTS['shapes'];"
        f"shapes.generate_shapes(v, {str(tmp_path)!r}, 'train', 100000, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    first = tmp_path / "shapes" / "train" / "000001.jpg"
    deadline = time.monotonic() + 60
    while not first.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    variant = shapes.SHAPES_VARIANTS["shapes"]
    shapes.generate_shapes(variant, str(tmp_path), "train", 3, seed=1)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("damage", ["image", "images", "json", "truncated json", "version", "seed"])
def test_what_is_incomplete_or_outdated_is_made_anew(damage, tmp_path, monkeypatch):
    json_file = shapes.generate_shapes(SMALL, str(tmp_path), "val", 4, seed=1)
    image = tmp_path / "shapes" / "val" / "000002.jpg"
    seed = 1
    if damage == "image":
        image.rename(f"{image}.12345.partial")
    elif damage == "images":
        shutil.rmtree(image.parent)
    elif damage == "json":
        os.remove(json_file)
    elif damage == "truncated json":
        content = open(json_file, "rb").read()
        open(json_file, "wb").write(content[: len(content) // 2])
    elif damage == "version":
        monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
        image.write_bytes(b"drawn by the old version")
    else:
        seed = 2
    shapes.generate_shapes(SMALL, str(tmp_path), "val", 4, seed=seed)
    shapes.generate_shapes(SMALL, str(tmp_path / "new"), "val", 4, seed=seed)
    assert files_under(tmp_path / "shapes") == files_under(tmp_path / "new" / "shapes")


def test_other_peoples_files_are_not_touched(tmp_path):
    theirs = tmp_path / "shapes" / "val" / "000001.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a photograph")
    with pytest.raises(DatasetError, match="did not generate"):
        shapes.generate_shapes(SMALL, str(tmp_path), "val", 2, seed=1)
    assert theirs.read_bytes() == b"a photograph"

    annotations = tmp_path / "other" / "shapes" / "annotations" / "instances_val.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text(json.dumps({"images": []}))
    with pytest.raises(DatasetError, match="not of this project's making"):
        shapes.generate_shapes(SMALL, str(tmp_path / "other"), "val", 2, seed=1)
    assert json.loads(annotations.read_text()) == {"images": []}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "shapes").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"Cannot write .*DETECTRON2_DATASETS"):
        shapes.generate_shapes(SMALL, str(tmp_path), "val", 2, seed=1)


# What is registered ------------------------------------------------------------------------------


@pytest.fixture
def catalogs():
    """Detectron2's catalogs without the shapes data sets, restored afterwards."""
    names = list(shapes.SHAPES_SPLITS)
    saved = [
        (c, name, c.data.pop(name, None))
        for c in (DatasetCatalog, MetadataCatalog)
        for name in names
    ]
    yield
    for catalog, name, entry in saved:
        catalog.data.pop(name, None)
        if entry is not None:
            catalog.data[name] = entry


def test_registered_data_sets_are_made_when_asked_for(catalogs, tmp_path, monkeypatch):
    small = {n: dataclasses.replace(s, num_images=3) for n, s in shapes.SHAPES_SPLITS.items()}
    monkeypatch.setattr(shapes, "SHAPES_SPLITS", small)
    shapes.register_objects(str(tmp_path))
    shapes.register_objects(str(tmp_path))
    assert not os.listdir(tmp_path)
    for name, part in small.items():
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "coco"
        assert metadata.thing_classes == [
            c.name for c in shapes.SHAPES_VARIANTS[part.variant].classes
        ]
    records = DatasetCatalog.get("shapes_hard_val")
    assert len(records) == 3
    assert all(os.path.isfile(record["file_name"]) for record in records)
    assert {"segmentation", "bbox", "category_id"} <= set(records[0]["annotations"][0])
    assert os.listdir(tmp_path) == ["shapes_hard"]


def test_the_fixed_splits_never_overlap():
    assert {(s.variant, s.split, s.num_images) for s in shapes.SHAPES_SPLITS.values()} == {
        ("shapes", "train", 2000),
        ("shapes", "val", 200),
        ("shapes", "test", 500),
        ("shapes_hard", "train", 4000),
        ("shapes_hard", "val", 500),
    }
    assert len({(s.variant, s.seed) for s in shapes.SHAPES_SPLITS.values()}) == 5
