"""Evaluation without a network, and pictures of the shapes world to evaluate."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from weft.evaluation import shapes_pictures
from weft.train.pictures.pairs import Pair


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"the network was asked for {arguments}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def pictures() -> list[Pair]:
    """Two hundred and ten scenes, more than the judge has features, with up to four captions each."""
    return shapes_pictures(210, 4)


class Perfect:
    """A sampler that draws for a caption the scene it was written of; it knows no other."""

    def __init__(self, pictures: Sequence[Pair]) -> None:
        self.known = {caption: pair.read() for pair in pictures for caption in pair.captions}
        self.seeds: list[int] = []

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        self.seeds += seeds
        return [self.known[caption] for caption in captions]


@pytest.fixture(scope="session")
def perfect(pictures: list[Pair]) -> Perfect:
    return Perfect(pictures)
