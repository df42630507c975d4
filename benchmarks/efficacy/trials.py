"""What is drawn: prompts, and the noise that each image begins with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.shapes.captions import Prompt, prompts


@dataclass(frozen=True)
class Trial:
    """A list of prompts, each drawn from ``seeds`` noises.

    Attributes:
        name: How the results call it.
        objects: Objects a prompt.
        prompts: How many.
        seeds: Images a prompt.
        held_out: Combinations of colour and shape that training never showed.
    """

    name: str
    objects: int
    prompts: int
    seeds: int = 1
    held_out: bool = True

    def __len__(self) -> int:
        return self.prompts * self.seeds

    def items(self, seed: int) -> list[Prompt]:
        """The prompt of every image; images of one prompt are adjacent."""
        texts = prompts(self.prompts, self.objects, held_out=self.held_out, seed=seed)
        return [text for text in texts for _ in range(self.seeds)]


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. Image i of a trial depends on ``seed`` and i alone."""

    steps: int = 20
    guidance: float = 4.0
    seed: int = 2000
    batch: int = 32


def noise(seed: int, image: int) -> torch.Generator:
    """Where the initial noise of an image comes from."""
    return torch.Generator().manual_seed(seed * 1_000_003 + image)
