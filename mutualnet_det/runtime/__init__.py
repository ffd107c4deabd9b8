"""The runtime of a trained model: the query table, the predictor that keeps a budget."""

from .deadline import DeadlineController, DeadlineError, DeadlineReport
from .images import ImageError
from .predictor import BudgetPredictor, Prediction
from .pretrained import PredictorError
from .query_table import BudgetError, Latency, QueryEntry, QueryTable, QueryTableError, frontier

__all__ = [
    "BudgetError",
    "BudgetPredictor",
    "DeadlineController",
    "DeadlineError",
    "DeadlineReport",
    "ImageError",
    "Latency",
    "Prediction",
    "PredictorError",
    "QueryEntry",
    "QueryTable",
    "QueryTableError",
    "frontier",
]
