"""``torch.ops.pitome.*``: well-formed custom ops, and the arithmetic of groups."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from pitome_fx.ops import OPS
from tests.support.matching import call

B, N, K, F = 2, 11, 4, 3

ops = torch.ops.pitome


def step(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """size (B, N), kept, moved and target of a merge of K of the N tokens, the first protected."""
    size = torch.randint(1, 4, (B, N)).to(dtype)
    metric = torch.randn(B, N, 5, dtype=dtype)
    return size, *ops.match(metric, size, None, "pitome", K, 1, 0)


def members(assign: Tensor, item: int) -> list[list[int]]:
    """The tokens of every group of one item."""
    groups = assign[item].tolist()
    return [[i for i, g in enumerate(groups) if g == group] for group in range(max(groups) + 1)]


def arguments(name: str) -> tuple[Any, ...]:
    """A valid call of an op."""
    size, kept, moved, target = step()
    assign = ops.assignment(kept, moved, target)
    groups = ops.merge_size(torch.ones_like(size), kept, moved, target)
    x = torch.randn(B, N, F, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(N).expand(B, -1) >= 8
    weighing = call("tofu", torch.randn(B, N, 5), size, padding, K, 1, 0)
    heads = torch.randn(B, 2, N, 5)
    return {
        "match": (torch.randn(B, N, 5), size, padding, "pitome", K, 1, 1),
        "weigh": (kept, moved, target, *weighing),
        "combine": (x, kept, moved, torch.rand(B, N - K), torch.rand(B, N - K, K)),
        "importance": (heads, heads[:, :1], size, padding, 1),
        "merge_size": (size, kept, moved, target),
        "merge": (x, size, kept, moved, target),
        "assignment": (kept, moved, target),
        "unmerge": (torch.randn(B, N - K, F, dtype=torch.float64, requires_grad=True), assign),
        "pick": (x, moved),
        "project": (x, assign, groups),
        "group_logsumexp": (x, assign, groups),
    }[name]


@pytest.mark.parametrize("name", OPS)
def test_op_is_well_formed(name: str) -> None:
    torch.library.opcheck(getattr(ops, name).default, arguments(name))


@pytest.mark.parametrize("name", OPS)
def test_shape_function_agrees_with_the_body(name: str) -> None:
    real = OPS[name].body(*arguments(name))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = OPS[name].shape(*arguments(name))
    pairs = zip(real, fake, strict=True) if isinstance(real, tuple) else [(real, fake)]
    for a, b in pairs:
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize(
    "name", ["merge", "combine", "unmerge", "pick", "project", "group_logsumexp"]
)
def test_gradients(name: str) -> None:
    x, *rest = arguments(name)
    x = x.detach().requires_grad_()
    assert gradcheck(lambda x: getattr(ops, name)(x, *rest), (x,))


def test_sizes_sum_to_the_number_of_tokens() -> None:
    size, kept, moved, target = step()
    after = ops.merge_size(size, kept, moved, target)
    assert torch.equal(after.sum(1), size.sum(1))
    again = ops.match(torch.randn(B, N - K, 5), after, None, "tome", 2, 1, 0)
    assert torch.equal(ops.merge_size(after, *again).sum(1), size.sum(1))


def test_merge_is_the_size_weighted_mean_of_every_group() -> None:
    size, kept, moved, target = step()
    x = torch.randn(B, N, F, dtype=torch.float64)
    merged = ops.merge(x, size, kept, moved, target)
    for item in range(B):
        for g, group in enumerate(members(ops.assignment(kept, moved, target), item)):
            weight = size[item, group] / size[item, group].sum()
            mean = (weight.unsqueeze(1) * x[item, group]).sum(0)
            torch.testing.assert_close(merged[item, g], mean, rtol=1e-12, atol=1e-12)


def test_unmerge_gives_every_token_the_value_of_its_group() -> None:
    _, kept, moved, target = step()
    assign = ops.assignment(kept, moved, target)
    x = torch.randn(B, N - K, F)
    lifted = ops.unmerge(x, assign)
    for item in range(B):
        assert torch.equal(lifted[item], x[item, assign[item]])


def test_merging_what_was_unmerged_changes_nothing() -> None:
    size, kept, moved, target = step()
    x = torch.randn(B, N - K, F, dtype=torch.float64)
    lifted = ops.unmerge(x, ops.assignment(kept, moved, target))
    torch.testing.assert_close(ops.merge(lifted, size, kept, moved, target), x, rtol=1e-12, atol=0)


def test_protected_tokens_keep_their_places() -> None:
    metric, size = torch.randn(B, N, 5), torch.ones(B, N)
    kept, moved, target = ops.match(metric, size, None, "pitome", 3, 2, 1)
    assign = ops.assignment(kept, moved, target)
    assert assign[:, :2].tolist() == [[0, 1]] * B
    assert assign[:, -1].tolist() == [N - 3 - 1] * B
    assert not set(target.flatten().tolist()) & {0, 1, N - 3 - 1}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_group_of_one_keeps_its_value_exactly(dtype: torch.dtype) -> None:
    size, kept, moved, target = step(torch.float32)
    x = (torch.randn(B, N, F) * 1000).to(dtype)
    x[:, :, 0] = 1 / 3
    merged = ops.merge(x, size, kept, moved, target)
    assert merged.dtype == dtype
    for item in range(B):
        alone = [m for m in members(ops.assignment(kept, moved, target), item) if len(m) == 1]
        assert len(alone) >= N - 2 * K
        for group in alone:
            at = kept[item].tolist().index(group[0])
            assert torch.equal(merged[item, at], x[item, group[0]])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_stays_in_its_group(value: float) -> None:
    size, kept, moved, target = step()
    x = torch.randn(B, N, F, dtype=torch.float64)
    group = int(target[0, 0])
    x[0, int(moved[0, 0])] = value
    finite = ops.merge(x, size, kept, moved, target).isfinite().all(-1)
    assert not finite[0, group]
    finite[0, group] = True
    assert finite.all()


def test_a_value_that_is_not_finite_gets_its_share_of_the_gradient() -> None:
    size, *merging = step()
    x = torch.randn(B, N, F, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(ops.merge(x, size, *merging).sum(), x)
    broken = x.detach().masked_fill(torch.rand(B, N, 1) < 0.5, torch.nan).requires_grad_()
    (found,) = torch.autograd.grad(ops.merge(broken, size, *merging).sum(), broken)
    torch.testing.assert_close(found, wanted)


def test_half_types_are_averaged_in_float32() -> None:
    size = torch.tensor([[1000.0, 1.0]])
    one = torch.tensor([[0]])
    x = torch.tensor([[[1.0], [257.0]]], dtype=torch.bfloat16)
    merged = ops.merge(x, size, one, one + 1, one)
    wanted = torch.tensor((1000 * 1.0 + 256.0) / 1001).bfloat16()
    assert merged.item() == wanted.item()


def test_project_is_the_plain_mean() -> None:
    _, kept, moved, target = step()
    assign = ops.assignment(kept, moved, target)
    count = ops.merge_size(torch.ones(B, N, dtype=torch.float64), kept, moved, target)
    x = torch.randn(B, N, F, dtype=torch.float64)
    projected = ops.project(x, assign, count)
    for item in range(B):
        for g, group in enumerate(members(assign, item)):
            torch.testing.assert_close(projected[item, g], x[item, group].mean(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_mean_of_the_lowest_float_is_itself(dtype: torch.dtype) -> None:
    """Additive masks hold it."""
    lowest = torch.finfo(dtype).min
    x = torch.full((1, 6, 1), lowest, dtype=dtype)
    assign, size = torch.tensor([[0, 0, 0, 1, 1, 2]]), torch.tensor([[3.0, 2.0, 1.0]])
    assert ops.project(x, assign, size).flatten().tolist() == [lowest] * 3
    found = ops.group_logsumexp(x, assign, size)
    assert found.isfinite().all() and found.max() <= lowest / 2


def test_logsumexp_of_a_group_without_bias_is_log_size() -> None:
    _, kept, moved, target = step()
    assign = ops.assignment(kept, moved, target)
    count = ops.merge_size(torch.ones(B, N, dtype=torch.float64), kept, moved, target)
    bias = ops.group_logsumexp(torch.zeros(B, N, 1, dtype=torch.float64), assign, count)
    torch.testing.assert_close(bias.squeeze(-1), count.log())


def test_logsumexp_of_masked_groups() -> None:
    """Members [[−∞, −∞], [−∞, 2], [huge, huge]]: hidden, half hidden, beyond exp."""
    assign = torch.tensor([[0, 0, 1, 1, 2, 2]])
    size = torch.full((1, 3), 2.0, dtype=torch.float64)
    values = [-torch.inf, -torch.inf, -torch.inf, 2.0, 5000.0, 5000.0]
    bias = torch.tensor(values, dtype=torch.float64).view(1, 6, 1).requires_grad_()
    found = ops.group_logsumexp(bias, assign, size)
    wanted = torch.tensor([-torch.inf, 2.0, 5000 + math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(found.flatten(), wanted)
    found[:, 1:].sum().backward()
    assert bias.grad is not None
    assert bias.grad.flatten().tolist() == [0, 0, 0, 1, 0.5, 0.5]


def test_a_hidden_group_has_no_gradient() -> None:
    bias = torch.full((1, 4, 1), -torch.inf, requires_grad=True)
    found = ops.group_logsumexp(bias, torch.tensor([[0, 0, 1, 1]]), torch.full((1, 2), 2.0))
    assert torch.equal(found, torch.full((1, 2, 1), -torch.inf))
    found.exp().sum().backward()
    assert bias.grad is not None and torch.equal(bias.grad, torch.zeros(1, 4, 1))
