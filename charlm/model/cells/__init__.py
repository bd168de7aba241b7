"""The equations: one step of every recurrence, one file per family."""
