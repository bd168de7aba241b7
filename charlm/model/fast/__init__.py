"""Machinery that runs a cell's step fast over a window; skip it on a first reading."""
