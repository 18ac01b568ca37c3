"""Pictures of real models, of random weights: one line each."""

import torch

import pitome_fx
from pitome_fx import viz
from pitome_fx.frontends.grid import Grid
from tests.support.models import bert, images, randomised, timm_vit
from tests.support.pictures import pixels


def test_one_line_each_for_a_vision_transformer() -> None:
    case = timm_vit(img_size=(32, 64), dynamic_img_size=True)
    images = torch.randn(2, 3, 32, 64)
    merges = pitome_fx.tokens(case.model, (images,), ratio=0.7)
    assert [m.grid for m in merges] == [Grid((4, 8), 1)] * 3
    for item in (0, 1):
        figure = viz.groups(images, merges, item=item)
        assert len(figure.axes) == 4
        for panel, found in zip(figure.axes[1:], merges, strict=True):
            colours = pixels(panel).flatten(0, 1).unique(dim=0)
            assert len(colours) == found.tokens_after - 1, "all but the class token"
    shown = pixels(viz.scores(images, merges[-1], item=1).axes[1])
    assert shown.shape == (4, 8) and bool(shown.isfinite().all())
    counts = [bar.get_height() for bar in viz.sizes(merges, item=0).axes[2].patches]
    assert sum(counts) == merges[2].tokens_after


def test_one_line_for_a_text() -> None:
    case = bert()
    merges = pitome_fx.tokens(case.model, kwargs=case.kwargs, ratio=0.7)
    texts = [str(token) for token in case.kwargs["input_ids"][2, :7].tolist()]
    figure = viz.words(texts, merges, item=2)
    assert [len(axes.patches) for axes in figure.axes] == [7, 7, 7]


def test_one_line_for_a_recording() -> None:
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    model = randomised(transformers.Wav2Vec2Model(config))
    waves = torch.randn(2, 8000)
    merges = pitome_fx.tokens(model, (waves,), ratio=0.7)
    heard, *strips = viz.frames(waves.unsqueeze(1), merges, item=1).axes
    assert len(heard.lines) == 1
    assert [pixels(strip).shape for strip in strips] == [(1, 24, 3)] * 2


def test_one_line_for_stages_on_grids_of_their_own() -> None:
    import timm

    small = {"embed_dim": (32, 48, 64), "num_heads": (2, 3, 4), "depth": (2, 2, 2)}
    model = randomised(timm.create_model("levit_128s", pretrained=False, **small))
    photos = images(224)
    with torch.no_grad():
        # Its table of biases is made by the first call.
        model(photos)
    merges = pitome_fx.tokens(model, (photos,), ratio=0.8)
    assert {merge.grid and merge.grid.shape for merge in merges} == {(14, 14), (7, 7), (4, 4)}
    assert len(viz.flow(merges).axes[0].get_legend().get_texts()) == 3
    for panel, merge in zip(viz.groups(photos, merges).axes[1:], merges, strict=True):
        assert panel.get_xlim() == (0, merge.grid.shape[1])
        assert len(pixels(panel).flatten(0, 1).unique(dim=0)) == merge.tokens_after
