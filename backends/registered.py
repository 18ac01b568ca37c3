"""Any Dynamo backend that is registered, under its own name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import InvalidBackend

from pitome_fx.backends.lowering import Compiled, Job, Lowering
from pitome_fx.errors import OptionsError
from pitome_fx.lowerings import unknown_lowering
from pitome_fx.options import Options


def look_up(name: str) -> Compiled:
    """The backend of that name.

    Raises:
        OptionsError: there is none, or its package cannot be imported.
    """
    if name == "pitome":
        raise OptionsError("lowering='pitome' would lower to itself; name another backend")
    try:
        found: Compiled = torch._dynamo.lookup_backend(name)
    except InvalidBackend as error:
        raise unknown_lowering(name) from error
    except ImportError as error:
        raise OptionsError(f"lowering={name!r} cannot be imported: {error}") from error
    return found


def check(options: Options) -> None:
    """It must be there, and take options if any are given."""
    refuse_options(options, look_up(options.lowering))


def refuse_options(options: Options, backend: Compiled) -> None:
    """Raises OptionsError where there are options that the backend would not read."""
    if options.lowering_options and not _takes_options(backend):
        raise OptionsError(f"lowering={options.lowering!r} takes no lowering_options")


def compile_job(job: Job) -> Compiled:
    """As torch.compile would call it."""
    name, given = job.options.lowering, dict(job.settings)
    compiler = look_up(name)
    with importing(name):
        compiled: Compiled = compiler(
            job.graph, list(job.example_inputs), **({"options": given} if given else {})
        )
    return compiled


@contextmanager
def importing(name: str) -> Iterator[None]:
    """Raises OptionsError where a backend imports only now what is not there."""
    try:
        yield
    except ImportError as error:
        raise OptionsError(
            f"lowering={name!r} needs a package that cannot be imported: {error}"
        ) from error


def _takes_options(backend: Compiled) -> bool:
    parameters = inspect.signature(backend).parameters.values()
    if any(p.name == "options" for p in parameters):
        return True
    # Those of torch that take any keyword ignore it.
    owner = backend.__module__ or ""
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and not owner.startswith("torch.")


REGISTERED = Lowering((), check, compile_job)
