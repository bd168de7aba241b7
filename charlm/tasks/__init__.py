"""Scores of models that have learned a task, and their predictions."""
