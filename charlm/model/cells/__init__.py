"""One step of every recurrence: (x, state) → (y, state)."""
