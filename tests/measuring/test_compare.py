"""compare: how far outputs move, against numbers computed by hand."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pitome_fx
from pitome_fx import OptionsError
from pitome_fx.errors import UsageError
from tests.support.models import bert, timm_vit

HOW = {"ratio": 0.7}


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm_vit().model.double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(7, 3, 48, 48, dtype=torch.float64, generator=torch.manual_seed(3))


def merged_and_dense(
    model: nn.Module, images: Tensor, how: dict[str, Any] = HOW
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return pitome_fx.transform(model, (images,), **how)(images), model(images)


def test_changes_are_those_of_the_outputs(vit: nn.Module, images: Tensor) -> None:
    merged, dense = merged_and_dense(vit, images)
    change = (merged - dense).norm(dim=1) / dense.norm(dim=1)
    found = pitome_fx.compare(vit, images, HOW, worst=3, progress=False)
    (output,) = found.outputs
    assert output.mean_change == pytest.approx(float(change.mean()))
    assert output.largest_change == pytest.approx(float(change.max()))
    cosine = torch.cosine_similarity(merged, dense)
    assert output.mean_cosine == pytest.approx(float(cosine.mean()))
    assert output.smallest_cosine == pytest.approx(float(cosine.min()))
    agree = (merged.argmax(1) == dense.argmax(1)).double().mean()
    assert output.top1_agreement == pytest.approx(float(agree))
    assert [item.number for item in found.worst] == change.argsort(descending=True)[:3].tolist()
    assert found.worst[0].change == pytest.approx(float(change.max()))
    report = pitome_fx.explain(vit, (images,), **HOW)
    assert found.flops == pytest.approx(report.flops_after / report.flops_before)
    assert found.accuracy is None and found.items == 7


def test_batches_and_labels(vit: nn.Module, images: Tensor) -> None:
    much = {"ratio": 0.5}
    merged, dense = merged_and_dense(vit, images, much)
    labels = dense.argmax(1)
    same = (merged.argmax(1) == labels).double().mean()
    assert same < 1, "so that the two models are not equally right"
    data = DataLoader(TensorDataset(images, labels), batch_size=3)
    found = pitome_fx.compare(vit, data, much, progress=False)
    assert found.accuracy is not None and found.accuracy.labels == 7
    assert found.accuracy.dense == 1
    assert found.accuracy.merged == pytest.approx(float(same))
    together = pitome_fx.compare(vit, images, much, progress=False)
    assert found.outputs[0].mean_change == pytest.approx(together.outputs[0].mean_change)
    assert [item.number for item in found.worst] == [item.number for item in together.worst]
    assert f"{found.accuracy.dense:.2%} dense" in str(found)
    assert json.loads(found.to_json())["accuracy"]["labels"] == 7


def test_equal_tokens_change_nothing(vit: nn.Module) -> None:
    found = pitome_fx.compare(vit, torch.zeros(2, 3, 48, 48, dtype=torch.float64), {"ratio": 1.0})
    assert found.outputs[0].largest_change == 0
    assert found.outputs[0].smallest_cosine == 1


def test_named_inputs_and_several_outputs() -> None:
    case = bert()
    found = pitome_fx.compare(case.model, case.kwargs, HOW, progress=False)
    names = [output.name for output in found.outputs]
    assert len(names) == 2 and "last_hidden_state" in names[0] and "pooler" in names[1]
    assert found.outputs[0].top1_agreement is None
    assert found.outputs[0].largest_change > 0


class Loss(nn.Module):
    """A loss of all items together, and scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.model(images)
        return {"loss": scores.square().mean(), "scores": scores}


def test_an_output_of_all_items_is_one(vit: nn.Module, images: Tensor) -> None:
    found = pitome_fx.compare(Loss(vit), [images[:4], images[4:]], HOW, progress=False)
    loss, scores = found.outputs
    assert found.items == 7
    assert scores.mean_change > 0 and loss.mean_change > 0
    alone = pitome_fx.compare(vit, images, HOW, progress=False)
    assert [i.number for i in found.worst] == [i.number for i in alone.worst]


def test_pairs_that_are_arguments(vit: nn.Module) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = vit

        def forward(self, images: Tensor, shift: Tensor) -> Tensor:
            return self.model(images) + shift[:, None]

    pair = (torch.randn(3, 3, 48, 48, dtype=torch.float64), torch.arange(3))
    found = pitome_fx.compare(Two(), [pair], HOW, labelled=False, progress=False)
    assert found.accuracy is None and found.items == 3


def test_a_tuple_is_the_arguments_of_one_call(vit: nn.Module) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = vit

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.model(first + second)

    pair = tuple(torch.randn(2, 2, 3, 48, 48, dtype=torch.float64))
    assert pitome_fx.compare(Sum(), pair, HOW, progress=False).items == 2


def test_of_a_compiled_model_the_model_itself_is_compared(vit: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(vit, backend="pitome", options={**HOW, "lowering": "eager"})
    found = pitome_fx.compare(compiled, images, HOW, progress=False)
    assert found.outputs == pitome_fx.compare(vit, images, HOW, progress=False).outputs
    assert found.outputs[0].largest_change > 0
    transformed = pitome_fx.transform(vit, (images,), **HOW)
    with pytest.raises(UsageError, match=r"what pitome_fx.transform returned"):
        pitome_fx.compare(transformed, images, HOW, progress=False)


def test_what_a_model_draws_in_training_is_said(images: Tensor) -> None:
    model = timm_vit().model.double().train()
    assert "training mode" in str(pitome_fx.compare(model, images, HOW, progress=False))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(7, 1, dtype=torch.long), r"labels of shape \(7, 1\)"),
        (torch.zeros(5, dtype=torch.long), r"labels of shape \(5,\) and torch.int64 for 7 items"),
        (torch.zeros(7), "torch.float32"),
        ("cats", "labels of type str"),
    ],
)
def test_wrong_labels(vit: nn.Module, images: Tensor, labels: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pitome_fx.compare(vit, [(images, labels)], HOW, labelled=True, progress=False)


def test_where_nothing_merges_it_is_said(vit: nn.Module, images: Tensor) -> None:
    with pytest.warns(pitome_fx.PitomeWarning):
        found = pitome_fx.compare(vit, images, {"min_tokens": 999}, progress=False)
    assert found.outputs[0].largest_change == 0
    assert "min_tokens is 999" in str(found)


def generated() -> Iterator[Any]:
    yield 3


@pytest.mark.parametrize(
    ("data", "labelled", "said"),
    [
        ([], None, "nothing to compare"),
        ("images", None, "data of type str"),
        (7, None, "data of type int"),
        (generated(), None, "inputs of type int"),
        ([torch.ones(1, 3, 48, 48)], True, "no pair"),
    ],
)
def test_wrong_data_is_said_in_a_sentence(
    vit: nn.Module, data: Any, labelled: bool | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        pitome_fx.compare(vit, data, HOW, labelled=labelled, progress=False)


def test_labels_without_scores(images: Tensor) -> None:
    model = timm_vit(num_classes=0, global_pool="").model.double()
    with pytest.raises(UsageError, match="no output is one of scores"):
        pitome_fx.compare(model, [(images, torch.zeros(7, dtype=torch.long))], HOW)


def test_wrong_options(vit: nn.Module, images: Tensor) -> None:
    with pytest.raises(OptionsError, match="ratoi"):
        pitome_fx.compare(vit, images, {"ratoi": 1})
