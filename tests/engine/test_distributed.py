"""Two processes that train together: one reduction per step, the same weights in both."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

from mutualnet_det.calibration import calibrate_points
from mutualnet_det.config import grid_points
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.data.loader import build_training_loader
from mutualnet_det.data.views import view_at
from mutualnet_det.distributed import (
    StepFacts,
    broadcast_weights,
    exchange_facts,
    from_first_process,
    reduce_gradients,
    sharing_errors,
)
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.engine.sampling import build_sampler
from mutualnet_det.errors import UserError
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.meta_arch import Seen
from mutualnet_det.seeding import stream_seed
from mutualnet_det.slimmable import Calibrations, at_width

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def ranks(make_training_cfg, start_script, exit_codes, tmp_path_factory):
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("ranks")
    cfg = make_training_cfg(folder / "run")
    (folder / "run").mkdir()
    # Most images have no object: in some iterations a process has none to learn a mask from.
    name, json_file, image_root = cfg.DATASETS.COCO_FORMAT[0]
    data = json.loads(Path(json_file).read_text())
    kept = {image["id"] for image in data["images"][:3]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    shutil.copytree(image_root, folder / "images")
    # The last image is damaged inside, which its header does not tell: the first stands in for it,
    # whichever process had it.
    last = data["images"][-1]
    content = io.BytesIO()
    Image.open(folder / "images" / last["file_name"]).save(content, "PNG")
    whole = content.getvalue()
    last["file_name"] = "damaged.png"
    (folder / "images" / "damaged.png").write_bytes(whole[:1500] + bytes(40) + whole[1540:])
    (folder / "few.json").write_text(json.dumps(data))
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    cfg.DATASETS.COCO_FORMAT = [["few", str(folder / "few.json"), str(folder / "images")]]
    cfg.DATASETS.TRAIN = ("few",)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 6  # two epochs
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    # Norms in a head, too, that one process may have nothing to show.
    cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    step_cfg = make_step_cfg(make_training_cfg, folder)
    job = {"world_size": WORLD_SIZE, "folder": str(folder), "cfg": cfg, "step_cfg": step_cfg}
    processes = [
        start_script("distributed_script.py", rank=rank, **job) for rank in range(WORLD_SIZE)
    ]
    assert exit_codes(processes) == [0, 0]
    results = [torch.load(folder / f"rank{r}.pth", weights_only=True) for r in range(WORLD_SIZE)]
    return results, cfg, kept


def make_step_cfg(make_training_cfg, folder):
    cfg = make_training_cfg(folder / "step")
    cfg.DATASETS.TEST = ()
    cfg.MODEL.FPN.NORM = "BN"
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.MUTUALNET.NUM_RANDOM = 2
    return cfg


def one_process_step(cfg, weights):
    """
    What the gradients of a step should be: all images go through the backbone as one batch, whose
    statistics PyTorch's own norms compute, and each half of them through the heads by itself.
    """
    trainer = MutualTrainer(cfg)
    trainer.model.load_state_dict(weights)
    model, teachers = trainer.model, [None] * WORLD_SIZE
    batch = next(iter(build_training_loader(cfg, trainer.seed, 0)))
    batch = [item for rank in range(WORLD_SIZE) for item in batch[rank::WORLD_SIZE]]
    share = len(batch) // WORLD_SIZE
    with EventStorage(0):
        for number, (kind, point) in enumerate(build_sampler(cfg, trainer.seed)(0)):
            with at_width(model, point.width, track=kind == "full"):
                seen = model._see(view_at(batch, point.resolution, 128))
                losses = []
                for rank in range(WORLD_SIZE):
                    part = slice(rank * share, (rank + 1) * share)
                    half = Seen(
                        ImageList(seen.images.tensor[part], seen.images.image_sizes[part]),
                        seen.instances[part],
                        seen.source_sizes[part],
                        {name: level[part] for name, level in seen.features.items()},
                    )
                    torch.manual_seed(stream_seed("heads", trainer.seed, 0, rank, number))
                    if kind == "full":
                        half_losses, teachers[rank] = model._teach(half)
                    else:
                        half_losses = model._study(half, teachers[rank])
                    losses.append(sum(half_losses.values()))
                (sum(losses) / WORLD_SIZE).backward()
    return model


def test_gradients_are_those_of_one_process(ranks, make_training_cfg, tmp_path, in_float64):
    first, *_ = ranks
    cfg = make_step_cfg(make_training_cfg, tmp_path)
    model = one_process_step(cfg, first[0]["step"]["weights"])
    for rank in first:
        for name, parameter in model.named_parameters():
            gradient = rank["step"]["gradients"][name]
            # A bias that the next norm takes away has none but rounding errors.
            least = parameter.grad.numel() ** 0.5 * 1e-10
            error = (gradient - parameter.grad).norm() / (parameter.grad.norm() + least)
            assert error < 1e-5, name
        for name, value in model.state_dict().items():  # the running statistics above all
            torch.testing.assert_close(rank["step"]["state"][name], value, rtol=1e-5, atol=1e-8)


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
    # As in one process, the optimiser leaves alone what nobody used.
    assert one["after"][3] is other["after"][3] is None


def test_facts_of_a_step_are_known_to_all(ranks):
    for rank in ranks[0]:
        assert rank["reduction"]["losses"] == [1.5, 4.5]
        assert rank["reduction"]["num_skipped"] == 1


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


def test_calibration_does_not_depend_on_the_number_of_processes(ranks):
    _, cfg, _ = ranks
    saved = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    check_datasets(cfg)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes
    try:
        model = build_network(cfg)
        model.load_state_dict(saved["model"])
        calibrations = Calibrations(model)
        calibrate_points(cfg, model, calibrations, grid_points(cfg))
    finally:
        torch.set_num_threads(threads)
    expected = calibrations.state_dict()["points"]
    points = saved["calibrations"]["points"]
    assert points.keys() == expected.keys() and len(points) == 4
    for point, statistics in expected.items():
        for name, (mean, variance) in statistics.items():
            assert torch.equal(points[point][name][0], mean)
            assert torch.equal(points[point][name][1], variance)


def test_an_error_of_one_process_is_raised_in_all(ranks):
    for rank in ranks[0]:
        assert rank["errors"] == ["rank 1 fails", "rank 0 fails"]


def test_all_get_what_the_first_process_finds(ranks):
    for rank in ranks[0]:
        assert rank["of_first"] == "rank 0"


def test_one_process_keeps_its_own_error():
    class Particular(UserError):
        pass

    with pytest.raises(Particular), sharing_errors():
        raise Particular
    assert from_first_process(lambda: 7) == 7


def test_one_process_exchanges_nothing():
    parameter = nn.Parameter(torch.zeros(2))
    facts = exchange_facts(torch.ones(1), 2, [parameter])
    assert facts == StepFacts([1.0], 2, [False])
    reduce_gradients([parameter], facts.used)
    assert parameter.grad is None
    broadcast_weights(nn.Linear(1, 1))
