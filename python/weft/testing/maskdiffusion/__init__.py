"""MaskDiffusion as a research script writes it: the truth the method is tested against, and a baseline of its cost.

The steps of the released code (HVision-NKU/MaskDiffusion, commit 960b1eb), in its own order. L counts the tokens of
the prompt with start and end; T_o are those of object o, and its head is the last of them.

(a) find each phrase among the tokens of the prompt;
(b) encode each phrase alone and put its rows in the place of T_o; every cross-attention sees that embedding;
(c) average the edited probabilities over heads and over the cross layers of the map grid in "down" and "up" blocks;
(d) average them over the steps so far;
(e) after each of the first four steps choose the regions again, from a copy of those maps;
(f) protect the pixels that an object holds most of, and (g) search a window for each object;
(h) weigh every token at every pixel: M, [pixels, tokens]; relate the pixels of one region: G, [pixels, pixels];
(i) edit the logits of the conditional half, in cross-attention from step 2 and in self-attention from step 1;
(j) or take the regions from boxes.

Everything is as large as it is in such a script: logits and probabilities of a whole layer, M and G of every grid.
"""

from __future__ import annotations

from weft.testing.maskdiffusion.edit import edit_cross, edit_self, related_pixels, token_weights
from weft.testing.maskdiffusion.prompt import EagerObject, find_objects
from weft.testing.maskdiffusion.run import (
    EagerMaskDiffusion,
    EagerProcessor,
    EagerRun,
    eager_processors,
    maskdiffusion_eager,
)
from weft.testing.maskdiffusion.search import SIZES, Found, protect, search
from weft.testing.maskdiffusion.switches import CLEAN, RELEASED, Switches

__all__ = [
    "CLEAN",
    "RELEASED",
    "SIZES",
    "EagerMaskDiffusion",
    "EagerObject",
    "EagerProcessor",
    "EagerRun",
    "Found",
    "Switches",
    "eager_processors",
    "edit_cross",
    "edit_self",
    "find_objects",
    "maskdiffusion_eager",
    "protect",
    "related_pixels",
    "search",
    "token_weights",
]
