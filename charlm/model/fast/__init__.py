"""The machinery that runs a step fast over a window. Skip it on a first reading."""
