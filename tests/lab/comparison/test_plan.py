"""Plans: what they make, and every mistake named with the file and the key."""

from pathlib import Path

import pytest
import yaml

from mutualnet_det.config import METHODS, ConfigError, load_config
from mutualnet_det.engine.sampling import build_sampler
from mutualnet_det.evaluation.classification_cost import classification_costs
from mutualnet_det.evaluation.cost import CostCounter
from mutualnet_det.lab.comparison import PlanError, compute, read_plan
from mutualnet_det.lab.comparison import plan as plan_module
from mutualnet_det.modeling.build import build_network
from mutualnet_det.slimmable import OperatingPoint, at_width

PLANS = Path(__file__).parents[3] / "configs/lab"


def test_runs_of_a_plan(plan, tmp_path):
    names = [run.name for run in plan.runs]
    assert names[:4] == [
        "mutual, seed 0",
        "us_net, seed 0",
        "independent 1.00x64, seed 0",
        "independent 0.25x32, seed 0",
    ]
    assert len(names) == 8 and names[4] == "mutual, seed 1"
    for run in plan.runs:
        assert run.seed == run.cfg.SEED and run.steps == 2
        assert str(run.folder) == run.cfg.OUTPUT_DIR
        assert run.folder.is_relative_to(tmp_path / "output")
        # The command line makes the same config.
        assert load_config(run.base, list(run.options)) == run.cfg
    assert len({run.folder for run in plan.runs}) == 8
    grid = [OperatingPoint(w, r) for w in (0.25, 1.0) for r in (32, 64)]
    assert [list(run.points) for run in plan.runs[:4]] == [grid, grid, [grid[3]], [grid[0]]]


def test_an_independent_network_is_trained_at_its_point_alone(plan):
    run = plan.runs[3]
    passes = {build_sampler(run.cfg, 0)(iteration)[0].point for iteration in range(5)}
    assert passes == {OperatingPoint(0.25, 32)}
    assert run.cfg.INPUT.MIN_SIZE_TRAIN == (32,)


def test_a_network_of_one_width_has_every_resolution(write_plan, plan_content, counted):
    methods = plan_content["methods"]
    methods["independent"]["networks"] = [0.25]
    methods["independent"]["options"]["MUTUALNET.METHOD"] = "independent_multi_scale"
    run = read_plan(write_plan(methods=methods, seeds=[0])).runs[-1]
    assert run.network == "0.25"
    assert run.points == (OperatingPoint(0.25, 32), OperatingPoint(0.25, 64))
    drawn = {build_sampler(run.cfg, 0)(iteration)[0].point for iteration in range(30)}
    assert drawn == {OperatingPoint(0.25, r) for r in (64, 48, 32)}


def test_a_network_trained_alone_has_no_points_of_other_widths(write_plan, plan_content, counted):
    methods = plan_content["methods"]
    del methods["independent"]["networks"]
    run = read_plan(write_plan(methods=methods, seeds=[0])).runs[-1]
    assert run.points == (OperatingPoint(1.0, 32), OperatingPoint(1.0, 64))


def test_equal_compute_gives_cheap_steps_more_of_them(write_plan, plan_content, counted):
    plan = read_plan(write_plan(steps=None, compute={"as": "mutual", "steps": 10}))
    # The two independent networks share what a method has.
    assert [run.steps for run in plan.runs[:4]] == [10, 10, 20, 20]
    assert [run.cfg.SOLVER.MAX_ITER for run in plan.runs[:4]] == [10, 10, 20, 20]
    methods = plan_content["methods"]
    methods["independent"]["networks"] = ["1.0x64"]
    compute_of = {"as": "mutual", "steps": 10}
    plan = read_plan(write_plan(methods=methods, steps=None, compute=compute_of))
    assert [run.steps for run in plan.runs[:3]] == [10, 10, 40]


def test_a_plan_takes_over_another(write_plan, counted, tmp_path):
    write_plan()
    path = tmp_path / "elsewhere" / "other.yaml"
    path.parent.mkdir()
    path.write_text("_BASE_: ../plan.yaml\nseeds: [7]\ncompute: {as: us_net, steps: 5}\n")
    plan = read_plan(path)
    assert [(run.seed, run.steps) for run in plan.runs] == [(7, 5), (7, 5), (7, 10), (7, 10)]


def test_studies_are_held_against_the_first_method(write_plan, counted):
    studies = {"Number of passes": {"one": {"options": {"MUTUALNET.NUM_RANDOM": 0}}}}
    plan = read_plan(write_plan(methods={"default": None}, studies=studies, claims=None))
    assert [run.title for run in plan.runs[:2]] == ["default", "Number of passes: one"]
    assert [(m.name, m.study) for m in plan.methods] == [
        ("default", ""),
        ("one", "Number of passes"),
    ]
    assert [run.cfg.MUTUALNET.NUM_RANDOM for run in plan.runs] == [1, 0, 1, 0]


def test_an_empty_label_is_none(write_plan, counted):
    plan = read_plan(write_plan(**one_method(label=None)))
    assert [method.label for method in plan.methods] == ["mutual"]


def test_one_backbone_for_all_runs(write_plan, pretrain, counted, tmp_path):
    assert read_plan(write_plan()).pretraining is None
    options = {"SOLVER.BASE_LR": 0.005}
    plan = read_plan(write_plan(pretrain={**pretrain, "options": options}))
    training = plan.pretraining
    assert training.base == str(tmp_path / "backbone.yaml")
    assert training.folder == tmp_path / "pretrained" and training.steps == 5
    assert training.cfg.SOLVER.BASE_LR == 0.005 and training.cfg.SEED == 0
    assert load_config(training.base, list(training.options)) == training.cfg
    weights = {run.cfg.MODEL.WEIGHTS for run in plan.runs}
    assert weights == {str(tmp_path / "pretrained" / "model_final.pth")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "pretrain: there is no key 'seed'; known are base, options, output, steps"),
        ({"output": None}, "pretrain.output is missing"),
        ({"steps": 0}, "pretrain.steps must be greater than 0, got 0"),
        ({"options": {"SEED": 1}}, "pretrain.options.SEED: each run has its own; leave it out"),
        ({"options": {"SOLVER.BSE_LR": 1}}, "plan.yaml: pretrain: .*BSE_LR"),
        ({"options": {"MUTUALNET.NORM": "GN"}}, "mutual: expected MUTUALNET.NORM GN, the pretra"),
        ({"base": "base.yaml"}, "pretrain.base .*base.yaml trains no classification network"),
    ],
)
def test_mistakes_in_pretraining_are_named(write_plan, pretrain, counted, changes, message):
    with pytest.raises(PlanError, match=message):
        read_plan(write_plan(pretrain={**pretrain, **changes}))


@pytest.mark.parametrize("where", ["options", "methods"])
def test_weights_beside_pretraining_are_named(write_plan, pretrain, counted, where):
    options = {"options": {"MODEL.WEIGHTS": "a.pth"}}
    given = options if where == "options" else {"methods": {"mutual": options}, "claims": None}
    with pytest.raises(PlanError, match="plan.yaml: beside pretrain, .* MODEL.WEIGHTS out"):
        read_plan(write_plan(pretrain=pretrain, **given))


def one_method(**given):
    return {"methods": {"mutual": given}, "claims": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "there is no key 'sedes'; known are .*seeds"),
        ({"seeds": None}, "seeds is missing"),
        ({"base": ["base.yaml"]}, r"base must be a valid string, got \['base.yaml'\]"),
        ({"resamples": True}, "resamples must be a valid integer, got True"),
        (
            {
                "methods": {
                    "mutual": None,
                    "other": {"options": {"DATASETS.TEST": ["coco_2017_val"]}},
                },
                "claims": None,
            },
            r"other: expected DATASETS.TEST \(.* of all",
        ),
        ({"seeds": [0, 0]}, "seeds: 0 is given twice"),
        ({"widths": [0]}, r"widths\[0\] must be greater than 0, got 0"),
        ({"widths": [1, 1.0]}, "widths: 1.0 is given twice"),
        ({"widths": [3.0]}, "mutual: expected one of the points in its range"),
        (
            {"resolutions": [True]},
            r"resolutions\[0\] must be a valid integer, got True",
        ),
        ({"steps": 0}, "steps must be greater than 0, got 0"),
        ({"compute": {"as": "mutual", "steps": 1}}, "either steps or compute"),
        (
            {"steps": None, "compute": {"as": "mutal", "steps": 1}},
            "compute.as is 'mutal'; expected one of mutual",
        ),
        ({"claims": ["mutual"]}, r"claims must be a valid dictionary, got \['mutual'\]"),
        ({"claims": {"mutual": "mutual"}}, "claims.us_net is None; expected one of mutual, us_net"),
        ({"claims": {"mutal": "mutual"}}, "claims.mutal must be 'mutual', .*, got 'mutal'"),
        ({"seeds": []}, r"seeds .*at least 1 item.*, got \[\]"),
        ({"methods": {}, "claims": None}, "methods .*at least 1 item"),
        ({"methods": ["mutual"]}, r"methods must be a valid dictionary, got \['mutual'\]"),
        (one_method(option={}), "methods.mutual: there is no key 'option'"),
        (one_method(options={"MUTUALNET.METHDO": "us_net"}), "method mutual: .*METHDO"),
        (one_method(options={"MUTUALNET.METHOD": "us-net"}), "method mutual: MUTUALNET.METHOD is"),
        (one_method(options={"SEED": 3}), "methods.mutual.options.SEED"),
        (
            one_method(options={"MODEL.KEYPOINT_ON": True}),
            "method mutual trains a MutualRCNN with keypoints, from .*; expected a",
        ),
        (
            one_method(options={"DATASETS.TEST": ["lvis_v1_val"]}),
            "mutual is scored on lvis_v1_val; expected a data set that COCO's rules are for",
        ),
        (one_method(options={"MODEL.BACKBONE.FREEZE_AT": 2}), "mutual: .*FREEZE_AT is 2 and"),
        (
            one_method(networks=["wide"]),
            r"methods.mutual.networks\[0\]: 'wide' is neither a width nor",
        ),
        (
            one_method(networks=["1.0", "1.0x64"]),
            "mutual 1.00x64: .*no other network has, .*1.00x64",
        ),
        (one_method(networks=["0.5x48"]), "mutual 0.50x48: .*points in its range"),
        ({"methods": {"a/b": None}}, r"methods\['a/b'\]: expected letters"),
        ({"_BASE_": "plan.yaml"}, "plan.yaml takes itself over"),
        (
            {"studies": {"Passes": {"one": {"label": "mutual"}}}},
            "studies.Passes: the label 'mutual' is twice in a table",
        ),
        (one_method(options={"MODEL.WEIGHTS": "none.pth"}), "mutual: .*none.pth.*no such file"),
        (
            {"studies": {"Passes": {"mutual": {"label": "again"}}}},
            "the name 'mutual' is given to two methods",
        ),
    ],
)
def test_mistakes_are_named(write_plan, counted, changes, message):
    with pytest.raises(PlanError, match=message) as error:
        read_plan(write_plan(**changes))
    assert "plan.yaml" in str(error.value)


def test_steps_that_follow_no_cosine_cannot_be_made_of_compute(write_plan, counted):
    changes = {"options": {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR"}, "steps": None}
    with pytest.raises(PlanError, match="LR_SCHEDULER_NAME is 'WarmupMultiStepLR'"):
        read_plan(write_plan(compute={"as": "mutual", "steps": 10}, **changes))


@pytest.mark.parametrize("content", ["a: [", "- a\n", "\xff"])
def test_files_that_are_no_plans(tmp_path, content):
    path = tmp_path / "plan.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(PlanError, match="plan.yaml"):
        read_plan(path)
    with pytest.raises(ConfigError, match=r"no file .*none\.yaml.* There are compare_facade"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(PLANS.glob("compare_*.yaml")), ids=lambda path: path.stem)
def test_every_comparison_of_the_project_has_its_methods(path, counted):
    plan = read_plan(path)
    assert {run.cfg.MUTUALNET.METHOD for run in plan.runs} >= {"mutual", "us_net", "independent"}
    assert len(plan.claims) == 3 and len({run.seed for run in plan.runs}) >= 3
    assert len({run.network for run in plan.runs if run.method.name == "independent"}) == 3
    # What all methods of a seed share: the data, its order and, at equal steps, their number.
    shared = {
        (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)
        for cfg in (run.cfg for run in plan.runs)
    }
    assert len(shared) == 1
    if "compute" not in yaml.safe_load(path.read_text()):
        assert len({run.steps for run in plan.runs}) == 1


@pytest.mark.parametrize(
    "name", ["finetune_blood_cells", "finetune_facade_classes", "transfer_facade"]
)
def test_every_comparison_of_starts_is_at_equal_steps(name, counted, monkeypatch):
    monkeypatch.setattr(plan_module, "check_weights", lambda cfg: None)  # made by results/*
    plan = read_plan(PLANS / f"{name}.yaml")
    assert len({run.seed for run in plan.runs}) == 3 and len({run.steps for run in plan.runs}) == 1
    assert all(run.cfg.MODEL.WEIGHTS.startswith("output/") for run in plan.runs)
    assert len(plan.points) == 4


def runs_of(name):
    return {run.folder: run.cfg for run in read_plan(PLANS / f"{name}.yaml").runs}


def test_the_study_of_methods_has_all_of_them(counted):
    by_teacher = {
        (cfg.MUTUALNET.METHOD, cfg.MUTUALNET.LOSS_WEIGHTS.CLASS > 0)
        for cfg in runs_of("study_methods").values()
    }
    assert {method for method, _ in by_teacher} == set(METHODS)
    assert by_teacher >= {("mutual", False), ("us_net", False)}


@pytest.mark.parametrize("path", sorted(PLANS.glob("study_*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_changes_something(path, counted):
    plan = read_plan(path)
    default, *others = (run for run in plan.runs if run.seed == 0)
    assert others
    for run in others:
        changed = run.cfg.clone()
        changed.defrost()
        changed.OUTPUT_DIR = default.cfg.OUTPUT_DIR
        assert changed != default.cfg, run.name


def test_a_step_costs_what_its_passes_count(make_training_cfg, tmp_path, monkeypatch):
    """Against the networks of three widths, counted by themselves."""
    monkeypatch.setattr(compute, "WIDTH_STEPS", 2)
    cfg = make_training_cfg(tmp_path)
    model = build_network(cfg).eval()
    counters = {}
    for width in (0.25, 0.625, 1.0):
        with at_width(model, width):
            counters[width] = CostCounter(model)

    def forward(width, resolution):
        padded = -(-resolution // 32) * 32
        foreground = 16 * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
        return counters[width].count([(padded, padded)], 16).total(foreground)

    # Forward and backward of a batch of two.
    counter = compute.ComputeCounter()
    cfg.MUTUALNET.METHOD = "independent"
    assert counter.step_gflops(cfg) == pytest.approx(3 * 2 * forward(1.0, 64))
    cfg.MUTUALNET.METHOD, cfg.MUTUALNET.NUM_RANDOM = "us_net", 0
    expected = 3 * 2 * (forward(1.0, 64) + forward(0.25, 64))
    assert counter.step_gflops(cfg) == pytest.approx(expected)
    # A teacher that sees a student's own proposals runs its heads once more on them.
    cfg.MUTUALNET.PROPOSALS = "own"
    cost = counters[1.0].count([(64, 64)], 16)
    foreground = 16 * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
    again = cost.gflops["box_head"] + foreground * cost.gflops_per_detection["mask_head"]
    assert counter.step_gflops(cfg) == pytest.approx(expected + 2 * again)
    weights = cfg.MUTUALNET.LOSS_WEIGHTS
    weights.CLASS = weights.BOX = weights.MASK = 0.0
    assert counter.step_gflops(cfg) == pytest.approx(expected)
    cfg.MUTUALNET.METHOD, cfg.MUTUALNET.NUM_RANDOM = "mutual", 1
    low, middle, high = (
        sum(forward(width, resolution) for resolution in cfg.MUTUALNET.RESOLUTIONS) / 3
        for width in counters
    )
    random = low / 4 + middle / 2 + high / 4  # each width stands for those nearest to it
    expected = 3 * 2 * (forward(1.0, 64) + low + random)
    assert counter.step_gflops(cfg) == pytest.approx(expected, rel=0.02)


def test_a_step_of_a_classifier_costs_what_its_passes_count():
    """Against the network's published way of counting, on a batch of 64."""
    options = ["MUTUALNET.METHOD", "us_net", "MUTUALNET.NUM_RANDOM", "0", "MODEL.DEVICE", "cpu"]
    cfg = load_config("pretrain_shapes", options)
    points = [OperatingPoint(width, 64) for width in (0.25, 1.0)]
    costs = classification_costs(build_network(cfg).backbone, points)
    expected = 3 * 64 * sum(cost.total(0) for cost in costs.values())
    assert compute.ComputeCounter().step_gflops(cfg) == pytest.approx(expected)
