"""What a data set holds, class by class."""

from mutualnet_det.data.coco_check import CheckedCoco
from mutualnet_det.data.faults import BadRecords
from mutualnet_det.data.summary import MAX_ROWS, ClassSummary, summarise


def annotation(image_id, category_id, side=10, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": [0, 0, side, side], **more}


def checked(annotations, names=("cat", "dog"), num_images=4):
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, num_images + 1)],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": annotations,
    }
    return CheckedCoco(data, False)


def test_counts_by_class():
    data = checked(
        [
            annotation(1, 10),
            annotation(1, 10, 50, area=2000),
            annotation(2, 10, 100, iscrowd=0, area=0),
            annotation(2, 20, iscrowd=1),
            annotation(3, 20),
        ]
    )
    data.bad.objects[20] = 2
    data.bad.images.append("9.jpg")
    summary = summarise("mine", data, unusable=[3])
    assert summary.classes == (
        ClassSummary("cat", 2, 3, (1, 1, 1), 0, 0),
        ClassSummary("dog", 0, 0, (0, 0, 0), 1, 3),
    )
    assert (summary.num_images, summary.num_empty) == (3, 1)
    assert summary.images_left_out == ("9.jpg", "3.jpg")


def test_the_table():
    data = checked([annotation(1, 10), annotation(2, 20), annotation(2, 20)])
    data.bad.add("boxes without an area", "annotation 7")
    assert str(summarise("mine", data)).splitlines() == [
        "mine: 4 images (2 without an object)",
        "class  images  objects  crowds  left out",
        "cat         1        1       0         0",
        "dog         1        2       0         0",
        "all         2        3       0         0",
        "left out: 1 boxes without an area",
    ]


def test_what_is_advised():
    objects = [annotation(1, 10) for _ in range(12)]
    assert summarise("mine", checked(objects, ["cat"])).advice() == []
    one = summarise("mine", checked([*objects, annotation(1, 10, iscrowd=1)], ["cat"]))
    assert one.advice() == []  # COCO has as many
    many = summarise("mine", checked([*objects, *3 * [annotation(1, 10, iscrowd=1)]]))
    crowds, empty = many.advice()
    assert crowds.startswith("3 of 15 annotations are crowds") and "check-data" in crowds
    assert empty == "1 of 2 classes have no object: dog."
    assert crowds in str(many)


def test_many_classes():
    names = [f"class {i}" for i in range(MAX_ROWS + 20)]
    data = checked([annotation(1, 10 * (MAX_ROWS + 5))], names)
    lines = str(summarise("mine", data)).splitlines()
    assert len(lines) == 1 + 1 + MAX_ROWS + 1 + 1 + 1
    assert lines[MAX_ROWS + 2].split() == ["20", "more", "1", "0", "0"]


def test_without_anything():
    summary = summarise("mine", checked([], num_images=1))
    assert "all" in str(summary) and summary.bad.counts == BadRecords().counts
