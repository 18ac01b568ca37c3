"""transform(…, outputs="merged"): what the dense outputs are, with groups in place of tokens."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram

import pitome_fx
from pitome_fx import Groups, OptionsError, PitomeWarning, RefusedError
from tests.properties.trial import every_merge_pays
from tests.support.models import Case, bert, encoder, hf_vit, timm_vit
from tests.support.oracle import assert_equal, tensors
from tests.test_outputs import MERGE, WIDTH, Block, Reads, form, grid, inputs

TOKENS = 12


def chosen(x: Tensor) -> dict[str, Any]:
    """Several outputs, nested: tokens, others of one token or none, and no tensor."""
    parts = {"class": x[:, 0], "patches": x[:, 1:], "none": None}
    return {"all": (x, x.mT), "parts": parts, "mean": [x.mean(1), 3]}


READ_OUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "all": (lambda x: x, "1"),
    "patches": (lambda x: x[:, 1:], "1"),
    "channels first": (lambda x: x.mT, "2"),
    "tokens first": (lambda x: x.transpose(0, 1), "0"),
    "a number for each": (lambda x: x.sum(-1), "1"),
    "heads": (lambda x: x.unflatten(-1, (2, -1)).transpose(1, 2), "2"),
    "class token and all": (lambda x: (x[:, 0], x), "-1"),
    "twice": (lambda x: [x, x * 2, x], "111"),
    "with a scratch of the same": (lambda x: (x, x[:, :1]), "1-"),
    "similarity to the class token": (lambda x: x @ x[:, 0].unsqueeze(-1), "1"),
    "nested": (chosen, "12-1---"),
}
"""Read-out → for each of its leaves the dimension that holds groups, or "-"."""

STAY_DENSE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "grid": (grid, r"the output: tokens are unmerged at aten\.unflatten\.int.*a reshape splits"),
    "grid of patches": (lambda x: grid(x[:, 1:-2]), r"tokens are unmerged at aten\.unflatten"),
    "similarities": (lambda x: x @ x.mT, r"the output: tokens are merged in more than one dim"),
    "items together": (lambda x: x.flatten(0, 1), r"the output: tokens share a dimension of it"),
    "sorted": (lambda x: x.sort(1)[0].mul(2), r"none of them is known to hold tokens"),
    "class token": (lambda x: x[:, 0], r"are all dense .*none of them is known to hold tokens"),
    "registers": (
        lambda x: x[:, :1].expand(-1, 3, -1),
        r"none of them is known to hold tokens that merge",
    ),
}
"""Read-out → what the warning says of it."""


def both(
    module: nn.Module | ExportedProgram, args: Any, kwargs: Any = None, **options: Any
) -> tuple[Any, Any]:
    """The program with dense and with merged outputs."""
    options = {**MERGE, **options}
    with torch.no_grad(), every_merge_pays(True):
        dense = pitome_fx.transform(module, args, kwargs, **options)
        return dense, pitome_fx.transform(module, args, kwargs, outputs="merged", **options)


def assert_lifts_to(merged: Any, dense: Any) -> list[Groups | None]:
    """Bit for bit; what is not merged is the same in its form too. Returns the groups by leaf."""
    output, groups = merged
    leaves, spec = pytree.tree_flatten(output)
    wanted, dense_spec = pytree.tree_flatten(dense)
    assert spec == dense_spec
    found = by_leaf(groups, output)
    for x, y, own in zip(leaves, wanted, found, strict=True):
        if own is None:
            assert not isinstance(x, Tensor) or (form(x) == form(y) and torch.equal(x, y))
            continue
        assert torch.equal(own.lift(x), y)
        assert x.shape[own.dim] == own.sizes.shape[1] < y.shape[own.dim]
        assert (own.sizes.sum(1) == y.shape[own.dim]).all()
        for item, sizes in enumerate(own.sizes):
            assert torch.equal(own.assignment[item].bincount().to(sizes), sizes)
    return found


def by_leaf(groups: Any, output: Any) -> list[Groups | None]:
    """For every leaf of the output what a user finds in the same place of the groups."""
    if groups is None or isinstance(groups, Groups):
        return [groups] * len(pytree.tree_leaves(output))
    if isinstance(output, dict):
        assert type(groups) is type(output) and groups.keys() == output.keys()
        return [own for key in output for own in by_leaf(groups[key], output[key])]
    assert type(groups) is type(output)
    return [own for g, x in zip(groups, output, strict=True) for own in by_leaf(g, x)]


@pytest.mark.parametrize("batch", [2, 1])
@pytest.mark.parametrize("read", READ_OUTS)
def test_lifted_they_are_the_dense_outputs(read: str, batch: int) -> None:
    function, dims = READ_OUTS[read]
    module, x = Reads(function), inputs(batch)
    dense, merged = both(module, (x,), strict=True)
    found = assert_lifts_to(merged(x), dense(x))
    assert "".join("-" if own is None else str(own.dim) for own in found) == dims


@pytest.mark.parametrize("form", ["pitome", "aten", "portable"])
def test_in_every_form(form: str) -> None:
    module, x = Reads(chosen), inputs()
    dense, merged = both(module, (x,), form=form, strict=True)
    assert_lifts_to(merged(x), dense(x))
    names = {node.target.namespace for node in merged.graph.nodes if hasattr(node.target, "tags")}
    assert ("pitome" in names) == (form == "pitome")


@pytest.mark.parametrize("read", STAY_DENSE)
def test_a_warning_says_which_stay_dense(read: str) -> None:
    function, words = STAY_DENSE[read]
    module, x = Reads(function), inputs()
    with pytest.warns(PitomeWarning, match=words) as caught:
        dense, merged = both(module, (x,))
    assert [warning.filename for warning in caught] == [__file__]
    output, groups = merged(x)
    assert groups is None
    assert_equal(output, dense(x))
    with pytest.raises(RefusedError, match=words):
        both(module, (x,), strict=True)


def test_the_others_stay_merged() -> None:
    module, x = Reads(lambda x: {"tokens": x, "maps": [x.mean(1), grid(x)]}), inputs()
    words = r"stay dense \(outputs='merged'\): maps\[1\]: tokens are unmerged at aten\.unflatten"
    with pytest.warns(PitomeWarning, match=words):
        dense, merged = both(module, (x,), strict=True)
    output, groups = merged(x)
    assert isinstance(groups["tokens"], Groups) and groups["maps"] is None
    assert_lifts_to((output, groups), dense(x))


@pytest.mark.parametrize("build", [hf_vit, bert])
def test_models_that_return_a_class_of_their_own(build: Callable[[], Case]) -> None:
    case = build()
    kwargs = {**case.kwargs, "output_hidden_states": True}
    dense, merged = both(case.model, case.args, kwargs, strict=True)
    with torch.no_grad():
        output, groups = merged(*case.args, **kwargs)
        wanted = dense(*case.args, **kwargs)
    assert type(output) is type(wanted) is type(groups)
    assert groups.hidden_states[0] is None and groups.pooler_output is None
    counts = [own.sizes.shape[1] for own in groups.hidden_states[1:]]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]
    lifted = groups.last_hidden_state.lift(output.last_hidden_state)
    assert torch.equal(lifted, wanted.last_hidden_state)
    for x, own, y in zip(
        output.hidden_states[1:], groups.hidden_states[1:], wanted.hidden_states[1:], strict=True
    ):
        assert torch.equal(own.lift(x), y)
    assert torch.equal(output.pooler_output, wanted.pooler_output)


@pytest.mark.parametrize(
    "build", [timm_vit, encoder, lambda: encoder(batch_first=False)], ids=["vit", "bf", "sf"]
)
def test_models_that_return_a_tensor(build: Callable[[], Case]) -> None:
    case = build()
    features = getattr(case.model, "forward_features", case.model.forward)

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.model

        def forward(self, x: Tensor) -> Tensor:
            return features(x)

    dense, merged = both(Tower().eval(), case.args, strict=True)
    with torch.no_grad():
        (own,) = assert_lifts_to(merged(*case.args), dense(*case.args))
    assert own is not None and len(own.sizes) == 2


def test_frames_that_merge_each_on_its_own() -> None:
    """Two dimensions hold the items."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block()).double()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.blocks(x.flatten(0, 1)).unflatten(0, (2, 3))
            return x, x.permute(3, 1, 2, 0)

    x = torch.randn(2, 3, TOKENS, WIDTH, dtype=torch.float64)
    dense, merged = both(Frames().eval(), (x,), strict=True)
    first, second = assert_lifts_to(merged(x), dense(x))
    assert first is not None and second is not None
    assert (first.batch, second.batch) == ((0, 1), (3, 1)) and len(first.sizes) == 6


class Weighed(nn.Module):
    """Attention by hand with a bias on keys; returns what the first token pays to each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.qkv = Block(), nn.Linear(WIDTH, 3 * WIDTH)
        self.bias = nn.Parameter(torch.randn(TOKENS) * 3)
        self.double().eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT + self.bias
        x = x + scores.softmax(-1) @ v
        return scores[:, 0], x[:, 0]


def test_scores_that_are_returned_are_those_of_the_dense_outputs() -> None:
    """Whoever reads a single score sees its bias averaged, whether it is unmerged or not."""
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    dense, merged = both(Weighed(), (x,), strict=True, protect=1)
    scores, token = assert_lifts_to(merged(x), dense(x))
    assert scores is not None and token is None


class Remembers(nn.Module):
    """Keeps the tokens of its last call, and returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.register_buffer("last", torch.zeros(2, TOKENS, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        self.last.copy_(x)
        return x


def test_what_is_written_to_a_buffer_is_dense() -> None:
    """A program in functional form returns it as one more output, which is not the caller's."""
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    program = torch.export.export(Remembers().double().eval(), (x,)).run_decompositions({})
    _, merged = both(program, None, strict=True)
    module = merged.module()
    output, groups = module(x)
    assert torch.equal(groups.lift(output), module.last)


def test_exported_programs_take_any_size_and_are_saved() -> None:
    module, x = Reads(lambda x: (x, [x[:, 1:].mT, x.mean(1)])), inputs(2, 21)
    sizes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("tokens", min=12)}
    before = torch.export.export(module, (x,), dynamic_shapes={"x": sizes})
    code = before.graph_module.code
    dense, merged = both(before, None, strict=True)
    merged.validate()
    assert before.graph_module.code == code, "the original is untouched"
    file = io.BytesIO()
    torch.export.save(merged, file)
    file.seek(0)
    for made in (merged, torch.export.load(file)):
        for size in ((2, 21), (5, 40)):
            x = inputs(*size)
            with torch.no_grad():
                assert_lifts_to(made.module()(x), dense.module()(x))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_return_groups_too(how: str) -> None:
    module, x = Reads(chosen), inputs()
    dense, merged = both(module, (x,), strict=True)
    copied = COPIES[how](merged)
    assert_lifts_to(copied(x), dense(x))
    assert_equal(copied(x)[0], merged(x)[0])


def test_gradients_are_those_of_lifted_tokens() -> None:
    module, x = Reads(lambda x: x), inputs()
    dense, merged = both(module, (x,), strict=True)
    weight = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    gradients = []
    for lifted in (dense(x), merged(x)[1].lift(merged(x)[0])):
        gradients.append(torch.autograd.grad((lifted * weight).sum(), list(module.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_result_compiles() -> None:
    module, x = Reads(lambda x: (x, x[:, 0])), inputs()
    dense, merged = both(module, (x,), strict=True)
    with torch.no_grad():
        output, groups = torch.compile(merged, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(groups[0].lift(output[0]), dense(x)[0], rtol=1e-9, atol=1e-12)


def test_where_nothing_merges_no_output_has_groups() -> None:
    module, x = Reads(chosen), inputs()
    for options, warns in (
        ({"ratio": 1.0}, nullcontext()),
        ({"min_tokens": 99}, pytest.warns(PitomeWarning, match="too few tokens")),
    ):
        with warns:
            merged = pitome_fx.transform(module, (x,), outputs="merged", **options)
        output, groups = merged(x)
        assert groups is None
        assert_equal(tensors(output), tensors(module(x)))
        assert_equal(tensors(copy.deepcopy(merged)(x)), tensors(module(x)))
    program = torch.export.export(module, (x,))
    code = program.graph_module.code
    assert pitome_fx.transform(program, outputs="merged", ratio=1.0).module()(x)[1] is None
    assert program.graph_module.code == code, "the original is untouched"


@pytest.mark.parametrize("wrong", ["merge", None, True])
def test_a_wrong_value_is_named_with_what_is_allowed(wrong: Any) -> None:
    with pytest.raises(OptionsError, match=rf"outputs={wrong!r} is not allowed: expected 'dense'"):
        pitome_fx.transform(Reads(chosen), (inputs(),), outputs=wrong)


def test_merged_programs_are_not_transformed_again() -> None:
    _, merged = both(Reads(chosen), (inputs(),))
    with pytest.raises(RefusedError, match="transformed already"):
        pitome_fx.transform(merged, (inputs(),), outputs="merged", ratio=0.8)


class TestGroups:
    """What one does with them; by hand, without any pass."""

    GROUPS = Groups(
        torch.tensor([[2.0, 1.0, 2.0], [1.0, 3.0, 1.0]]),
        torch.tensor([[2, 0, 1, 0, 2], [1, 0, 1, 1, 2]]),
        dim=2,
        batch=(0,),
    )

    def test_members(self) -> None:
        members = [[group.tolist() for group in self.GROUPS.members(item)] for item in (0, 1)]
        assert members == [[[1, 3], [2], [0, 4]], [[1], [0, 2, 3], [4]]]
        assert self.GROUPS.first_members().tolist() == [[1, 2, 0], [1, 0, 4]]

    def test_lift(self) -> None:
        x = torch.randn(2, 7, 3)
        lifted = self.GROUPS.lift(x)
        for item, own in enumerate(self.GROUPS.assignment):
            assert torch.equal(lifted[item], x[item][:, own])
        whole = torch.randn(2, 4, 3, 5, 6)
        assert torch.equal(self.GROUPS.lift(whole)[..., 1, 2], self.GROUPS.lift(whole[..., 1, 2]))

    def test_in_order(self) -> None:
        x = torch.randn(2, 7, 3)
        ordered, groups = self.GROUPS.in_order(x)
        assert groups.first_members().tolist() == [[0, 1, 2], [0, 1, 4]]
        assert groups.sizes.tolist() == [[2, 2, 1], [3, 1, 1]]
        assert torch.equal(groups.lift(ordered), self.GROUPS.lift(x))

    @pytest.mark.parametrize("shape", [(2, 7, 5), (3, 7, 3), (2, 7), ()])
    def test_other_groups_are_refused(self, shape: tuple[int, ...]) -> None:
        words = r"does not hold these groups: expected 3 of them in dimension 2.*2 in dim.*\[0\]"
        with pytest.raises(ValueError, match=words):
            self.GROUPS.lift(torch.zeros(shape))

    def test_they_are_told_in_short(self) -> None:
        told = "Groups(3 of 5 tokens, items=2, dim=2, batch=(0,))"
        assert repr(self.GROUPS) == told
