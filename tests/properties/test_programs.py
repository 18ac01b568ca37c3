"""The laws of the rewrite, each over drawn programs.

Named by their letters in the list of laws: (a) rewritten = simulated, and (l) so it is with an op
that has no rule anywhere; (b) ratio 1; (c) form; (d) groups; (f) gradients; (g) batch; (i) graph;
(j) twice; (m) reasons; (o) copies; (p) devices. Of merging itself, (e), (h) and (n): test_merging;
(k): test_compiled.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import event, given
from torch import Tensor

import pitome_fx
from pitome_fx import PitomeWarning, RefusedError
from pitome_fx.frontends.transform import spelled_out_layers
from tests.properties import PROFILE, gradients, laws, share, writes
from tests.properties.build import build
from tests.properties.description import Mix, Options, Program, Residual, Write
from tests.properties.found import BLOCK, FOUND, IN_NARROW_DTYPES, IN_TRAINING
from tests.properties.placing import placed
from tests.properties.programs import aliens, options, programs
from tests.properties.statistics import tell
from tests.properties.trial import of_users, run
from tests.properties.ways import examined, narrow, trained, two_lengths, unchanged
from tests.support.oracle import assert_equal, tensors


@pytest.mark.parametrize("number", range(len(FOUND)))
def test_programs_that_once_failed(number: int) -> None:
    examined(*FOUND[number])


@pytest.mark.parametrize("number", range(len(IN_TRAINING)))
def test_programs_that_once_failed_in_training(number: int) -> None:
    assert not trained(*IN_TRAINING[number]).waived


@pytest.mark.parametrize("number", range(len(IN_NARROW_DTYPES)))
def test_programs_that_once_failed_in_a_narrow_dtype(number: int) -> None:
    assert not narrow(*IN_NARROW_DTYPES[number]).waived


@pytest.mark.parametrize("kind", writes.KINDS)
def test_a_write_of_every_kind_is_kept(kind: str) -> None:
    examined(Program((Write(kind), *BLOCK, Write(kind), *BLOCK)), {"ratio": 0.75, "pays": True})


@PROFILE
@given(programs(), options())
def test_a_rewritten_is_simulated(program: Program, chosen: Options) -> None:
    trial = run(program, chosen)
    tell(program, trial)
    laws.captured(trial)
    laws.simulated(trial)


@share(0.5)
@given(programs(), options(), aliens)
def test_l_an_op_without_a_rule_changes_nothing(
    program: Program, chosen: Options, alien: Mix
) -> None:
    place = len(program.steps) // 2
    steps = (*program.steps[:place], Residual(alien), *program.steps[place:], *BLOCK)
    laws.simulated(run(replace(program, steps=steps), chosen))


@share(0.1)
@given(programs())
def test_b_ratio_one_is_dense(program: Program) -> None:
    module, inputs = build(program)
    with torch.no_grad(), spelled_out_layers():
        graph = pitome_fx.transform(module, clones(inputs), ratio=1.0)
        assert_equal(graph(*clones(inputs)), module(*clones(inputs)))


@share(0.1)
@given(programs(), options())
def test_c_and_j_the_front_end_keeps_the_form_and_refuses_twice(
    program: Program, chosen: Options
) -> None:
    chosen = of_users(chosen)
    module, inputs = build(program)
    with torch.no_grad(), spelled_out_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PitomeWarning)
        graph = pitome_fx.transform(module, clones(inputs), **chosen)
        (output, spec), (dense, wanted) = (
            pytree.tree_flatten(f(*clones(inputs))) for f in (graph, module)
        )
        assert spec == wanted
        assert [(x.shape, x.dtype, x.device) for x in tensors(output)] == [
            (x.shape, x.dtype, x.device) for x in tensors(dense)
        ]
        if not any("pitome" in str(node.target) for node in graph.graph.nodes):
            assert_equal(output, dense)
            return
        event("merges")
        with pytest.raises(RefusedError, match="transformed already"):
            pitome_fx.transform(graph, clones(inputs), **chosen)


@share(0.5)
@given(programs(), options())
def test_d_groups_partition_the_tokens(program: Program, chosen: Options) -> None:
    trial = run(program, chosen)
    laws.partitioned(trial)
    if laws.special_apart(trial, program):
        event("special tokens kept apart")
    if laws.padding_apart(trial, program):
        event("padding kept apart")


@share(0.5)
@given(programs(), options())
def test_f_gradients_are_those_of_the_simulation(program: Program, chosen: Options) -> None:
    gradients.same(run(program, chosen))


@share(0.3)
@given(programs(), options())
def test_g_a_batch_is_its_items_one_by_one(program: Program, chosen: Options) -> None:
    event(laws.one_by_one(program, chosen).waived or "held")


@share(0.5)
@given(programs(), options())
def test_i_the_graph_is_sound_and_its_metadata_fresh(program: Program, chosen: Options) -> None:
    laws.sound(run(program, chosen))


@share(0.1)
@given(programs(), options())
def test_m_every_refusal_has_a_reason_and_a_place(program: Program, chosen: Options) -> None:
    chosen = of_users(chosen)
    module, inputs = build(program)
    with torch.no_grad():
        report = pitome_fx.explain(module, clones(inputs), **chosen)
    assert all(block.module and (block.merged or block.reason) for block in report.blocks)
    assert all(place.module for place in (*report.lifts, *report.projections))


@share(0.5)
@given(programs(), options())
def test_m_whatever_is_not_merged_says_why(program: Program, chosen: Options) -> None:
    laws.reasoned(run(program, chosen))


@PROFILE
@given(programs(), options())
def test_o_merging_exact_copies_changes_nothing(program: Program, chosen: Options) -> None:
    event(unchanged(program, chosen).waived or "held")


@share(0.2)
@given(programs(), options())
def test_p_the_pass_computes_where_the_program_does(program: Program, chosen: Options) -> None:
    event(placed(program, chosen).waived or "held")


@share(0.5)
@given(programs(), options())
def test_a_in_narrow_dtypes_there_is_no_more_than_rounding(
    program: Program, chosen: Options
) -> None:
    event(narrow(program, chosen).waived or "held")


@share(0.1)
@given(programs(), options())
def test_a_at_two_lengths_of_one_trace(program: Program, chosen: Options) -> None:
    event(two_lengths(program, chosen).waived or "held")


def clones(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs anew, for a program that may write to them."""
    return tuple(x.clone() for x in inputs)
