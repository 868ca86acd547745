"""The errors that a user can mend.

Each message says what was expected, what came, where (file, line, field or sample), and what to do about it.
`assert` stays for the package's own invariants; everything else that can go wrong is one of these.
"""


class XrayGPTError(Exception):
    """Base of every error that the command line prints as one readable message instead of a traceback."""


class RegistryError(XrayGPTError):
    """A name is not registered, is registered twice, or names a class of the wrong kind."""


class ConfigError(XrayGPTError):
    """A configuration is not well-formed: unknown keys, wrong types, missing files."""


class DataError(XrayGPTError):
    """An image, a report, an annotation file or a data folder cannot be used."""


class CheckpointError(XrayGPTError):
    """A weights file is damaged, holds other parameters than expected, or belongs to another language model."""


class TrainingError(XrayGPTError):
    """A run cannot go on: non-finite losses, no supervised token, or a failed rank."""


def first_line(error: BaseException) -> str:
    """The first line of a library's message; the name of the error if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
