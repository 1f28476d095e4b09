"""The two kinds of errors a user meets, both still a ``ValueError``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NaturalImagesError(Exception):
    """Base of every error raised on purpose; commands print it as one line."""


class NaturalImagesValueError(NaturalImagesError, ValueError):
    """The caller's value is wrong: an option, a configuration key, a name."""


class NaturalImagesDataError(NaturalImagesError, ValueError):
    """A file on disk is wrong: unreadable, of another kind, or not matching its neighbours."""


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Say of which experiment it is that a value does not fit model, data or machine."""
    try:
        yield
    except NaturalImagesError:
        raise
    except (ValueError, FloatingPointError) as error:
        raise NaturalImagesValueError(f"{path}: {error}") from error
