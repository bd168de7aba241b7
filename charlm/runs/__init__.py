"""Run folders: preparing, training, saving, resuming and verifying a run."""
