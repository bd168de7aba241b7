"""Bytes that count how often their beginnings and ends are compared."""


class CountedBytes(bytes):
    """Bytes with a count of the calls of `startswith` and `endswith` of all of them."""

    calls = 0

    def __getitem__(self, key):
        """Return a byte, or a part that is counted too."""
        part = super().__getitem__(key)
        return part if isinstance(part, int) else CountedBytes(part)

    def startswith(self, *arguments):
        CountedBytes.calls += 1
        return super().startswith(*arguments)

    def endswith(self, *arguments):
        CountedBytes.calls += 1
        return super().endswith(*arguments)
