"""The two kinds of errors a user meets, both still a ``ValueError``."""


class CellpipeError(Exception):
    """Base of every error that cellpipe raises on purpose; commands print it as one line."""


class CellpipeValueError(CellpipeError, ValueError):
    """The caller's value is wrong: an option, a configuration key, a name."""


class CellpipeDataError(CellpipeError, ValueError):
    """A file on disk is wrong: unreadable, of another shape, or not matching its neighbours."""
