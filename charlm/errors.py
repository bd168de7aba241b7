"""What can be wrong with what a person gave us. One line each: place, problem, value, remedy."""


class CharlmError(Exception):
    """A person's mistake or a fault of the world, told in one line; a bug in charlm is any other exception."""


class ConfigError(CharlmError):
    """A configuration file, an override or a combination of options that cannot be used."""


class CorpusError(CharlmError):
    """A text that is missing, empty, too small, or not text."""


class FetchError(CorpusError):
    """A download that failed, or does not have the checksum that its card promises."""


class TokenizerError(CharlmError):
    """A text that the tokenizer cannot represent, or a tokenizer file that does not fit."""


class CheckpointError(CharlmError):
    """A run folder that is none, is damaged, or does not fit together."""


class DivergenceError(CharlmError):
    """The loss is no longer a finite number."""


class DeviceError(CharlmError):
    """The device or precision that was asked for is not to be had here."""


class GroupError(CharlmError):
    """Processes that train together cannot go on together."""


class StorageError(CharlmError):
    """A database that cannot be reached, or does not do what is asked of it."""
