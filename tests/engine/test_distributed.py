"""Two processes that train together: one reduction per step, the same weights in both."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mutualnet_det.engine.distributed import broadcast_weights, reduce_gradients

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def ranks(make_training_cfg, start_script, tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    cfg = make_training_cfg(folder / "run")
    (folder / "run").mkdir()
    # Most images have no object: in some iterations a process has none to learn a mask from.
    name, json_file, image_root = cfg.DATASETS.COCO_FORMAT[0]
    data = json.loads(Path(json_file).read_text())
    kept = {image["id"] for image in data["images"][:3]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    (folder / "few.json").write_text(json.dumps(data))
    # The last image cannot be read: the first stands in for it, whichever process had it.
    (folder / "images").mkdir()
    for path in Path(image_root).glob("*.jpg"):
        content = b"no image" if path.name == "000012.jpg" else path.read_bytes()
        (folder / "images" / path.name).write_bytes(content)
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    cfg.DATASETS.COCO_FORMAT = [["few", str(folder / "few.json"), str(folder / "images")]]
    cfg.DATASETS.TRAIN = ("few",)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 6  # two epochs
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    job = {"world_size": WORLD_SIZE, "folder": str(folder), "cfg": cfg}
    processes = [
        start_script("distributed_script.py", rank=rank, **job) for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        process.join(120)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    found = [torch.load(folder / f"rank{r}.pth", weights_only=True) for r in range(WORLD_SIZE)]
    return found, cfg, kept


def test_gradients_become_their_mean(ranks):
    (one, other), *_ = ranks
    one, other = one["reduction"], other["reduction"]
    assert other["before"][1] is None
    for number in range(3):
        first, second = one["before"][number], other["before"][number]
        # A parameter that one process did not use has a gradient of 0 there.
        mean = (first + (torch.zeros_like(first) if second is None else second)) / WORLD_SIZE
        torch.testing.assert_close(one["after"][number], mean)
        assert torch.equal(one["after"][number], other["after"][number])


def test_first_process_gives_its_weights_and_statistics(ranks):
    (one, other), *_ = ranks
    assert one["broadcast"]["1.running_mean"].tolist() == [1, 1]
    for name, value in one["broadcast"].items():
        assert torch.equal(value, other["broadcast"][name]), name


def test_training_keeps_the_processes_equal(ranks):
    (one, other), *_ = ranks
    for name, value in one["training"]["parameters"].items():
        assert torch.equal(value, other["training"]["parameters"][name]), name


def test_processes_share_each_batch(ranks):
    (one, other), _, kept = ranks
    mine, theirs = one["training"]["batches"], other["training"]["batches"]
    assert all(len(batch) == 2 for batch in mine + theirs)
    assert sorted(sum(mine[:3] + theirs[:3], [])) == [1, *range(1, 12)]
    # Else the case of one process without an object would not have been met.
    has_object = [[bool(kept & set(batch)) for batch in batches] for batches in (mine, theirs)]
    assert has_object[0] != has_object[1]


def test_first_process_writes(ranks):
    (one, _), cfg, _ = ranks
    saved = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    for name, value in one["training"]["parameters"].items():
        assert torch.equal(saved["model"][name], value)
    (line,) = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    record = json.loads(line)
    assert record["iteration"] == 5
    assert record["skipped_images"] == 2  # one in each epoch, of either process


def test_one_process_exchanges_nothing():
    parameter = nn.Parameter(torch.zeros(2))
    reduce_gradients([parameter])
    assert parameter.grad is None
    broadcast_weights(nn.Linear(1, 1))
