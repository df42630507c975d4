"""The words and colours of the shapes world, and what training never shows: all of it data.

The order of every tuple is part of the model: random draws index into them and token ids follow them.
"""

from __future__ import annotations

IMAGE_SIZE = 64  # pixels; scenes are square

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")

# sRGB, 0-255; chosen so that the closest two (red and orange) stay 96 levels apart
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 85, 235),
    "yellow": (245, 220, 45),
    "orange": (245, 135, 25),
    "purple": (150, 55, 205),
    "pink": (250, 150, 195),
    "white": (245, 245, 245),
}

# what "{a} <relation> {b}" says, as the unit vector from b to a; y grows downwards as in an image
RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}

# Colour-shape pairs that training never draws. Every shape appears once and no colour twice, so a model that
# fails on one of them knows both words and has only failed to compose them.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("green", "ring"),
        ("blue", "triangle"),
        ("yellow", "cross"),
        ("purple", "circle"),
        ("orange", "square"),
    }
)

# Two objects that training never draws in one scene, although it draws each of them elsewhere.
HELD_OUT_COMBINATIONS: frozenset[frozenset[tuple[str, str]]] = frozenset(
    frozenset(pair)
    for pair in (
        (("red", "circle"), ("green", "square")),
        (("red", "square"), ("white", "ring")),
        (("red", "triangle"), ("blue", "circle")),
        (("red", "ring"), ("yellow", "star")),
        (("green", "circle"), ("pink", "star")),
        (("green", "triangle"), ("purple", "square")),
        (("green", "star"), ("orange", "ring")),
        (("green", "cross"), ("white", "circle")),
        (("blue", "square"), ("orange", "circle")),
        (("blue", "star"), ("yellow", "triangle")),
        (("blue", "ring"), ("pink", "cross")),
        (("blue", "cross"), ("red", "cross")),
        (("yellow", "circle"), ("purple", "triangle")),
        (("yellow", "square"), ("white", "triangle")),
        (("purple", "star"), ("white", "star")),
        (("orange", "triangle"), ("pink", "square")),
    )
)

# every other word a caption may hold
CAPTION_WORDS: tuple[str, ...] = (
    *("a", "an", "and", "of", "to", "the", "with", "next", "on", ","),
    *("left", "right", "above", "below"),
    *("picture", "photo", "plain", "background", "shape"),
)

# One token each and never in a caption: free names for concepts that somebody teaches the model later.
SPARE_WORDS: tuple[str, ...] = (
    *("cat", "dog", "bird", "fish", "horse", "zebra", "tree", "flower", "leaf", "river", "mountain", "cloud"),
    *("moon", "sun", "house", "door", "window", "table", "chair", "lamp", "clock", "book", "paper", "glass"),
    *("bottle", "cup", "stone", "wood", "metal", "gold", "silver", "velvet", "silk", "cotton", "leather", "marble"),
    *("crystal", "fire", "ice", "water", "smoke", "shiny", "soft", "rough", "smooth", "old", "new", "bright"),
    *("tall", "short", "warm", "cold", "quiet", "happy", "striped", "dotted", "checkered", "hollow", "tiny", "huge"),
    *("sks", "foo", "bar", "wug"),
)

# One token each and never in a caption either: words that prompts of later tasks are likely to say.
TASK_WORDS: tuple[str, ...] = (
    *("in", "at", "by", "from", "without", "no", "not", "is", "only", "one", "two", "three", "empty", "nothing"),
    *("image", "drawing", "painting", "scene", "style", "object", "objects", "shapes", "area", "region", "mask"),
    *("fill", "filled", "remove", "removed", "removal", "replace", "add", "keep", "same", "other", "between"),
    *("black", "grey", "gray", "brown", "cyan", "dark", "light", "big", "small", "large", "top", "bottom", "middle"),
    *("center", "corner", "side", "blurry", "bad", "wrong", "good", "clean", "sharp", "beautiful", "task", "."),
)
