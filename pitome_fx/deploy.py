"""Writing a transformed program to a file that runs where this library is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.errors import DeployError, in_short
from pitome_fx.lowerings import Form
from pitome_fx.passes.dissolve.exported import in_form

__all__ = ["FORMATS", "save"]

Runnable = Callable[..., Any]

PROTOBUF_LIMIT = 2**31
"""Bytes; an ONNX file as large keeps its weights in a second file beside it."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: what people call it.
        suffix: how its file names end, or those that we give.
        any_name: may a file be named otherwise?
        form: of the programs that it is written from (see ``Options``).
        needs: packages that writing takes beside torch.
        runs_with: packages that running takes beside torch.
        write: writes a program in that form, and returns the files written.
        load: a file → a callable that takes the inputs of the program.
        usage: Python that loads and runs a file; ``{file}`` and ``{inputs}`` stand for its own.
    """

    title: str
    suffix: str
    any_name: bool
    form: Form
    needs: tuple[str, ...]
    runs_with: tuple[str, ...]
    write: Callable[[ExportedProgram, Path], list[Path]]
    load: Callable[[Path], Runnable]
    usage: str


def save(program: ExportedProgram, path: Path | str, to: str) -> list[Path]:
    """Write a program, transformed or not, in the format named ``to`` (see ``FORMATS``).

    Args:
        program: as ``transform`` returns it for an ExportedProgram, or any other.
        path: of the file; its folder exists, and its name ends as the format wants it.
        to: ``"onnx"``, ``"pt2"`` (AOTInductor) or ``"ep"`` (ExportedProgram).

    Returns:
        The files written, ``path`` and for an ONNX model of 2 GB or more that of its weights.

    Raises:
        DeployError: no such format, a package is missing, the path does not fit, or the exporter
            of the format failed.
    """
    path = Path(path)
    check(path, to)
    try:
        return FORMATS[to].write(in_form(program, FORMATS[to].form), path)
    except Exception as error:
        text = f"the {FORMATS[to].title} cannot be written: {reason(error)}"
        if FORMATS[to].form == "portable" and sorts_stably(program.graph_module):
            text += ". Its stable sort is in no such file: transform it with form='portable'"
        raise DeployError(text) from error


def check(path: Path, to: str) -> None:
    """Fail before any work is done where a file cannot be written; raises as ``save`` does."""
    if to not in FORMATS:
        raise DeployError(f"{to!r} is no format: expected one of {', '.join(FORMATS)}")
    wanted = FORMATS[to]
    missing = missing_packages(wanted.needs)
    if missing:
        raise DeployError(
            f"writing an {wanted.title} needs {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}, or pip install 'pitome-fx[{to}]'"
        )
    if path.suffix != wanted.suffix and not wanted.any_name:
        raise DeployError(f"the name of an {wanted.title} ends in {wanted.suffix}: {path}")
    if not path.parent.is_dir():
        raise DeployError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise DeployError(f"{path} is a folder; name a file")


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def endings() -> str:
    """Which names the files of each format may have."""
    return ", ".join(
        f"any name for {name}" if format.any_name else f"*{format.suffix} for {name}"
        for name, format in FORMATS.items()
    )


def usage(path: Path, to: str, inputs: str) -> str:
    """A line of Python that loads and calls a file."""
    named = path.suffix == FORMATS[to].suffix
    file = f'"{path}"' if named else f'open("{path}", "rb")'
    return FORMATS[to].usage.format(file=file, inputs=inputs)


def imports_of(program: ExportedProgram) -> list[str]:
    """Modules to import before a saved program is loaded: they define what it takes or returns."""
    modules: set[str] = set()
    specs = [program.call_spec.in_spec, program.call_spec.out_spec]
    while specs:
        spec: Any = specs.pop()
        if spec is not None and not spec.is_leaf():
            modules.add(spec.type.__module__)
            specs.extend(spec.children())
    return sorted(modules - {"builtins", "collections"})


def reason(error: BaseException) -> str:
    """The first line of what set off an error, with its type."""
    while error.__cause__ is not None:
        error = error.__cause__
    return in_short(error)


def sorts_stably(graph: GraphModule) -> bool:
    """As programs do that were transformed with form="aten"."""
    stable = (torch.ops.aten.sort.stable, torch.ops.aten.argsort.stable)
    return any(node.target in stable for node in graph.graph.nodes)


def _weights_beside(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def _write_exported(program: ExportedProgram, path: Path) -> list[Path]:
    # Opened here: by a path of another ending torch logs that it cannot, and does.
    with path.open("wb") as file:
        torch.export.save(program, file)
    return [path]


def _load_exported(path: Path) -> Runnable:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_aotinductor(program: ExportedProgram, path: Path) -> list[Path]:
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return [path]


def _load_aotinductor(path: Path) -> Runnable:
    return torch._inductor.aoti_load_package(str(path))


def _write_onnx(program: ExportedProgram, path: Path) -> list[Path]:
    exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    weights = (*program.state_dict.values(), *program.constants.values())
    size = sum(x.nbytes for x in weights if isinstance(x, Tensor))
    beside = _weights_beside(path)
    exported.save(path, external_data=size >= PROTOBUF_LIMIT)
    if size >= PROTOBUF_LIMIT:
        return [path, beside]
    # The file that is now replaced may have had one.
    beside.unlink(missing_ok=True)
    return [path]


def _load_onnx(path: Path) -> Runnable:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*args: Any, **kwargs: Any) -> list[Tensor]:
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        feed = {name: x.detach().cpu().numpy() for name, x in zip(names, tensors, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    return run


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        "ONNX model",
        ".onnx",
        False,
        "portable",
        ("onnx", "onnxscript"),
        ("onnxruntime",),
        _write_onnx,
        _load_onnx,
        "onnxruntime.InferenceSession({file}).run(None, {{{inputs}}})  # NumPy arrays",
    ),
    "pt2": Format(
        "AOTInductor package",
        ".pt2",
        False,
        "aten",
        (),
        (),
        _write_aotinductor,
        _load_aotinductor,
        "torch._inductor.aoti_load_package({file})({inputs})",
    ),
    "ep": Format(
        "ExportedProgram",
        ".pt2",
        True,
        "aten",
        (),
        (),
        _write_exported,
        _load_exported,
        "torch.export.load({file}).module()({inputs})",
    ),
}
"""What ``python -m pitome_fx export --to`` takes."""
