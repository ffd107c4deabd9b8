"""
The plan of a comparison: methods, seeds, operating points and schedule.

A plan is checked wholly before anything runs: every training's config is built and checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from pydantic import ValidationError

from ...config import (
    ConfigError,
    check_points,
    find_config,
    load_config,
    trained_widths,
)
from ...engine.start import check_weights
from ...evaluation.rules import RULES
from ...family import Family, family, outputs
from ...records import first_mistake
from ...slimmable import OperatingPoint
from .bootstrap import COMPARED
from .compute import ComputeCounter
from .plan_file import Method, PlanError, PlanFile, need, read_yaml


@dataclass(frozen=True, eq=False)
class Training:
    """
    A training, as a plan has it.

    Attributes:
        name: of it alone, such as "independent 0.50x96, seed 0".
        title: without the seed, for readers, such as "Temperature: 2".
        base: its config file.
        folder: its OUTPUT_DIR.
        options: KEY VALUE overrides of the base config.
        cfg: what they make of it.
        points: to be evaluated; a backbone has none.
        gflops_per_step: see :class:`~mutualnet_det.lab.comparison.compute.ComputeCounter`.
    """

    name: str
    title: str
    base: str
    folder: Path
    options: tuple[str, ...]
    cfg: CfgNode
    points: tuple[OperatingPoint, ...] = ()
    gflops_per_step: float = 1.0  # of pretraining not counted: all runs have the same of it

    @property
    def steps(self) -> int:
        """Iterations."""
        return self.cfg.SOLVER.MAX_ITER

    @property
    def weights(self) -> Path:
        """The file that it ends with. One that was told to end early has none."""
        return self.folder / "model_final.pth"


class Pretraining(Training):
    """The training of the backbone that all runs start from. It is not evaluated."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Run(Training):
    """
    A training and its evaluation.

    Attributes:
        network: of :attr:`Method.networks`, "" where there is one for all points.
    """

    method: Method
    network: str
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """
    A whole comparison.

    Attributes:
        path: of the YAML; ``content`` is what it holds.
        pretraining: of the backbone that all runs start from; None: they start from nothing, or
            from what their ``MODEL.WEIGHTS`` says.
        methods: the first is the one that the others are held against.
        points: operating points, ascending.
        runs: in the order they are begun.
        claims: the method in each role of the claims, empty if none are to be checked.
        resamples: of the bootstrap over images.
    """

    path: Path
    content: dict[str, Any]
    output: Path
    pretraining: Pretraining | None
    methods: tuple[Method, ...]
    points: tuple[OperatingPoint, ...]
    runs: tuple[Run, ...]
    claims: dict[str, str]
    resamples: int


def read_plan(path: str | Path, output: str | Path | None = None) -> Plan:
    """
    Read and check a plan.

    Args:
        path: of the YAML, or the name of a plan of the project, such as "compare_shapes".
        output: folder of the results, in place of the plan's own.

    Raises:
        PlanError: naming the file and what is wrong in it, a method whose config cannot be used
            too.
        DatasetError: if training images cannot be listed.
    """
    path = Path(find_config(str(path), folder="lab"))
    content = read_yaml(path)
    try:
        file = PlanFile.model_validate(content)
        reader = _Reader(file, Path(output or file.output))
        return Plan(
            path=path,
            content=content,
            output=reader.output,
            pretraining=reader.pretraining,
            methods=reader.methods,
            points=reader.points,
            runs=reader.runs(),
            claims={str(role): name for role, name in file.claims.items()},
            resamples=file.resamples,
        )
    except ValidationError as error:
        raise PlanError(f"{path}: {first_mistake(error)}.") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}.") from error.__cause__


class _Reader:
    def __init__(self, file: PlanFile, output: Path) -> None:
        self._file = file
        self._counter = ComputeCounter()
        self.output = output
        self.methods = file.all_methods()
        grid = product(file.widths, file.resolutions)
        self.points = tuple(sorted(OperatingPoint(*point) for point in grid))
        self.pretraining = self._pretraining()

    def _pretraining(self) -> Pretraining | None:
        given = self._file.pretrain
        if given is None:
            return None
        folder = Path(given.output)
        options = _as_arguments(given.options) + _own(given.steps, 0, folder)
        cfg = _load("pretrain", given.base, options)
        need(
            family(cfg) is Family.CLASSIFIER,
            f"pretrain.base {given.base} trains no classification network, which is what "
            "backbones are pretrained as",
        )
        return Pretraining("pretraining", "pretraining", given.base, folder, options, cfg)

    def runs(self) -> tuple[Run, ...]:
        drafts: list[Run] = []
        for method in self.methods:
            evaluated: set[OperatingPoint] = set()
            for network in method.networks or ("",):
                draft = self._draft(method, network)
                images = (drafts or [draft])[0].cfg.DATASETS.TEST
                twice = ", ".join(str(point) for point in draft.points if point in evaluated)
                for fits, expected in (
                    (images == draft.cfg.DATASETS.TEST, f"DATASETS.TEST {images} of all"),
                    (draft.points, "one of the points in its range, there is none"),
                    (not twice, f"points that no other network has, but {twice}"),
                ):
                    need(fits, f"{draft.name}: expected {expected}")
                evaluated.update(draft.points)
                drafts.append(draft)
        runs = []
        all_steps = self._steps(drafts)
        for seed in self._file.seeds:  # all methods of a seed first: tables fill evenly
            for draft, steps in zip(drafts, all_steps, strict=True):
                folder = draft.folder / f"seed{seed}"
                options = draft.options + _own(steps, seed, folder)
                cfg = _load(draft.name, draft.base, options)
                own = {"seed": seed, "folder": folder, "options": options, "cfg": cfg}
                runs.append(replace(draft, name=f"{draft.name}, seed {seed}", **own))
        return tuple(runs)

    def _draft(self, method: Method, network: str) -> Run:
        """The run of a network, still without its steps and seed."""
        first = self.pretraining
        start = {"MODEL.WEIGHTS": str(first.weights)} if first is not None else {}
        options = {**self._file.options, **start, **method.options, **_network_options(network)}
        arguments = _as_arguments(options)
        cfg = _load_compared(f"method {method.name}", self._file.base, arguments)
        name, label = (" ".join(filter(None, (w, network))) for w in (method.name, method.label))
        _check_start(name, cfg, first)
        return Run(
            name=name,
            title=": ".join(filter(None, (method.study, label))),
            base=self._file.base,
            folder=self.output.joinpath(*name.split()),
            options=arguments,
            cfg=cfg,
            points=tuple(point for point in self.points if _is_trained(point, cfg)),
            gflops_per_step=self._counter.step_gflops(cfg),
            method=method,
            network=network,
        )

    def _steps(self, drafts: Sequence[Run]) -> list[int]:
        """
        Iterations of each network: as many for all, or as many as its method's compute allows.

        The networks of a method share the compute and take equally many steps: what several points
        cost is what all their trainings cost.
        """
        steps, compute = self._file.steps, self._file.compute
        if steps is not None:
            return [steps] * len(drafts)
        assert compute is not None  # a plan file has either
        step_gflops: dict[str, float] = defaultdict(float)
        for draft in drafts:
            step_gflops[draft.method.name] += draft.gflops_per_step
            scheduler = draft.cfg.SOLVER.LR_SCHEDULER_NAME
            need(
                scheduler == "WarmupCosineLR",
                "with compute, runs differ in length, and the learning rate must follow: "
                f"SOLVER.LR_SCHEDULER_NAME is {scheduler!r}; expected 'WarmupCosineLR'",
            )
        allowed = step_gflops[compute.method] * compute.steps
        return [max(1, round(allowed / step_gflops[draft.method.name])) for draft in drafts]


def _check_start(name: str, cfg: CfgNode, pretraining: Pretraining | None) -> None:
    if pretraining is not None:
        norm = pretraining.cfg.MUTUALNET.NORM
        fits = norm == cfg.MUTUALNET.NORM
        need(fits, f"{name}: expected MUTUALNET.NORM {norm}, the pretraining's")
        return
    try:
        check_weights(cfg)
    except ConfigError as error:
        raise PlanError(f"{name}: {error}") from error


def _load(where: str, base: str, options: Sequence[str]) -> CfgNode:
    try:
        return load_config(base, options)
    except ConfigError as error:
        raise PlanError(f"{where}: {error}") from error


def _load_compared(where: str, base: str, options: Sequence[str]) -> CfgNode:
    cfg = _load(where, base, options)
    need(
        set(outputs(cfg)) <= set(COMPARED),
        f"{where} trains a {cfg.MODEL.META_ARCHITECTURE}"
        f"{' with keypoints' if cfg.MODEL.KEYPOINT_ON else ''}, from {base}; expected a detector "
        "of boxes, or boxes and masks, or a classifier: no other scores are compared",
    )
    for name in cfg.DATASETS.TEST:
        rules = MetadataCatalog.get(name).get("evaluator_type")
        need(
            rules not in RULES,
            f"{where} is scored on {name}; expected a data set that COCO's rules are for: others "
            "are not resampled",
        )
    return cfg


def _own(steps: int, seed: int, folder: Path) -> tuple[str, ...]:
    """The options that each run has of its own."""
    return _as_arguments({"SOLVER.MAX_ITER": steps, "SEED": seed, "OUTPUT_DIR": folder})


def _network_options(network: str) -> dict[str, Any]:
    """The config keys that make a network of one width, and of one resolution if it has one."""
    if not network:
        return {}
    width, _, resolution = network.partition("x")
    options: dict[str, Any] = {
        "MUTUALNET.WIDTH_RANGE": (float(width), float(width)),
        "MUTUALNET.GRID.WIDTHS": (float(width),),
    }
    if resolution:
        resolutions = (int(resolution),)
        options |= {
            "MUTUALNET.RESOLUTIONS": resolutions,
            "MUTUALNET.GRID.RESOLUTIONS": resolutions,
            "INPUT.MIN_SIZE_TRAIN": resolutions,
        }
    return options


def _is_trained(point: OperatingPoint, cfg: CfgNode) -> bool:
    try:
        check_points([point], cfg)
    except ConfigError:
        return False
    return point.width >= trained_widths(cfg)[0]


def _as_arguments(options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(part) for item in options.items() for part in item)
