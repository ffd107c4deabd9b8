"""Data sets, and the resolution views of a batch."""
