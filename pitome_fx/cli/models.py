"""Models by name, with inputs to call them on: what the command line loads."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pitome_fx.cli.shapes import InputSpec, describe, fill
from pitome_fx.deploy import reason
from pitome_fx.errors import UsageError

TEXT_LENGTH = 128


@dataclass(frozen=True)
class Call:
    """A model in eval mode and inputs to call it on."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Settings = Mapping[str, Any]
Default = Callable[[int], tuple[tuple[Any, ...], Mapping[str, Any]]]
Built = tuple[nn.Module, Default | None]
"""A model, and what makes a batch of its own inputs if that is known."""


def find(name: str) -> Callable[[Settings], Built]:
    """What builds the model of a name; the name is checked, nothing is built yet.

    Args:
        name: ``module:callable``, ``timm:NAME`` or ``hf:CONFIG``.

    Raises:
        UsageError: there is nothing of that name.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not kind or not rest:
        raise UsageError(
            f"{name!r} names no model: expected module:callable, timm:NAME or hf:CONFIG"
        )
    if kind == "timm":
        return _timm(rest)
    if kind == "hf":
        return _hugging_face(rest)
    return _own(kind, rest)


def load(
    build: Callable[[Settings], Built],
    settings: Settings,
    inputs: Sequence[InputSpec] = (),
    weights: Path | None = None,
    batch: int = 1,
) -> Call:
    """Build a model, give it weights, and run it once on its inputs.

    Args:
        build: as ``find`` returns it.
        settings: keyword arguments of whatever makes the model.
        inputs: shapes of inputs of random values; none for the model's own.
        weights: file with a state dict.
        batch: of the model's own inputs.

    Raises:
        UsageError: the model cannot be built or does not run on the inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, default = build(settings)
        if weights is not None:
            _read_weights(model, weights)
        model.eval()
        args: tuple[Any, ...]
        kwargs: Mapping[str, Any]
        if inputs:
            args, kwargs = fill(inputs, model)
        elif default is not None:
            args, kwargs = default(batch)
        else:
            raise UsageError(
                "nothing says what inputs this model takes: give --input SHAPE for each, "
                "or let the callable return (model, args)"
            )
    _run(model, args, kwargs)
    return Call(model, args, kwargs)


def data(name: str) -> list[tuple[Any, ...]]:
    """Inputs to look at, as the arguments of one call or more.

    Args:
        name: a file that ``torch.save`` wrote, or ``module:callable``; it holds or returns a
            tensor, the arguments of a call, or a list or other iterable of several such.

    Raises:
        UsageError: there is no such thing, or it is something else.
    """
    module, colon, path = name.partition(":")
    if colon and not Path(name).exists():
        found = _build(name, _attribute(module, path, "data"), {})
    else:
        try:
            found = torch.load(name, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UsageError(f"--data {name}: {reason(error)}") from error
    one = isinstance(found, Tensor | tuple | Mapping) or not isinstance(found, Iterable)
    calls = [found] if one else list(found)
    calls = [(call,) if isinstance(call, Tensor) else call for call in calls]
    # A DataLoader yields lists.
    calls = [tuple(call) if isinstance(call, list) else call for call in calls]
    if not calls or not all(isinstance(call, tuple) for call in calls):
        raise UsageError(
            f"--data {name} is {type(found).__name__}: expected a tensor, the tuple of arguments "
            "of a call, or a list of several such"
        )
    return calls


def _run(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise UsageError(
            f"the model does not run on {describe(args, kwargs)}: {reason(error)}; "
            "--input gives it other inputs"
        ) from error


def _read_weights(model: nn.Module, file: Path) -> None:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:
        raise UsageError(f"{file} holds no state dict of this model: {reason(error)}") from error


def _build(what: str, make: Callable[..., Any], settings: Settings) -> Any:
    try:
        return make(**settings)
    except UsageError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise UsageError(f"{what}({given}) failed with {reason(error)}") from error


def _import(package: str, why: str) -> Any:
    try:
        return importlib.import_module(package)
    except Exception as error:
        raise UsageError(f"{why}: {package!r} cannot be imported: {reason(error)}") from error


def _attribute(module: str, path: str, what: str) -> Callable[..., Any]:
    """What a module of the user's calls ``path``; it can be called."""
    found = _import(module, f"no {what} {module}:{path}")
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"no {what} {module}:{path}: there is no {name!r} in {module}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(
            f"no {what} {module}:{path}: an object of type {type(found).__name__} is not callable"
        )
    return found


def _own(module: str, path: str) -> Callable[[Settings], Built]:
    """A callable of the user's; a module of torch that exists already will do too."""
    found = _attribute(module, path, "model")

    def build(settings: Settings) -> Built:
        if isinstance(found, nn.Module):
            if settings:
                raise UsageError(f"{module}:{path} is a model already and takes no --set")
            return found, None
        return _unpack(f"{module}:{path}", _build(f"{module}:{path}", found, settings))

    return build


def _unpack(name: str, made: Any) -> Built:
    """model, (model, args) or (model, args, kwargs); args may be the only tensor."""
    model, *rest = made if isinstance(made, tuple) and made else (made,)
    args = rest[0] if rest else ()
    kwargs = rest[1] if len(rest) > 1 else {}
    args = (args,) if isinstance(args, Tensor) else args
    right = isinstance(args, tuple | list) and isinstance(kwargs, Mapping) and len(rest) < 3
    if not isinstance(model, nn.Module) or not right:
        shown = ", ".join(type(part).__name__ for part in (model, *rest))
        raise UsageError(
            f"{name} returned ({shown}): expected an nn.Module, (module, args) "
            "or (module, args, kwargs)"
        )
    return model, (lambda batch: (tuple(args), kwargs)) if rest else None


def _timm(name: str) -> Callable[[Settings], Built]:
    timm = _import("timm", f"no model timm:{name}")
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        hint = f": did you mean {', '.join(near)}?" if near else "; timm.list_models() lists them"
        raise UsageError(f"timm has no model {name!r}{hint}")

    def build(settings: Settings) -> Built:
        model = _build(f"timm.create_model {name}", partial(timm.create_model, name), settings)
        channels, *sides = timm.data.resolve_model_data_config(model)["input_size"]
        channels, side = settings.get("in_chans", channels), settings.get("img_size")
        if side is not None:
            sides = [side, side] if isinstance(side, int) else list(side)
        return model, lambda batch: ((torch.randn(batch, channels, *sides),), {})

    return build


def _hugging_face(name: str) -> Callable[[Settings], Built]:
    """A model class, a model type, or a config.json; never the hub."""
    transformers = _import("transformers", f"no model hf:{name}")
    found = getattr(transformers, name, None)
    path = Path(name)
    # A folder may have the name of a model type by chance.
    if (path / "config.json").is_file() or (path.suffix == ".json" and path.is_file()):
        configure = partial(_config_file, transformers, path)
    elif isinstance(found, type) and hasattr(found, "config_class") and found.config_class:
        configure = found.config_class
    elif name in transformers.CONFIG_MAPPING:
        found, configure = None, partial(transformers.AutoConfig.for_model, name)
    else:
        raise UsageError(
            f"transformers has no model {name!r}: expected a model class (BertModel), "
            "a model type (bert), or the path of a config.json; nothing is downloaded"
        )

    def build(settings: Settings) -> Built:
        config = _build(f"the configuration of hf:{name}", configure, settings)
        # Plain tuples: a file that returns a class of transformers needs it to be loaded.
        config.return_dict = False
        if hasattr(config, "use_cache"):
            config.use_cache = False
        make = _class_of(transformers, found, config)
        model = _build(f"hf:{name}", partial(make, config), {})
        return model, partial(_hugging_face_inputs, name, model)

    return build


def _config_file(transformers: Any, path: Path, **settings: Any) -> Any:
    return transformers.AutoConfig.from_pretrained(path, local_files_only=True, **settings)


def _class_of(transformers: Any, found: Any, config: Any) -> Callable[[Any], Any]:
    """The class that was named, else the one that the configuration names, else the bare model."""
    named = found or next(
        (getattr(transformers, name, None) for name in config.architectures or ()), None
    )
    return named or transformers.AutoModel.from_config


def _hugging_face_inputs(
    name: str, model: Any, batch: int
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Images or texts for a model of transformers, in the sizes of its configuration."""
    main, config = model.main_input_name, model.config
    if main == "pixel_values" and hasattr(config, "image_size"):
        side = config.image_size
        sides = [side, side] if isinstance(side, int) else list(side)
        return (), {main: torch.randn(batch, getattr(config, "num_channels", 3), *sides)}
    if main == "input_ids" and hasattr(config, "vocab_size"):
        length = min(TEXT_LENGTH, getattr(config, "max_position_embeddings", TEXT_LENGTH))
        ids = {main: torch.randint(config.vocab_size, (batch, length))}
        if "attention_mask" in inspect.signature(model.forward).parameters:
            ids["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
        return (), ids
    raise UsageError(
        f"hf:{name} takes {main!r}, whose shape its configuration does not tell: "
        f"give --input {main}=SHAPE, and the others it needs"
    )
