"""Lowerings: what turns the rewritten graph into something that runs fast."""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import GraphModule

import pitome_fx
from pitome_fx.algorithms import ALGORITHMS, Algorithm, is_shipped
from pitome_fx.backends import openvino, tensorrt
from pitome_fx.errors import OptionsError
from pitome_fx.options import PORTABLE_LOWERINGS, TENSORRT, Options, unknown_lowering

Compiled = Callable[..., Any]

PROCESS = uuid.uuid4().hex
_NUMBERS: dict[int, tuple[int, Algorithm]] = {}
"""Those of the algorithms seen, which are kept so that no id is given out twice."""


def lower(
    graph: GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    mode: str | None,
    *,
    merged: bool,
) -> Compiled:
    """Compile a graph with the lowering that the options name.

    Args:
        mode: ``mode=`` of torch.compile, for Inductor.
        merged: does the graph contain pitome ops?

    Raises:
        OptionsError: there is no such lowering, or it does not take the options given.
        LoweringError: the engine cannot take this graph.
    """
    if options.lowering == "inductor":
        return _inductor(graph, example_inputs, options, mode, merged=merged)
    if mode is not None:
        raise OptionsError(f"mode={mode!r} is for lowering='inductor' only")
    if options.lowering == "eager":
        if options.lowering_options:
            raise OptionsError("lowering='eager' takes no lowering_options")
        return graph.forward
    if options.lowering in TENSORRT:
        return tensorrt.compile_graph(graph, example_inputs, options.lowering_options)
    compiler = _dynamo_backend(options.lowering)
    given = options.lowering_options
    try:
        if options.lowering == "openvino":
            return openvino.compile_graph(compiler, graph, example_inputs, given, merged=merged)
        return compiler(graph, list(example_inputs), **({"options": dict(given)} if given else {}))
    except ImportError as error:
        raise OptionsError(
            f"lowering={options.lowering!r} needs a package that cannot be imported: {error}"
        ) from error


def check_lowering(options: Options, mode: str | None) -> None:
    """Fail on an unknown lowering, or an option it does not take, before any work is done."""
    if mode is not None and options.lowering != "inductor":
        raise OptionsError(f"mode={mode!r} is for lowering='inductor' only")
    if options.lowering in PORTABLE_LOWERINGS and options.form in ("pitome", "aten"):
        raise OptionsError(
            f"form={options.form!r} is nothing that lowering={options.lowering!r} takes: leave "
            "form out, or give form='portable'"
        )
    if options.lowering in TENSORRT:
        tensorrt.load()
    elif options.lowering == "inductor":
        _check_inductor(options.lowering_options)
    elif options.lowering != "eager":
        backend = _dynamo_backend(options.lowering)
        if options.lowering_options and not _takes_options(backend):
            raise OptionsError(f"lowering={options.lowering!r} takes no lowering_options")


def _check_inductor(given: Mapping[str, Any]) -> None:
    """Every key is a setting of Inductor."""
    known = {*torch._inductor.config.get_config_copy(), "mode"}
    for key in given:
        if key.replace("-", "_") not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(f"lowering_options: Inductor has no setting {key!r}.{hint}")


def _takes_options(backend: Compiled) -> bool:
    parameters = inspect.signature(backend).parameters.values()
    if any(p.name == "options" for p in parameters):
        return True
    # Those of torch that take any keyword ignore it.
    owner = backend.__module__ or ""
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and not owner.startswith("torch.")


def _dynamo_backend(name: str) -> Compiled:
    from torch._dynamo.exc import InvalidBackend

    if name == "pitome":
        raise OptionsError("lowering='pitome' would lower to itself; name another backend")
    try:
        found: Compiled = torch._dynamo.lookup_backend(name)
    except InvalidBackend as error:
        if name == "openvino":
            raise OptionsError(
                "lowering='openvino' needs the package openvino: pip install 'pitome-fx[openvino]'"
            ) from error
        raise unknown_lowering(name) from error
    except ImportError as error:
        raise OptionsError(f"lowering={name!r} cannot be imported: {error}") from error
    return found


def _inductor(
    graph: GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    mode: str | None,
    *,
    merged: bool,
) -> Compiled:
    from torch._inductor.compile_fx import compile_fx

    patches = dict(options.lowering_options)
    mode = mode or patches.pop("mode", None)
    if mode is not None:
        known = torch._inductor.list_mode_options()
        if mode not in known:
            raise OptionsError(f"mode={mode!r} is unknown; known: {', '.join(known)}")
        patches = {**known[mode], **patches}
    if merged:
        patches["joint_custom_pre_pass"] = _tagged(patches, options)
    compiled: Any = compile_fx(graph, list(example_inputs), config_patches=patches)
    return cast(Compiled, compiled)


def _tagged(patches: Mapping[str, Any], options: Options) -> Any:
    """The joint-graph passes, and one more that only names the version of the op bodies.

    Compile caches hash the graph, in which a pitome op is just its name: without this, a changed
    body would meet a warm cache and silently compute what the old one did.
    """
    own = Tag(digest(options))
    present = patches.get("joint_custom_pre_pass", torch._inductor.config.joint_custom_pre_pass)
    if present is None:
        return own
    present = present if isinstance(present, tuple | list) else (present,)
    return (*present, own)


class Tag(CustomGraphPass):
    """Changes nothing; its uuid is part of the cache key."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def __call__(self, graph: torch.fx.Graph) -> None:
        return None

    def uuid(self) -> str:
        return self.digest


def with_form(options: Options) -> Options:
    """Dissolves what Inductor's cache would not know: it hashes ops, not a user's own functions."""
    own = options.form is None and not is_shipped(options.algorithm)
    return replace(options, form="aten") if own and options.lowering == "inductor" else options


def digest(options: Options) -> str:
    """Hash of what a compile depends on beside its graph: version, options, op sources."""
    ordered = replace(options, lowering_options=dict(sorted(options.lowering_options.items())))
    parts = [pitome_fx.__version__, torch.__version__, repr(ordered), _sources()]
    if options.form != "aten" and not is_shipped(options.algorithm):
        # What a function of a user's own computes may depend on anything: it never meets what
        # another process, or another registration, compiled.
        parts.append(f"{PROCESS} {_registration(ALGORITHMS[options.algorithm])}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _registration(algorithm: Algorithm) -> int:
    """A number of its own for each registered algorithm."""
    return _NUMBERS.setdefault(id(algorithm), (len(_NUMBERS), algorithm))[0]


@functools.cache
def _sources() -> str:
    """The sources of the ops and of the algorithms that come with the library."""
    root = Path(pitome_fx.__file__).parent
    files = [root / "ops.py", *sorted((root / "algorithms").glob("*.py"))]
    return "\0".join(file.read_text() for file in files)
