"""What failed is written down: a warning names a Python file that shows its error again."""

from __future__ import annotations

import hashlib
import logging
import os
import traceback
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from pitome_fx.backends.lowering import Job
from pitome_fx.backends.rebuilding import NotWrittenError
from pitome_fx.backends.reproducer import VARIABLE, Failure, source
from pitome_fx.errors import in_short

logger = logging.getLogger(__name__)

FOLDER = "pitome_fx_failures"
MOST = 20
"""Files that one process writes."""

_WRITTEN: dict[tuple[str, ...], Path] = {}
"""The file of each failure that this process has met."""


def mention(failure: Failure, job: Job, error: Exception, said: str) -> str:
    """What a warning says of the file that shows its error again, which is written now.

    Args:
        job: the dense graph as it was to be compiled.
        error: what was raised.
        said: the warning; the file begins with it.

    Returns:
        A sentence that follows ``said``; '' where the environment wants no files.
    """
    named = os.environ.get(VARIABLE)
    if (named or "").lower() == "off":
        return ""
    try:
        folder = Path(named).expanduser().absolute() if named else _default_folder()
        path = _file_of(failure, job, error, said, folder)
    except Exception as problem:
        # Whatever it is, the model is to run.
        logger.debug("no reproducer could be written", exc_info=problem)
        reason = str(problem) if isinstance(problem, NotWrittenError) else in_short(problem)
        return f" No file that reproduces it could be written: {reason}."
    return f" To see the error again: python {path}"


def _file_of(failure: Failure, job: Job, error: Exception, said: str, folder: Path) -> Path:
    """The file of a failure, written unless this process has met the same before."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    place = [f"{frame.filename}:{frame.lineno}" for frame in frames[-1:]]
    key = (str(folder), failure, in_short(cause), *place)
    known = _WRITTEN.get(key)
    if known is not None and known.exists():
        return known
    if len(_WRITTEN) >= MOST:
        raise NotWrittenError(f"there are {MOST} of this process already")
    text = source(failure, job, said)
    compile(text, "<reproducer>", "exec")
    # Named after what is in it, so that a failure met again tomorrow takes no further file.
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{failure}_{digest}.py"
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    _WRITTEN[key] = path
    return path


def _default_folder() -> Path:
    """Beside Inductor's cache: in the temporary folder, one for each user of the machine."""
    cache = Path(default_cache_dir())
    return cache.with_name(cache.name.replace("torchinductor", FOLDER))
