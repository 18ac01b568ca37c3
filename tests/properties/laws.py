"""What must hold of every trial; named by its letter in the list of laws (see test_programs)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from pitome_fx.groups import sizes
from pitome_fx.passes.dissolve.dissolving import dissolve
from tests.properties.attention import hides_padding
from tests.properties.build import read_padding
from tests.properties.description import Options, Program
from tests.properties.lending import ALONG_ANY
from tests.properties.mixing import ACROSS_BATCH
from tests.properties.trial import (
    LIMIT,
    Flat,
    Trial,
    rewritten,
    run,
    tried,
    with_writes,
    worst_error,
)
from tests.support.oracle import tensors


def captured(trial: Trial) -> None:
    """The graph that is rewritten computes what the module does, writes included."""
    error = worst_error(trial.captured, trial.dense)
    assert error <= LIMIT, f"captured is not the module: {error:.1e} > {LIMIT:.0e}"


def simulated(trial: Trial) -> None:
    """(a) rewritten = simulated, and (c) in the form of the dense outputs."""
    form, dense = ([(x.shape, x.dtype) for x in xs] for xs in (trial.output, trial.dense))
    assert form == dense, f"shapes or dtypes changed: {form} instead of {dense}"
    error = worst_error(trial.output, trial.simulated)
    assert error <= LIMIT, f"rewritten is not simulated: {error:.1e} > {LIMIT:.0e}"


def dissolved(trial: Trial) -> None:
    """(a) in the form that was asked for, without pitome ops, it computes the same."""
    outcome = trial.outcome
    form = outcome.options.form
    if outcome.rewritten is None or form in (None, "pitome") or has_ties(trial):
        return
    # As it was rewritten: autograd refuses writes to some views.
    with torch.no_grad():
        graph = dissolve(outcome.rewritten.graph, outcome.program.inputs, form)
    assert not any("pitome" in str(node.target) for node in graph.graph.nodes)
    error = worst_error(with_writes(graph, trial.flat), trial.output)
    assert error <= LIMIT, f"in the form {form} it computes something else: {error:.1e}"


def partitioned(trial: Trial) -> None:
    """(d) groups are a partition of the tokens; protected ones stay alone and in place."""
    if trial.outcome.rewritten is None:
        return
    merges = trial.outcome.rewritten.merges
    assert len(trial.assignments) == len(merges)
    for groups, merged in zip(trial.assignments, merges, strict=True):
        space, tokens = merged.space, groups.shape[1]
        assert space.count == merged.after < merged.before
        for row in groups:
            counts = row.bincount(minlength=int(space.count))
            assert len(counts) == space.count
            assert counts.sum() == tokens
            assert (counts > 0).all()
        total = sizes(groups)
        assert (total[:, : space.front] == 1).all()
        assert (total[:, tokens - space.back :] == 1).all()
        place = torch.arange(tokens, device=groups.device)
        assert (groups[:, : space.front] == place[: space.front]).all()
        last = place[tokens - space.back :] - tokens + int(space.count)
        assert (groups[:, tokens - space.back :] == last).all()


def special_apart(trial: Trial, program: Program) -> bool:
    """(d) tokens that the program puts beside the others stay alone; were there any?"""
    # What mixes tokens leaves none of them special, and a write that stays is an unknown op.
    apart = program.other != program.total and not program.mixers() and not program.writes()
    if not apart or trial.outcome.options.protect != "auto":
        return False
    found = False
    for groups in trial.assignments:
        if groups.shape[1] != program.total:
            continue
        found = bool(program.prefix or program.suffix)
        total = sizes(groups).gather(1, groups)
        assert (total[:, : program.prefix] == 1).all(), "a prefix token was merged"
        assert (total[:, program.total - program.suffix :] == 1).all(), "a suffix token was merged"
    return found


def padding_apart(trial: Trial, program: Program) -> bool:
    """(d) padding and real tokens never share a group; was there anything to tell apart?

    However differently the attentions are told of it.
    """
    # An attention that is not told of the padding merges it like any other token.
    told = all(hides_padding(attention) for attention in program.attentions())
    # Correlations of the tokens with themselves are linear attention.
    told = told and "correlation" not in program.mixers()
    # Slots attend to all tokens, and nobody tells them either.
    told = told and not any(kind.startswith("slots") for kind in program.mixers())
    # Which of two streams merges is told by its number of tokens.
    apart = program.other != program.total
    if trial.outcome.rewritten is None or not program.hidden or not told or not apart:
        return False
    seen, _ = read_padding(program.padding, trial.flat.inputs[-1])
    assert seen is not None
    found = False
    for groups in trial.assignments:
        if groups.shape != seen.shape:
            continue
        found = True
        for row, real in zip(groups, seen, strict=True):
            assert not set(row[real].tolist()) & set(row[~real].tolist())
    return found


def sound(trial: Trial) -> None:
    """(i) the graph is well-formed, and its metadata those of a fresh propagation."""
    outcome = trial.outcome
    if outcome.rewritten is None:
        return
    graph = outcome.rewritten.graph
    graph.graph.lint()
    before = metadata(graph)
    with torch.no_grad():
        FakeTensorProp(graph, outcome.program.fake_mode).propagate_dont_convert_inputs(
            *outcome.program.inputs
        )
    after = metadata(graph)
    wrong = [node for node in before if before[node] != after[node]]
    assert not wrong, f"stale metadata: {[(n, before[n], after[n]) for n in wrong[:3]]}"


def metadata(graph: GraphModule) -> dict[Node, list[object]]:
    """Shape, dtype and device of every tensor that a node yields."""
    return {
        node: [(x.shape, x.dtype, x.device) for x in tensors(node.meta.get("val"))]
        for node in graph.graph.nodes
        if node.op == "call_function"
    }


def reasoned(trial: Trial) -> None:
    """(m) every refusal, lift and projection says why."""
    rewritten = trial.outcome.rewritten
    if rewritten is not None and trial.outcome.options.proportional:
        assert not rewritten.unweighted, "an attention that was to be proportional is not"
    for block in trial.report.blocks:
        assert block.merged == (block.reason is None)
        assert block.merged or len(str(block.reason)) > 10
        assert block.merged == (block.tokens_after < block.tokens_before)
    for place in (*trial.report.lifts, *trial.report.projections):
        assert place.why


def one_by_one(program: Program, options: Options) -> Trial:
    """(g) a batch is its items one by one; outputs in forms that take no part of the batch."""
    program = replace(program, form="tuple")
    trial = run(program, options)
    if program.batch == 1:
        return replace(trial, waived="a batch of one")
    if mixes_batch(program):
        return replace(trial, waived="the program itself mixes the items")
    items = [
        Flat(trial.flat.module, tuple(x[i : i + 1] for x in trial.flat.inputs))
        for i in range(program.batch)
    ]
    of_one = rewritten(items[0], options)
    for i, item in enumerate(items):
        alone = tried(of_one, item)
        # A batch of one has fewer axes to tell apart: more blocks may merge there, and values stay
        # merged that two streams, whose items nothing pairs, have to unmerge.
        if alone.merges != trial.merges:
            return replace(trial, waived="other blocks merge in a batch of one")
        if events(alone) != events(trial):
            return replace(trial, waived="other values stay merged in a batch of one")
        if decisions(alone, 0, 1) != decisions(trial, i, program.batch):
            assert has_ties(trial), "the items of a batch merge unlike one by one, without a tie"
            return replace(trial, waived="tied tokens")
        whole = tuple(item_of(x, y, i) for x, y in zip(trial.output, alone.output, strict=True))
        error = worst_error(whole, alone.output)
        assert error <= LIMIT, f"item {i} of the batch is not what it is alone: {error:.1e}"
    return trial


def events(trial: Trial) -> tuple[int, int]:
    """How many values are merged along, and how many unmerged."""
    done = trial.outcome.rewritten
    return (0, 0) if done is None else (len(done.projections), len(done.lifts))


def decisions(trial: Trial, item: int, batch: int) -> list[Any]:
    """The groups of one item of the batch, in all its frames, after every merge."""
    return [groups.unflatten(0, (batch, -1))[item].tolist() for groups in trial.assignments]


def item_of(whole: Tensor, alone: Tensor, item: int) -> Tensor:
    """One item of an output or of an input, whichever dimension the batch is."""
    if whole.shape == alone.shape:
        return whole
    places = [d for d, (a, b) in enumerate(zip(whole.shape, alone.shape, strict=True)) if a != b]
    rows = alone.shape[places[0]]
    return whole.narrow(places[0], item * rows, rows)


def has_ties(trial: Trial) -> bool:
    """Were tokens merged that an earlier unmerge, or padding, had made equal?"""
    rewritten = trial.outcome.rewritten
    assert rewritten is not None
    lifted = any(event.node.op != "output" for event in rewritten.lifts)
    return lifted or any(merged.padding for merged in rewritten.merges) or is_undefined(trial)


def is_undefined(trial: Trial) -> bool:
    """Is anything NaN, which has no order?"""
    return any(x.is_floating_point() and bool(x.isnan().any()) for x in trial.dense)


def mixes_batch(program: Program) -> bool:
    """Does an output of some item depend on another item?"""
    taps = [getattr(step, "readout", "") for step in program.steps]
    summed = {"mean-loss", "ignored-loss", "everything"} & {program.readout, *taps}
    lent = any(lend.use in ALONG_ANY for lend in program.lends())
    return bool(summed) or lent or bool(ACROSS_BATCH.keys() & set(program.mixers()))
