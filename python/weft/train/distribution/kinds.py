"""The two kinds of distribution losses as data: which, how strong, and what they look with; no torch is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

if TYPE_CHECKING:
    from torch import Tensor

    Features = Callable[[Tensor], Tensor]  # pictures [B, 3, h, w] in [-1, 1] -> features [B, D]
else:
    Features = Callable[..., Any]  # read by the command line, without torch
Pairing = Literal["two_captions", "two_noises"]


@dataclass(frozen=True)
class FakeToFake:
    """Two generated views of one thing are positives, all other generated pictures negatives (NT-Xent).

        L = -1/2N sum_a log( exp(s_a,pos(a)) / sum_{b != a} exp(s_ab) ),   s = cosine / temperature

    Over all 2N views: positives in the denominator, a view itself left out. Alone it rewards a generator that ignores
    the caption, and pictures of one caption that differ less: it wants ``FakeToReal`` or another loss that matches
    text beside it, and a measure of diversity.

    Attributes:
        pairing: What the second view is: the same noise with another caption of the same picture, or the same caption
            with another noise. It decides what the caller generates; the loss is the same.
        features: What looks at the pictures, frozen; None leaves it to the caller.
        temperature: Above 0.
        weight: In the sum of losses; 0 logs without an influence.
        class_mask: Whether pairs of one class are left out of the negatives: True must be given ``classes``, False
            passes over them, None masks where they are given.

    Source:
        NT-Xent of SimCLR (arXiv:2002.05709, equation 1); between two generated views as in arXiv:2107.02423, whose
        temperature and weight these are. arXiv:2312.10854 names the loss; its equations are not public.
    """

    pairing: Pairing = "two_captions"
    features: Features | None = None
    temperature: float = 0.5
    weight: float = 0.2
    class_mask: bool | None = None

    name = "f2f"

    def __post_init__(self) -> None:
        if self.pairing not in ("two_captions", "two_noises"):
            raise ValueError(f"FakeToFake: `pairing` must be 'two_captions' or 'two_noises'; got {self.pairing!r}")
        _check_numbers(self)


@dataclass(frozen=True)
class FakeToReal:
    """Each generated picture has the real one of its caption as positive, other real ones as negatives (InfoNCE).

        L = 1/2 [ mean_i -log softmax_j(s_ij)_i + mean_j -log softmax_i(s_ij)_j ],   s = cosine / temperature

    Real features are detached. With two generated views a real picture has two positives, and the loss is the mean
    over them (SupCon's L_out).

    Attributes:
        features: What looks at the pictures, frozen; None leaves it to the caller.
        temperature: Above 0.
        weight: In the sum of losses. XMC-GAN adds the two directions, which are averaged here: its 1 is 2 here.
        symmetric: Whether real pictures look for their generated ones, too; otherwise the first term is all.
        class_mask: As of ``FakeToFake``.

    Source:
        InfoNCE (arXiv:1807.03748); of generated against real features as in XMC-GAN (arXiv:2101.04702), whose
        temperature this is. arXiv:2312.10854 names the loss; its equations are not public.
    """

    features: Features | None = None
    temperature: float = 0.1
    weight: float = 1.0
    symmetric: bool = True
    class_mask: bool | None = None

    name = "f2r"

    def __post_init__(self) -> None:
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"FakeToReal: `symmetric` must be True or False; got {self.symmetric!r}")
        _check_numbers(self)


Loss = FakeToFake | FakeToReal
# how the command line reads them
NAMES = PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="NAMES",
    instance_from_str=lambda given: given[0],
    is_instance=lambda given: True,
    str_from_instance=lambda given: [str(given)],
)


def losses_named(
    names: str,
    *,
    features: Features | None = None,
    pairing: Pairing = "two_captions",
    f2f_weight: float = FakeToFake.weight,
    f2f_temperature: float = FakeToFake.temperature,
    f2r_weight: float = FakeToReal.weight,
    f2r_temperature: float = FakeToReal.temperature,
    symmetric: bool = True,
    class_mask: bool | None = None,
) -> tuple[Loss, ...]:
    """The losses of a text such as "f2f,f2r"; "none" or nothing is none.

    Args:
        names: "f2f" and "f2r", commas between.
        features, class_mask: Of both.
        pairing: Of fake-to-fake.
        symmetric: Of fake-to-real.

    Raises:
        ValueError: An unknown name, or one twice.
    """
    listed = [name.strip() for name in names.split(",")]
    if listed in ([""], ["none"]):
        return ()
    made: dict[str, Loss] = {
        "f2f": FakeToFake(pairing, features, f2f_temperature, f2f_weight, class_mask),
        "f2r": FakeToReal(features, f2r_temperature, f2r_weight, symmetric, class_mask),
    }
    for name in listed:
        if name not in made:
            raise ValueError(
                f"losses_named: `names` must be 'none', or f2f and f2r with a comma between; got {names!r}, of which "
                f"{name!r} is unknown"
            )
    if len(set(listed)) < len(listed):
        raise ValueError(f"losses_named: `names` must have each loss once; got {names!r}")
    return tuple(made[name] for name in listed)


@dataclass(frozen=True, kw_only=True)
class NamedLosses:
    """The losses by name, with the numbers of each."""

    losses: Annotated[str | Loss | Sequence[Loss], NAMES] = "none"
    """none, f2f (generated pictures of one meaning agree), f2r (and agree with real ones), or f2f,f2r."""
    f2f_weight: float = FakeToFake.weight
    """Weight of fake-to-fake among --losses; 0 only logs it."""
    f2f_temperature: float = FakeToFake.temperature
    """Temperature of the softmax of fake-to-fake."""
    f2r_weight: float = FakeToReal.weight
    """Weight of fake-to-real among --losses; 0 only logs it."""
    f2r_temperature: float = FakeToReal.temperature
    """Temperature of the softmax of fake-to-real."""
    symmetric: bool = FakeToReal.symmetric
    """Whether real pictures look for their generated ones in f2r, too."""
    pairing: Pairing = FakeToFake.pairing
    """What the second picture of f2f is: another caption with the same noise, or another noise with the same."""
    class_mask: bool | None = None
    """Whether pictures of one class are no negatives; where classes are known, if not given."""

    def chosen_losses(self, features: Features | None = None) -> tuple[Loss, ...]:
        """The losses, those given by name with these numbers and ``features``."""
        if isinstance(self.losses, FakeToFake | FakeToReal):
            return (self.losses,)
        if not isinstance(self.losses, str):
            return tuple(self.losses)
        return losses_named(
            self.losses,
            features=features,
            pairing=self.pairing,
            f2f_weight=self.f2f_weight,
            f2f_temperature=self.f2f_temperature,
            f2r_weight=self.f2r_weight,
            f2r_temperature=self.f2r_temperature,
            symmetric=self.symmetric,
            class_mask=self.class_mask,
        )


def check_losses(losses: Any, *, who: str, name: str = "losses") -> None:
    """Refuse what is not a sequence of losses, at most one of each kind.

    Args:
        who: For messages.
        name: Of the argument, for messages.

    Raises:
        TypeError: Something else than a sequence, or in it something else than ``FakeToFake`` and ``FakeToReal``.
        ValueError: Two of a kind.
    """
    wanted = f"{who}: `{name}` must hold FakeToFake and FakeToReal"
    if isinstance(losses, str):
        raise TypeError(f"{wanted}; got {losses!r}; make them by losses_named({losses!r})")
    if not isinstance(losses, Sequence):
        raise TypeError(f"{wanted}; got {type(losses).__name__}; pass a tuple of them")
    for loss in losses:
        if not isinstance(loss, FakeToFake | FakeToReal):
            raise TypeError(f"{wanted}; got {type(loss).__name__}; make them by losses_named('f2f,f2r')")
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f"{who}: `{name}` must have each kind once; got {names}; leave all but one of a kind out")


def _check_numbers(loss: Loss) -> None:
    who = type(loss).__name__
    for name, least in (("temperature", "above 0"), ("weight", "at least 0")):
        value = getattr(loss, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{who}: `{name}` must be a number; got {type(value).__name__}")
        if not 0 <= value < math.inf or (name == "temperature" and value == 0):
            raise ValueError(f"{who}: `{name}` must be {least} and finite; got {value}")
    if loss.class_mask not in (None, True, False):
        raise TypeError(f"{who}: `class_mask` must be True, False or None; got {loss.class_mask!r}")
    if loss.features is not None and not callable(loss.features):
        raise TypeError(
            f"{who}: `features` must be callable, from pictures to [N, D], or None; got {type(loss.features).__name__}"
        )
