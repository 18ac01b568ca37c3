"""What goes wrong in the pass is one kind of error; explain reports what torch.compile runs."""

import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pitome_fx
from pitome_fx import CaptureError, PassError, PitomeError, PitomeWarning
from pitome_fx.passes.tokens import rule
from tests.support.blocks import Block, by_hand, sdpa
from tests.support.compiled import compiled, output_of, told
from tests.support.oracle import assert_equal, transformed

OPTIONS = {"ratio": 0.8}


class Holding(nn.Module):
    """A function over a block, which is a module of its own."""

    def __init__(self, function: Callable[..., Any], **held: nn.Module) -> None:
        super().__init__()
        self.block = Block(24, 3, sdpa)
        self.function = function
        for name, module in held.items():
            setattr(self, name, module)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def _flex(model: Any, x: Tensor, **settings: Any) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    q = x.unflatten(-1, (3, 8)).transpose(1, 2)
    x = x + flex_attention(q, q, q, **settings).transpose(1, 2).flatten(2)
    return model.block(x)


def _flex_masked(model: Any, x: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 24, 24, device="cpu")
    return _flex(model, x, block_mask=mask)


def _generating(model: Any, x: Tensor) -> Iterator[Tensor]:
    for _ in range(2):
        x = model.block(x)
        yield x


def _to_narrow(model: Any, x: Tensor) -> Tensor:
    return model.block(x).to(torch.float8_e4m3fn)


def _nested(model: Any, x: Tensor) -> Tensor:
    ragged = torch.nested.as_nested_tensor(list(model.block(x)), layout=torch.jagged)
    return ragged.to_padded_tensor(0.0)


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


def _sparse(model: Any, x: Tensor) -> Tensor:
    return model.block(torch.sparse.mm(torch.eye(24).to_sparse(), x[0])[None].expand(2, -1, -1))


def _loop(model: Any, x: Tensor) -> Tensor:
    from torch._higher_order_ops.while_loop import while_loop

    _, x = while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x.sin()), (torch.tensor(0), x))
    return model.block(x)


def _choice(model: Any, x: Tensor) -> Tensor:
    x = model.block(x)
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,))


def _remember(model: Any, x: Tensor) -> None:
    model.last = model.block(x)


ODD: dict[str, tuple[Callable[[], Any], int, str]] = {
    "a mask function": (lambda: Holding(_flex_masked), 0, ""),
    "a score function": (
        lambda: Holding(lambda m, x: _flex(m, x, score_mod=lambda s, b, h, i, j: s + (i - j))),
        0,
        "",
    ),
    "vmap": (lambda: Holding(lambda m, x: m.block(torch.vmap(torch.sin)(x))), 0, ""),
    "a branch on data": (lambda: Holding(lambda m, x: m.block(x) if x.sum() > -1e9 else x), 1, ""),
    "a number from data": (lambda: Holding(lambda m, x: m.block(x) * x.mean().item()), 1, ""),
    "rows chosen by data": (lambda: Holding(lambda m, x: m.block(x)[x[..., 0] > 0]), 1, ""),
    "plain Python": (lambda: Holding(lambda m, x: [len(x), "b"]), 0, "captured no graph"),
    "kept out by the user": (
        lambda: Holding(torch._dynamo.disable(lambda m, x: m.block(x))),
        0,
        "captured no graph",
    ),
    "NumPy": (lambda: Holding(lambda m, x: m.block(torch.from_numpy(x.numpy() + 1))), 1, ""),
    "a nested tensor": (lambda: Holding(_nested), 0, "as_nested_tensor"),
    "a generator": (lambda: Holding(_generating), 2, ""),
    "an iterator": (lambda: Holding(lambda m, x: iter([m.block(x)])), 1, ""),
    "a function of autograd": (lambda: Holding(lambda m, x: Sine.apply(m.block(x))), 1, ""),
    "cond": (lambda: Holding(_choice), 1, ""),
    "while": (lambda: Holding(_loop), 1, ""),
    "no output": (lambda: Holding(_remember), 1, ""),
    "complex numbers": (lambda: Holding(lambda m, x: torch.fft.fft(m.block(x)).abs()), 1, ""),
    "a sparse tensor": (lambda: Holding(_sparse), 1, ""),
    "a dtype that cannot be unmerged": (lambda: Holding(_to_narrow), 1, "when it runs"),
    "nothing at all": (nn.Identity, 0, "captured no graph"),
    "constants": (lambda: Holding(lambda m, x: torch.arange(5)), 0, ""),
}


# Dynamo's own, where it traces a function of autograd.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
def test_explain_reports_every_model_that_torch_compile_runs(name: str) -> None:
    build, merged, note = ODD[name]
    model, x = build().eval(), torch.randn(2, 24, 24)
    with torch.no_grad():
        report = pitome_fx.explain(model, (x,), **OPTIONS)
    assert report.merged == merged
    assert note in " ".join(report.notes)
    assert bool(note) == bool(report.notes)
    assert str(report)


@pytest.mark.parametrize("name", ["a mask function", "vmap"])
def test_what_vmap_runs_is_a_reason_not_to_merge(name: str) -> None:
    model, x = ODD[name][0]().eval(), torch.randn(2, 24, 24)
    with torch.no_grad():
        reasons = [block.reason for block in pitome_fx.explain(model, (x,), **OPTIONS).blocks]
        with told() as messages:
            assert_equal(compiled(model, strict=False, **OPTIONS)(x), model(x))
    assert reasons and all("runs under torch.vmap" in str(reason) for reason in reasons)
    assert len(messages) == 1 and "runs under torch.vmap" in messages[0]


def test_a_model_that_dynamo_gives_up_on_is_reported() -> None:
    """torch's own decoder asks whether its mask is causal, and breaks the graph in a loop."""
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 3, 48, batch_first=True), 1)
    x, causal = torch.randn(2, 24, 24), nn.Transformer.generate_square_subsequent_mask(24)
    report = pitome_fx.explain(decoder.eval(), (x, x[:, :10]), {"tgt_mask": causal}, **OPTIONS)
    assert report.blocks == () and "captured no graph" in report.notes[0]
    with pytest.raises(CaptureError, match=r"torch\.export cannot trace"):
        pitome_fx.transform(decoder, (x, x[:, :10]), {"tgt_mask": causal}, **OPTIONS)


UNTRACEABLE = ["a branch on data", "a generator", "NumPy", "a nested tensor"]


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_torch_export_cannot_trace_is_one_sentence(name: str) -> None:
    model = ODD[name][0]().eval()
    with torch.no_grad(), pytest.raises(CaptureError) as failure:
        pitome_fx.transform(model, (torch.randn(2, 24, 24),), **OPTIONS)
    cause = failure.value.__cause__
    assert cause is not None and type(cause).__name__ in str(failure.value)
    assert "torch.compile(model, backend='pitome')" in str(failure.value)
    assert "\n" not in str(failure.value)


def _fail(*args: Any, **kwargs: Any) -> Any:
    raise IndexError("out of range\nin many words")


GELU = torch.ops.aten.gelu.default
SENTENCE = (
    r"the pass failed while {doing}{at} \(IndexError: out of range\): "
    r".+, and please report it .*TORCH_LOGS='\+pitome_fx'"
)
AT_GELU = r" at aten\.gelu\.default in blocks\.0"


class TestFailingStage:
    """Whatever stage fails, at whatever op: transform raises PassError, and the others say it."""

    STAGES = {  # noqa: RUF012
        "capture": ("pitome_fx.passes.capture.program.functionalise_temporaries", "tracing .*", ""),
        "detect": ("pitome_fx.passes.detect.detection.find_sites", "looking for attention", ""),
        "plan": ("pitome_fx.passes.pipeline.make_plan", "planning .*", ""),
        "rewrite": ("pitome_fx.passes.rewrite.profit.rewrite", "rewriting the graph", ""),
        "op": ("rule", "looking for attention", AT_GELU),
        "merged op": ("merged rule", "rewriting the graph", AT_GELU),
    }

    @pytest.fixture(params=STAGES)
    def sentence(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Breaks a stage or a rule; what is to be said of it."""
        place, doing, at = self.STAGES[request.param]
        if "rule" not in place:
            monkeypatch.setattr(place, _fail)
        else:
            right = rule.rule_for(GELU)
            assert right is not None

            def wrong(step: Any, x: Any, **settings: Any) -> Any:
                return _fail() if place == "rule" or x.merged else right(step, x, **settings)

            monkeypatch.setitem(rule._RULES, GELU, wrong)
        return SENTENCE.format(doing=doing, at=at)

    def test_transform_raises_just_that(self, sentence: str) -> None:
        with pytest.raises(PassError, match=sentence) as failure:
            transformed(by_hand(depth=1), **OPTIONS)
        assert isinstance(failure.value, PitomeError)
        assert isinstance(failure.value.__cause__, IndexError)
        assert "\n" not in str(failure.value)

    def test_explain_notes_it(self, sentence: str) -> None:
        case = by_hand(depth=1)
        report = pitome_fx.explain(case.model, case.args, **OPTIONS)
        (note,) = report.notes
        assert note.startswith("a graph of this model runs dense: the pass failed")
        assert re.search(sentence, note)
        assert "Note: a graph of this model runs dense" in str(report)

    def test_torch_compile_says_it_and_runs_dense(self, sentence: str) -> None:
        case = by_hand(depth=1)
        with told() as messages:
            assert_equal(output_of(case, strict=False, **OPTIONS), case.model(*case.args))
        (message,) = messages
        assert re.search(sentence, message)


def test_a_part_that_fails_leaves_the_verdict_on_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What runs dense for an error of ours is not said to have no attention."""
    first = by_hand(depth=1, pool="none").model
    tail = nn.Linear(5, 5)

    def both(x: Tensor) -> Tensor:
        x = first(x)
        torch._dynamo.graph_break()
        return F.relu(tail(x))

    monkeypatch.setitem(rule._RULES, GELU, _fail)
    with told() as messages:
        compiled(both, strict=False, **OPTIONS)(torch.randn(2, 24, 24))
    assert len(messages) == 1 and "the pass failed" in messages[0]


def test_no_garbage_is_looked_for_while_a_graph_is_traced() -> None:
    """It may hold a ``no_grad`` that somebody left open, and ending it writes into the trace."""
    collecting: list[bool] = []

    @torch.library.custom_op("pitome_tests::watched", mutates_args=())
    def watched(x: Tensor) -> Tensor:
        return x.clone()

    @watched.register_fake
    def _(x: Tensor) -> Tensor:
        collecting.append(gc.isenabled())
        return torch.empty_like(x)

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return watched(x)

    program = torch.export.export(Watched(), (torch.randn(2, 3),))
    collecting.clear()
    with pytest.warns(PitomeWarning, match="no attention"):
        pitome_fx.transform(program, ratio=0.9)
    assert collecting and not any(collecting)
    assert gc.isenabled()
