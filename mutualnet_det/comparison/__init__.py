"""Comparing methods: trainings of several methods and seeds from one YAML, and what they show."""

from .plan import Plan, PlanError, read_plan
from .report import write_comparison
from .results import collect
from .runs import RunsError, failure, locked, run_all, tool_commands

__all__ = [
    "Plan",
    "PlanError",
    "RunsError",
    "collect",
    "failure",
    "locked",
    "read_plan",
    "run_all",
    "tool_commands",
    "write_comparison",
]
