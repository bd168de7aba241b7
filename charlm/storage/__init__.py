"""Files on disk: atomic writes, locks, memory maps, untrusted input, tensors. Results, tables."""
