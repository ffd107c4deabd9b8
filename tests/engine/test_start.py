"""What a training starts on: how many processes share its batch."""

import pytest

from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.engine.start import scaled


def config(reference, **solver):
    keys = {"REFERENCE_WORLD_SIZE": reference, "IMS_PER_BATCH": 8, "MAX_ITER": 90, **solver}
    return load_config(
        "quickstart_shapes", [x for k, v in keys.items() for x in (f"SOLVER.{k}", str(v))]
    )


def test_batch_and_schedule_follow_the_processes():
    assert scaled(config(0), 2) == config(0)
    cfg = scaled(config(4, BASE_LR=0.02), 2)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (4, 180)
    assert cfg.SOLVER.BASE_LR == 0.01
    assert scaled(cfg, 2) == cfg


@pytest.mark.parametrize(
    "reference, world_size, expected",
    [
        (3, 1, "IMS_PER_BATCH is 8; expected a multiple of SOLVER.REFERENCE_WORLD_SIZE, 3"),
        (1, 200, "For 200 processes, where .* is 1: SOLVER.MAX_ITER is 0; expected at least 1"),
        (0, 3, "IMS_PER_BATCH is 8; expected a multiple of the 3 processes"),
    ],
)
def test_processes_that_do_not_fit(reference, world_size, expected):
    with pytest.raises(ConfigError, match=expected):
        scaled(config(reference), world_size)
