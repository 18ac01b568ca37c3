"""compare: how far merging moves a model's outputs on a user's own data."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from pitome_fx.errors import UsageError
from pitome_fx.frontends.compiling import compiled_apart
from pitome_fx.frontends.explain import explain
from pitome_fx.measuring.changes import are_scores, cosine, float_outputs, relative_change
from pitome_fx.measuring.comparison import Accuracy, Comparison, Item, OutputChange
from pitome_fx.measuring.inputs import Call, dense_model
from pitome_fx.options import Options
from pitome_fx.progress import saying
from pitome_fx.report import Report, notes_of


def compare(
    model: Any,
    data: Any,
    options: Mapping[str, Any] | Options | None = None,
    *,
    labelled: bool | None = None,
    worst: int = 5,
    progress: bool = True,
) -> Comparison:
    """Run the dense and the merged model on the same data and say how their outputs differ.

    The model runs as it is, in its mode and without gradients. B is the number of items of a call.

    Args:
        model: a module or any callable that torch.compile takes.
        data: inputs of one call (a tensor, a tuple of positional arguments, or a mapping of named
            ones), or any other iterable of such, a DataLoader for one. Inputs may be a pair
            ``(inputs, labels)``.
        options: of the merged model, as in ``Options``; it runs by ``lowering="eager"`` unless
            they name another, as what is computed does not depend on it.
        labelled: are the elements pairs with labels? By default they are where the second of two
            is an integer tensor (B,), of as many items as the first.
        worst: how many of the items that move most are listed.
        progress: show what is going on, where the error output is a terminal.

    Raises:
        OptionsError: an option is wrong.
        UsageError: the data are empty or no inputs of a call, labels are not one for each item,
            or the model is transformed already.
    """
    model, asked = dense_model(model), Options.parse(options)
    how = {"lowering": "eager", **asked.changed()}
    merged = compiled_apart(model, "pitome", options=how)
    found = _Found()
    batches = _batches(data, labelled)
    total = len(data) if hasattr(data, "__len__") and not _is_call(data) else None
    # Beyond the limit Dynamo would run batches dense, and they would seem not to change.
    without_limit = torch._dynamo.config.patch(
        recompile_limit=sys.maxsize, accumulated_recompile_limit=sys.maxsize
    )
    with saying(progress) as say, torch.no_grad(), without_limit:
        for done, (call, labels) in enumerate(batches):
            say("comparing", done, total)
            dense = call(model)  # Its own errors come first, and as its own.
            if done == 0:
                report = explain(model, call.args, call.kwargs, **how)
            found.add(call(merged), dense, call.items, labels)
    if not found.outputs:
        raise UsageError("nothing to compare: the data are empty, or no output is of floats")
    notes = (DRAWING,) if isinstance(model, nn.Module) and model.training else ()
    return found.comparison(str(asked), report, notes, worst)


DRAWING = "the model is in training mode: what it draws at random counts as a change"


def _is_call(data: Any) -> bool:
    return isinstance(data, Tensor | Mapping | tuple)


def _batches(data: Any, labelled: bool | None) -> Iterator[tuple[Call, Tensor | None]]:
    """The calls, with labels where there are any."""
    if _is_call(data):
        data = [data]
    if not isinstance(data, Iterable) or isinstance(data, str):
        raise UsageError(
            f"data of type {type(data).__name__}: expected inputs of a call, or an iterable of such"
        )
    for element in data:
        if labelled or (labelled is None and _is_labelled(element)):
            if not isinstance(element, Sequence) or len(element) != 2:
                raise UsageError("labelled=True, but an element is no pair (inputs, labels)")
            call = Call.of(element[0])
            yield call, _labels(element[1], call.items)
        else:
            yield Call.of(element), None


def _labels(given: Any, items: int) -> Tensor:
    """One class for each item, (B,)."""
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"labels of type {type(given).__name__}: expected integers (B,)") from None
    if labels.shape != (items,) or labels.is_floating_point():
        raise UsageError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {items} items: expected "
            "one integer, its class, for each"
        )
    return labels


def _is_labelled(element: Any) -> bool:
    """Is it a pair whose second is a class for each item of the first?"""
    if not isinstance(element, tuple | list) or len(element) != 2:
        return False
    inputs, labels = element
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        return False
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    return bool(tensors) and tensors[0].dim() > 1 and len(tensors[0]) == len(labels)


class _Found:
    """What is found, batch by batch.

    Attributes:
        outputs: of each output, for every batch.
        moved: for every batch how far each item moves, by the output that moves most, (B,).
        right: how many predictions of the dense and of the merged model are right.
        labels: how many labels there were.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, list[_Batch]] = {}
        self.moved: list[Tensor] = []
        self.right = {"dense": 0, "merged": 0}
        self.labels = 0

    def add(self, found: Any, dense: Any, items: int, labels: Tensor | None) -> None:
        """One batch of so many items."""
        of_items: list[Tensor] = []
        of_all: list[Tensor] = []
        for name, a, b in float_outputs(found, dense):
            each = b.dim() > 0 and len(b) == items
            # What is no output of each item, such as a loss, is one of all together.
            batch = _Batch.of(a, b) if each else _Batch.of(a[None], b[None])
            self.outputs.setdefault(name, []).append(batch)
            (of_items if each else of_all).append(batch.change)
        if of_items or of_all:
            self.moved.append(torch.stack(of_items or of_all).amax(0))
        if labels is not None:
            self._count_right(found, dense, labels.cpu())

    def _count_right(self, found: Any, dense: Any, labels: Tensor) -> None:
        scores = next(((a, b) for _, a, b in float_outputs(found, dense) if are_scores(b)), None)
        if scores is None:
            raise UsageError("labels are given, but no output is one of scores (B, classes)")
        for which, of_class in zip(("merged", "dense"), scores, strict=True):
            self.right[which] += int((of_class.argmax(1).cpu() == labels).sum())
        self.labels += len(labels)

    def comparison(
        self, options: str, report: Report, notes: tuple[str, ...], worst: int
    ) -> Comparison:
        """All of it together."""
        moved = torch.cat(self.moved)
        # What is not finite is worse than anything.
        order = moved.nan_to_num(nan=torch.inf).argsort(descending=True)[:worst].tolist()
        share = {key: right / max(self.labels, 1) for key, right in self.right.items()}
        return Comparison(
            options=options,
            flops=report.flops_after / max(report.flops_before, 1),
            items=len(moved),
            outputs=tuple(_summed_up(name, batches) for name, batches in self.outputs.items()),
            accuracy=Accuracy(**share, labels=self.labels) if self.labels else None,
            worst=tuple(Item(i, float(moved[i])) for i in order),
            notes=(*notes_of(report), *notes),
        )


@dataclass(frozen=True)
class _Batch:
    """One output for one batch: for each item the relative change, the cosine, and whether the
    highest score is of the same class, where there are scores."""

    change: Tensor
    cosine: Tensor
    agree: Tensor | None

    @classmethod
    def of(cls, found: Tensor, dense: Tensor) -> _Batch:
        """From the outputs, (B, …) each."""
        agree = (found.argmax(1) == dense.argmax(1)).cpu() if are_scores(dense) else None
        return cls(relative_change(found, dense).cpu(), cosine(found, dense).cpu(), agree)


def _summed_up(name: str, batches: Sequence[_Batch]) -> OutputChange:
    change = torch.cat([batch.change for batch in batches])
    cosines = torch.cat([batch.cosine for batch in batches])
    agree = [batch.agree for batch in batches if batch.agree is not None]
    return OutputChange(
        name=name,
        mean_change=float(change.mean()),
        largest_change=float(change.max()),
        mean_cosine=float(cosines.mean()),
        smallest_cosine=float(cosines.min()),
        top1_agreement=float(torch.cat(agree).double().mean()) if agree else None,
    )
