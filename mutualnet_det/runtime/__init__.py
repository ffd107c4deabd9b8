"""What a program runs a trained model with: the query table."""

from .query_table import BudgetError, QueryEntry, QueryTable, QueryTableError, frontier

__all__ = ["BudgetError", "QueryEntry", "QueryTable", "QueryTableError", "frontier"]
