"""Files and folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` and rename it there when the block ends well.

    Whatever the block made there, a file or a folder, takes the target's name in one step; if the
    block raises (a full disk, say) it is removed and an older target stays as it was. A killed
    process leaves only the temporary name, which no reader looks for and the next run removes.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if target.is_dir():
            remove(target)
        temporary.replace(target)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Delete a file or a folder with all it holds; a path that is not there is left alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
