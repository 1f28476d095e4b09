"""The two kinds of errors a user meets, both still a ``ValueError``."""


class NaturalImagesError(Exception):
    """Base of every error raised on purpose; commands print it as one line."""


class NaturalImagesValueError(NaturalImagesError, ValueError):
    """The caller's value is wrong: an option, a configuration key, a name."""


class NaturalImagesDataError(NaturalImagesError, ValueError):
    """A file on disk is wrong: unreadable, of another kind, or not matching its neighbours."""
