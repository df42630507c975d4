"""What is said of the losses beside a diffusion model's own objective."""

from __future__ import annotations

from typing import Any

from benchmarks.efficacy.distribution_losses.trials import MEASURES, TOKENS
from benchmarks.efficacy.record import day_and_commit
from benchmarks.efficacy.trials import Sampling

METHOD = "fake-to-fake and fake-to-real beside soft tokens"


def table(record: dict[str, Any]) -> str:
    """Markdown: what is read of prompts, and differences from tokens without the losses, with 95 % intervals."""
    where, options = record["circumstances"], record["options"]
    lines = [
        f"Fake-to-fake and fake-to-real beside the objective of soft tokens (AGSM), {options['steps']} steps of 8 "
        f"pictures on the shapes model; held-out prompts of two objects, {options['sampler_steps']} steps, guidance "
        f"{Sampling.guidance:g}, the same noise for all ({day_and_commit(where)}). Means over "
        f"prompts with 95 % intervals; the losses weigh {options['weight']:g} beside the objective; in parentheses "
        f"what differs from *{TOKENS}*, prompt by prompt. Spread is the root mean square distance of two pictures in "
        "small copies: under one noise less of it is consistency, under several less of it is a loss of diversity.",
        "",
        "Teaching took " + ", ".join(f"{name} {taken:.0f} s" for name, taken in record["seconds"].items()),
        "",
        "| variant | pictures | prompts | " + " | ".join(MEASURES.headings) + " |",
        "|" + "---|" * (3 + len(MEASURES.headings)),
    ]
    for variant, trials in record["results"].items():
        for trial, row in trials.items():
            lines.append("| " + " | ".join([variant, trial, str(row["pictures"]), *MEASURES.cells(row)]) + " |")
    return "\n".join(lines) + "\n"
