"""The accidents of the released code, each with a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Switches:
    """What the released code does though its idea does not ask for it. The defaults are the released code's.

    Attributes:
        double_logits: Add the edited logits of raised tokens once more.
        tail_from: The tail begins this many tokens before L: at the last word (2) or at the end token (1).
        swap_steps: Steps that see the embedding of (b): "all", or the "edited" ones.
        search_margin: Rows at the bottom and columns at the right that no region can reach.
        exclusion: What a region does to the maps under it: "multiply" by -2, or "forbid".
        fallback: Region of an object without a positive window: at the "corner", or "none".
        keep_negative: Leave the unconditional row and the given embedding alone but for the rows of objects.
        length_source: L by the "tokenizer", or by the first "end" token.
        map_feedback: The maps are those of the edited probabilities.
    """

    double_logits: bool = True
    tail_from: int = 2
    swap_steps: str = "all"
    search_margin: int = 2
    exclusion: str = "multiply"
    fallback: str = "corner"
    keep_negative: bool = False
    length_source: str = "tokenizer"
    map_feedback: bool = True


RELEASED = Switches()
CLEAN = Switches(
    double_logits=False,
    tail_from=1,
    swap_steps="edited",
    search_margin=0,
    exclusion="forbid",
    fallback="none",
    keep_negative=True,
    length_source="end",
)
