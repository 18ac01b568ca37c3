"""Pictures of merged tokens, drawn from what ``pitome_fx.tokens`` found; needs the extra ``viz``.

With ``merges = pitome_fx.tokens(model, (images,), ratio=0.9)``::

    pitome_fx.viz.groups(images, merges)        the image, each group in its mean colour
    pitome_fx.viz.scores(images, merges)        what the algorithm ranked tokens by
    pitome_fx.viz.sizes(merges)                 how large groups are
    pitome_fx.viz.flow(merges)                  tokens over the blocks
    pitome_fx.viz.words(words, merges)          the words of each group
    pitome_fx.viz.frames(spectrogram, merges)   the frames of each group

Each returns a matplotlib Figure, which a notebook shows and ``.savefig`` writes. Some merges alone
are a slice of the list: ``merges[::4]``. No window is opened and nothing of pyplot is touched; the
background is transparent, and ink is grey, so that pictures fit on light and on dark pages.
"""

from pitome_fx.viz.audio import frames
from pitome_fx.viz.charts import flow, sizes
from pitome_fx.viz.images import groups, scores
from pitome_fx.viz.text import words

__all__ = ["flow", "frames", "groups", "scores", "sizes", "words"]
