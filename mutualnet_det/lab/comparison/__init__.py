"""Comparing methods: trainings of several methods and seeds from one YAML, and what they show."""

from .plan import Plan, PlanError, Run, Training, read_plan
from .report import write_comparison
from .results import collect
from .runs import (
    RunsError,
    check_folder,
    failure,
    is_finished,
    locked,
    run_all,
    tool_commands,
)
from .summary import effects_table, promises_table

__all__ = [
    "Plan",
    "PlanError",
    "Run",
    "RunsError",
    "Training",
    "check_folder",
    "collect",
    "effects_table",
    "failure",
    "is_finished",
    "locked",
    "promises_table",
    "read_plan",
    "run_all",
    "tool_commands",
    "write_comparison",
]
