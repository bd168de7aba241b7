"""Export a trained run to other runtimes, and import weights from elsewhere."""
