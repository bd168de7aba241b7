"""From windows and a model to a run folder."""
