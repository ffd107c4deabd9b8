"""The config: every mistake is named with its key and value before anything is built."""

from pathlib import Path

import pytest
import yaml

from mutualnet_det import OperatingPoint, load_config
from mutualnet_det.config import (
    ConfigError,
    check_no_gpu_named,
    check_num_gpus,
    check_output_dir,
    check_points,
    eval_point,
    find_config,
    flattened,
    full_point,
    grid_points,
)

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = str(CONFIGS / "quickstart_shapes.yaml")


# Plans of comparisons stand in configs/lab: tests/lab/comparison/test_plan.py.
FILES = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_file_loads(path):
    # The base is no config of its own: it names no resolution to train at.
    opts = ["INPUT.MIN_SIZE_TRAIN", "(600,)"] if path.stem.startswith("base_") else []
    cfg = load_config(str(path), opts)
    assert cfg.is_frozen()
    assert cfg.INPUT.FORMAT == "RGB"
    assert full_point(cfg) in grid_points(cfg)


def test_overrides_win_over_the_file():
    assert load_config(QUICKSTART, ["SOLVER.MAX_ITER", "7"]).SOLVER.MAX_ITER == 7


def test_a_config_file_runs_no_code(tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "config.yaml"
    path.write_text(f"VERSION: !!python/object/apply:os.mkdir [{str(trace)!r}]")
    with pytest.raises(ConfigError, match=r"config\.yaml is not valid YAML: .*python/object/apply"):
        load_config(str(path))
    assert not trace.exists()


def test_default_grid_spans_the_trained_ranges():
    cfg = load_config(QUICKSTART)
    points = grid_points(cfg)
    assert points[0] == OperatingPoint(0.25, 64)
    assert points[-1] == full_point(cfg) == OperatingPoint(1.0, 160)
    assert len(points) == 4 * len(cfg.MUTUALNET.RESOLUTIONS)
    assert points == sorted(points)


@pytest.mark.parametrize("bounds", [(0.28125, 1.0), (0.25, 0.66667), (0.33336, 0.33336)])
def test_default_grid_ends_at_the_bounds_themselves(bounds):
    cfg = load_config(QUICKSTART, ["MUTUALNET.WIDTH_RANGE", str(bounds)])
    points = grid_points(cfg)
    check_points(points, cfg)
    assert (points[0].width, points[-1].width) == bounds


def test_default_grid_of_a_network_trained_alone_is_its_width():
    points = grid_points(load_config(QUICKSTART, ["MUTUALNET.METHOD", "independent"]))
    assert {point.width for point in points} == {1.0}
    assert {point.resolution for point in points} == {160, 128, 96, 64}


def test_listed_grid():
    cfg = load_config(
        QUICKSTART, ["MUTUALNET.GRID.WIDTHS", "(0.5,)", "MUTUALNET.GRID.RESOLUTIONS", "(128, 64)"]
    )
    assert grid_points(cfg) == [OperatingPoint(0.5, 64), OperatingPoint(0.5, 128)]


def test_empty_test_point_is_the_full_network():
    assert eval_point(load_config(QUICKSTART)) == OperatingPoint(1.0, 160)
    cfg = load_config(QUICKSTART, ["MUTUALNET.TEST_POINT", "0.5x96"])
    assert eval_point(cfg) == OperatingPoint(0.5, 96)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("MUTUALNET.METHOD", "alone", "'mutual', 'us_net'"),
        ("MUTUALNET.SCOPE", "head", "'backbone', 'neck', 'heads'"),
        ("MUTUALNET.PROPOSALS", "both", "'teacher', 'own'"),
        ("MUTUALNET.NORM", "SyncBN", "'BN', 'GN'"),
        ("MUTUALNET.STATISTICS", "running", "'batch', 'frozen'"),
        ("MUTUALNET.BAD_RECORDS", "ignore", "'error', 'skip'"),
        ("SOLVER.OPTIMIZER", "Adam", "'SGD', 'ADAMW'"),
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "'TrainingSampler'"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", "False", "True, the only one"),
        ("MODEL.LOAD_PROPOSALS", "True", "False, the only one"),
        ("TEST.AUG.ENABLED", "True", "False, the only one"),
        ("TEST.PRECISE_BN.ENABLED", "True", "False, the only one"),
        ("TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 38.5, 0.2]]", "[], the only one"),
        ("VIS_PERIOD", "20", "0, the only one"),
        ("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", "False", "True, the only one"),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True", "False, the only one"),
        ("INPUT.FORMAT", "XYZ", "'RGB', 'BGR'"),
        ("INPUT.MASK_FORMAT", "rle", "'polygon', 'bitmask'"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "iou", "'smooth_l1', 'giou'"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full", "'value', 'norm'"),
        ("SOLVER.STEPS", "(30, 20)", "ascending"),
        ("TEST.DETECTIONS_PER_IMAGE", "0", "at least 1, or -1"),
        ("INPUT.RANDOM_FLIP", "both", "'horizontal', 'vertical', 'none'"),
        ("MODEL.DEVICE", "gpu", "a device of this machine, such as cpu"),
        ("MODEL.DEVICE", "meta", "a device of this machine, such as cpu"),
        ("MODEL.DEVICE", "xpu", "a device of this machine, such as cpu"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "-1", "at least 0"),
        ("MUTUALNET.WIDTH_RANGE", "(1.0, 0.25)", "0 < smallest <= largest"),
        ("MUTUALNET.WIDTH_RANGE", "(0, 1.0)", "0 < smallest <= largest"),
        ("MUTUALNET.WIDTH_RANGE", "(0.25, 0.5, 1.0)", "0 < smallest <= largest"),
        ("MUTUALNET.WIDTH_RANGE", "('a', 'b')", "0 < smallest <= largest"),
        ("MUTUALNET.RESOLUTIONS", "()", "at least one short side"),
        ("MUTUALNET.RESOLUTIONS", "(64, 160)", "descending"),
        ("MUTUALNET.RESOLUTIONS", "(160, 64, 64)", "without repeats"),
        ("MUTUALNET.RESOLUTIONS", "(160, 64.5)", "integers (px)"),
        ("MUTUALNET.RESOLUTIONS", "(160, -64)", "positive integers"),
        ("MUTUALNET.RESOLUTIONS", "(160, True)", "positive integers"),
        ("MUTUALNET.GRID.WIDTHS", "(1.0, 0.5)", "ascending"),
        ("MUTUALNET.GRID.WIDTHS", "(0.5, 0.5)", "without repeats"),
        ("MUTUALNET.GRID.WIDTHS", "(0.1, 0.5)", "MUTUALNET.WIDTH_RANGE, 0.25 to 1"),
        ("MUTUALNET.GRID.WIDTHS", "(0.5, 1.5)", "MUTUALNET.WIDTH_RANGE, 0.25 to 1"),
        ("MUTUALNET.GRID.WIDTHS", "(0.5, 'wide')", "positive numbers"),
        ("MUTUALNET.GRID.RESOLUTIONS", "(64, 96)", "descending"),
        ("MUTUALNET.GRID.RESOLUTIONS", "(320, 64)", "MUTUALNET.RESOLUTIONS, 64 to 160 px"),
        ("MUTUALNET.GRID.RESOLUTIONS", "(96, 32)", "MUTUALNET.RESOLUTIONS, 64 to 160 px"),
        ("MUTUALNET.TEST_POINT", "half", "such as 0.50x360"),
        ("MUTUALNET.TEST_POINT", "0.10x96", "outside MUTUALNET.WIDTH_RANGE, 0.25 to 1"),
        ("MUTUALNET.TEST_POINT", "0.50x32", "outside MUTUALNET.RESOLUTIONS, 64 to 160 px"),
        ("INPUT.MIN_SIZE_TRAIN", "(128,)", "(160,)"),
        ("INPUT.MIN_SIZE_TRAIN", "(160, 128)", "(160,)"),
        ("MUTUALNET.LOSS_WEIGHTS.BOX", "-1.0", "at least 0"),
        ("MUTUALNET.TEMPERATURE", "0.0", "above 0"),
        ("MUTUALNET.CALIBRATION.NUM_IMAGES", "0", "at least 1"),
        ("MUTUALNET.CALIBRATION.REFRESH_PERIOD", "0", "at least 1"),
        ("MUTUALNET.NUM_RANDOM", "-1", "at least 0"),
        ("MUTUALNET.CHECKPOINTS_KEPT", "1", "at least 2, or 0"),
        ("MUTUALNET.SKIPPED_STEPS", "-1", "at least 0"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", "at least 1"),
        ("SOLVER.IMS_PER_BATCH", "0", "at least 1"),
        ("MUTUALNET.SUBNETWORK_WEIGHT", "0.0", "a weight above 0"),
    ],
)
def test_bad_value_is_named(key, value, expected):
    with pytest.raises(ConfigError) as error:
        load_config(QUICKSTART, [key, value])
    message = str(error.value)
    assert message.startswith(key)
    assert value.replace("'", "") in message.replace("'", "")
    assert expected in message


def test_group_normalisation_has_no_statistics_to_freeze():
    load_config(QUICKSTART, ["MUTUALNET.NORM", "GN"])
    with pytest.raises(ConfigError, match="STATISTICS is 'frozen'.*MUTUALNET.NORM is 'GN'"):
        load_config(QUICKSTART, ["MUTUALNET.NORM", "GN", "MUTUALNET.STATISTICS", "frozen"])


def test_adamw_has_no_nesterov_momentum():
    load_config(QUICKSTART, ["SOLVER.OPTIMIZER", "ADAMW"])
    with pytest.raises(ConfigError, match="NESTEROV is True; .*SOLVER.OPTIMIZER is 'ADAMW'"):
        load_config(QUICKSTART, ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.NESTEROV", "True"])


def test_students_need_something_to_learn_from():
    weights = [
        f"MUTUALNET.LOSS_WEIGHTS.{key}" for key in ("RPN", "GROUND_TRUTH", "CLASS", "BOX", "MASK")
    ]
    off = [item for key in weights for item in (key, "0.0")]
    with pytest.raises(ConfigError, match="MUTUALNET.LOSS_WEIGHTS"):
        load_config(QUICKSTART, off)
    mask_alone = [*off[:-1], "1.0"]
    load_config(QUICKSTART, mask_alone)
    with pytest.raises(ConfigError, match="MUTUALNET.LOSS_WEIGHTS"):
        load_config(QUICKSTART, [*mask_alone, "MODEL.MASK_ON", "False"])
    load_config(QUICKSTART, [*off, "MUTUALNET.METHOD", "independent"])  # there are no students


HALF = ["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"]


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigError, match="SOLVER.AMP.ENABLED is True.*'cpu'"):
        load_config(QUICKSTART, [*HALF, "MUTUALNET.AMP_DTYPE", "float16"])
    load_config(QUICKSTART, HALF)


@pytest.mark.parametrize("key", ["MUTUALNET.WIDTHRANGE", "MUTUALNETS.SCOPE", "NOTHING"])
def test_unknown_override_is_named(key):
    with pytest.raises(ConfigError, match=key):
        load_config(QUICKSTART, [key, "1"])


def test_override_of_another_type_is_named():
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER.*many"):
        load_config(QUICKSTART, ["SOLVER.MAX_ITER", "many"])
    with pytest.raises(ConfigError, match="MODEL.DEVICE.INDEX"):
        load_config(QUICKSTART, ["MODEL.DEVICE.INDEX", "0"])


def test_odd_number_of_overrides():
    with pytest.raises(ConfigError, match="KEY VALUE pairs, got 'SOLVER.MAX_ITER'"):
        load_config(QUICKSTART, ["SOLVER.MAX_ITER"])


@pytest.mark.parametrize(
    "content, expected",
    [
        ("MUTUALNET:\n  WIDTHS: [1]\n", "MUTUALNET.WIDTHS"),
        ("MODEL: [\n", "not valid YAML"),
        ("MODEL:\n\tMASK_ON: True\n", "line 2"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        ("_BASE_: quickstart_shape.yaml\n", "Close are quickstart_shapes"),
        ("- MODEL\n", ""),
        ("", ""),
    ],
)
def test_bad_file_is_named(tmp_path, content, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert "mine.yaml" in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "config, key, value",
    [
        ("mutual_maskrcnn_r50", "MODEL.RESNETS.NUM_GROUPS", "32"),
        ("mutual_maskrcnn_r50", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
        ("mutual_maskrcnn_r50", "MODEL.RESNETS.NORM", "GN"),
        ("mutual_maskrcnn_r50", "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]"),
        ("mutual_retinanet_mbv2", "MODEL.MASK_ON", "True"),
        ("mutual_semantic_fpn_mbv2", "MODEL.KEYPOINT_ON", "True"),
        ("pretrain_shapes", "MODEL.MASK_ON", "True"),
        ("pretrain_shapes", "INPUT.CROP.ENABLED", "True"),
    ],
)
def test_key_that_does_nothing_for_a_kind(config, key, value):
    with pytest.raises(ConfigError, match=f"{key} is .*the only one there is here"):
        load_config(config, [key, value])


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("mutualnet_det.config.checks.why_unsupported", lambda index: "")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert load_config(QUICKSTART, ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"
    with pytest.raises(ConfigError, match="'cuda:2'; expected .* cpu, cuda:0, cuda:1"):
        load_config(QUICKSTART, ["MODEL.DEVICE", "cuda:2"])


@pytest.mark.parametrize("base", ["quickstart_shapes", "quickstart_shapes.yaml"])
def test_base_of_the_project_is_found_by_its_name(base, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nSOLVER: {{MAX_ITER: 7}}\n")
    cfg = load_config(str(tmp_path / "mine.yaml"))
    assert cfg.SOLVER.MAX_ITER == 7
    assert cfg.MUTUALNET == load_config("quickstart_shapes").MUTUALNET
    # A file beside the config comes first.
    (tmp_path / base).write_text("INPUT: {MIN_SIZE_TRAIN: [600]}\nTEST: {EVAL_PERIOD: 9}\n")
    assert load_config(str(tmp_path / "mine.yaml")).TEST.EVAL_PERIOD == 9


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"no file nowhere/my\.yaml, .* There are base_class"):
        load_config("nowhere/my.yaml")


@pytest.mark.parametrize("name", ["quickstart_shapes", "quickstart_shapes.yaml"])
def test_a_config_of_the_project_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).MODEL.META_ARCHITECTURE == "MutualRCNN"
    assert find_config("compare_shapes", folder="lab").endswith("lab/compare_shapes.yaml")
    with pytest.raises(ConfigError, match=r"Close are quickstart_shapes"):
        find_config("configs/quickstart_shape.yaml")
    # A file that is there comes first.
    (tmp_path / name).write_text("MODEL:\n  META_ARCHITECTURE: MutualRetinaNet\n")
    assert find_config(name) == name


def test_cuda_becomes_cpu_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load_config(QUICKSTART).MODEL.DEVICE == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("mutualnet_det.config.checks.why_unsupported", lambda index: "")
    assert load_config(QUICKSTART).MODEL.DEVICE == "cuda"


def test_a_gpu_that_does_nothing_is_told_why_once(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with caplog.at_level("WARNING"):
        load_config(QUICKSTART)
        assert not caplog.messages  # a laptop without a GPU, and the default
        load_config(QUICKSTART, ["MODEL.DEVICE", "cuda:3"])
        monkeypatch.setattr("mutualnet_det.config.files.why_no_gpu", lambda: "the driver is old.")
        assert load_config(QUICKSTART).MODEL.DEVICE == load_config(QUICKSTART).MODEL.DEVICE == "cpu"
    assert caplog.messages == [
        "MODEL.DEVICE is cuda:3, but the CPU does the work: there is no GPU.",
        "MODEL.DEVICE is cuda, but the CPU does the work: the driver is old.",
    ]


def test_a_gpu_that_pytorch_is_not_built_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("mutualnet_det.config.checks.why_unsupported", lambda index: "Too old.")
    with pytest.raises(ConfigError, match="MODEL.DEVICE is 'cuda': Too old. MODEL.DEVICE cpu"):
        load_config(QUICKSTART)


def test_several_processes_and_a_gpu_that_is_named():
    cfg = load_config(QUICKSTART, ["MODEL.DEVICE", "cpu"])
    check_no_gpu_named(cfg)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda:1"
    with pytest.raises(ConfigError, match="'cuda:1', but several processes take a GPU each"):
        check_no_gpu_named(cfg)


def test_too_many_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_num_gpus(1, "cuda")
    check_num_gpus(2, "cpu")
    with pytest.raises(ConfigError, match="--num-gpus is 2.*1 GPUs"):
        check_num_gpus(2, "cuda")
    with pytest.raises(ConfigError, match="--num-gpus is 0; expected at least 1"):
        check_num_gpus(0, "cpu")


def test_output_dir_is_made_and_left_empty(tmp_path):
    check_output_dir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_output_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "output")
    with pytest.raises(ConfigError, match=f"OUTPUT_DIR {path} cannot be written"):
        check_output_dir(path)
    with pytest.raises(ConfigError, match="OUTPUT_DIR"):
        check_output_dir(str(tmp_path / "file"))


def test_points_outside_or_repeated_are_named():
    cfg = load_config(QUICKSTART)
    check_points([OperatingPoint(0.3, 100)], cfg)
    for point, expected in [
        (OperatingPoint(1.25, 96), "1.25x96.*WIDTH_RANGE"),
        (OperatingPoint(0.5, 200), "0.50x200.*RESOLUTIONS"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            check_points([point], cfg)
    with pytest.raises(ConfigError, match="0.50x96 is given twice"):
        check_points([OperatingPoint(0.5, 96)] * 2, cfg)


def test_flattened_names_keys_as_overrides_do():
    cfg = load_config(
        QUICKSTART, ["SOLVER.STEPS", "(4, 5)", "MUTUALNET.GRID.WIDTHS", "(0.25, 1.0)"]
    )
    flat = flattened(cfg)
    assert flat["SOLVER.STEPS"] == [4, 5] and flat["MUTUALNET.GRID.WIDTHS"] == [0.25, 1.0]
    assert flat["MODEL.RPN.HEAD_NAME"] == cfg.MODEL.RPN.HEAD_NAME
    assert not any(isinstance(value, dict) for value in flat.values())
    assert flattened(yaml.safe_load(cfg.dump())) == flat  # as grid.json holds it


@pytest.mark.parametrize(
    "config, threshold, message",
    [
        ("quickstart_shapes", 0.0, "REPEAT_THRESHOLD is 0.0; expected a fraction of the images"),
        ("quickstart_shapes", 10, "REPEAT_THRESHOLD is 10"),
        ("mutual_semantic_fpn_mbv2", 0.1, "SAMPLER_TRAIN is .* expected 'TrainingSampler' for sem"),
    ],
)
def test_rare_classes_are_repeated_where_it_is_told_which(config, threshold, message):
    options = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    with pytest.raises(ConfigError, match=message):
        load_config(config, [*options, "DATALOADER.REPEAT_THRESHOLD", str(float(threshold))])
