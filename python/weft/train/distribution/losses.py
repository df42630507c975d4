"""Fake-to-fake and fake-to-real: contrastive losses that make generated pictures agree, and agree with real ones.

Both look at features of pictures, whoever made them: the callers own the generator, its second view and the pictures,
this file the losses. Whatever gives features [N, D] will do: a frozen encoder of pictures, a discriminator's layer, a
denoiser's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from weft.ops import Columns
from weft.ops.contrastive_loss import contrastive_loss_parts
from weft.train.distribution import columns as batch
from weft.train.distribution.columns import Compared, Ids

# pictures [B, 3, h, w] in [-1, 1] -> features [B, D]
Features = Callable[[Tensor], Tensor]
Pairing = Literal["two_captions", "two_noises"]


@dataclass(frozen=True)
class FakeToFake:
    """Two generated views of one thing are told from the other generated pictures (NT-Xent).

        L = -1/2N sum_a log( exp(s_a,pos(a)) / sum_{b != a} exp(s_ab) ),   s = cosine / temperature

    Over all 2N views: positives in the denominator, a view itself left out. Alone it rewards a generator that ignores
    the caption, and pictures of one caption that differ less: it wants ``FakeToReal`` or another loss that matches
    text beside it, and a measure of diversity.

    Attributes:
        pairing: What the second view is, to whoever generates: the same noise with another caption of the same
            picture, or the same caption with another noise. The loss is the same.
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
    """Each generated picture is told the real one of its caption from the other real ones (InfoNCE).

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
    said = [name.strip() for name in names.split(",")]
    if said in ([""], ["none"]):
        return ()
    made: dict[str, Loss] = {
        "f2f": FakeToFake(pairing, features, f2f_temperature, f2f_weight, class_mask),
        "f2r": FakeToReal(features, f2r_temperature, f2r_weight, symmetric, class_mask),
    }
    for name in said:
        if name not in made:
            raise ValueError(
                f"losses_named: `names` must be 'none', or f2f and f2r with a comma between; got {names!r}, of which "
                f"{name!r} is unknown"
            )
    if len(set(said)) < len(said):
        raise ValueError(f"losses_named: `names` must have each loss once; got {names!r}")
    return tuple(made[name] for name in said)


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


def features_of(
    losses: Sequence[Loss],
    source: Features | None,
    first: Tensor,
    second: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor] | None]:
    """Features of pictures for ``distribution_loss``: one tensor a loss, the same one where losses share a source.

    Each callable sees each view once, and real pictures without gradient.

    Args:
        losses: Whose ``features`` look at the pictures.
        source: For those that have none of their own.
        first, second, real: Pictures as the callables take them, [N, 3, h, w] in [-1, 1] if nothing else is agreed.

    Raises:
        ValueError: A loss without a source.
    """
    sources = [loss.features or source for loss in losses]
    for loss, one in zip(losses, sources, strict=True):
        if one is None:
            raise ValueError(
                f"features_of: `{loss.name}` must have a source of features, and the caller gives none; pass "
                f"{type(loss).__name__}(features=...), a callable from pictures to [N, D]"
            )

    def seen(view: Tensor) -> list[Tensor]:
        found = {one: one(view) for one in dict.fromkeys(sources) if one is not None}
        return [found[one] for one in sources if one is not None]

    with torch.no_grad():
        of_real = None if real is None else seen(real)
    return seen(first), None if second is None else seen(second), of_real


def distribution_loss(
    losses: Sequence[Loss],
    first: Tensor | Sequence[Tensor],
    second: Tensor | Sequence[Tensor] | None = None,
    real: Tensor | Sequence[Tensor] | None = None,
    *,
    images: Ids | None = None,
    classes: Ids | None = None,
    group: Any = None,
    backend: str | None = None,
) -> dict[str, Tensor]:
    """The losses of one batch. Those that share features are one sweep of ``weft.ops.contrastive_loss``.

    Features are brought to length 1 here. Of two dtypes the wider is taken for all. Costs a synchronisation of the
    device, to refuse features of zeros.

    Args:
        losses: At most one of each kind; none gives a loss of 0.
        first: Features of generated pictures [N, D]; or a sequence, one tensor a loss, as ``features_of`` gives them.
        second: Of their second views, row by row; needed by ``FakeToFake``, and taken by ``FakeToReal`` too.
        real: Of real pictures [K, D], detached here; row i is the picture of ``first``'s row i unless ``images`` says
            otherwise.
        images: Ids, equal where rows, or a row and a real, show the same picture or have the same caption: they are
            positives of one another. [N], which serves the reals too where K = N; or two tensors, [N] and [K]. Without
            them only row i, its second view and real i belong together. Repeats that shall be neither positive nor
            negative are said by ``classes``.
        classes: Ids, equal where a pair is left out of the negatives, as by class or by repeated caption; as
            ``images``. What is positive stays positive.
        group: Of ``torch.distributed``: features of all ranks are negatives, gradients flow to all of them, and ids
            mean the same on each. The mean over ranks is the loss of one process that has everything.
        backend: Of ``weft.ops.contrastive_loss``.

    Returns:
        "loss", their weighted sum, and by the name of each loss its value, without weight and gradient. 0-dim, fp32
        or better.

    Raises:
        TypeError: Features or ids of the wrong type.
        ValueError: Features that are not [N, D] or do not fit one another, of zero norm, fewer than two rows, missing
            views or ids, or ids that leave no row anything to be told from.
    """
    chosen = _checked(losses, first, second, real, classes)
    totals: list[Tensor] = []
    found: dict[str, Tensor] = {}
    for members, of_views in _by_features(chosen, first, second, real):
        compared = batch.compared(*of_views, images=images, classes=classes, group=group)
        batch.check_not_zero(compared)
        columns = [_columns(loss, compared, group) for loss in members]
        total, parts = contrastive_loss_parts(compared.rows, columns, normalize=True, group=group, backend=backend)
        totals.append(total)
        found.update(zip((loss.name for loss in members), parts, strict=True))
    if not totals:
        return {"loss": torch.zeros(())}
    return {"loss": torch.stack(totals).sum(), **{loss.name: found[loss.name] for loss in chosen}}


def _by_features(chosen: list[Loss], *views: Tensor | Sequence[Tensor] | None) -> list[tuple[list[Loss], list[Any]]]:
    """The losses that share all their features, and those features."""
    found: dict[tuple[int, ...], tuple[list[Loss], list[Any]]] = {}
    for place, loss in enumerate(chosen):
        own = [view if view is None or isinstance(view, Tensor) else view[place] for view in views]
        found.setdefault(tuple(map(id, own)), ([], own))[0].append(loss)
    return list(found.values())


def _columns(loss: Loss, compared: Compared, group: Any) -> Columns:
    """What the rows are told from."""
    is_real = isinstance(loss, FakeToReal)
    values = compared.reals if is_real else compared.rows
    assert values is not None
    ids = [compared.images]
    if compared.classes is not None and loss.class_mask is not False:
        ids.append(compared.classes)

    rows, columns = ([pair[side] for pair in ids] for side in (0, int(is_real)))
    batch.check_told_apart(loss.name, rows, columns, exclude_self=not is_real, group=group)
    return Columns(
        values,
        positives=(rows[0], columns[0]),
        exclude=None if is_real else "self",
        classes=(rows[1], columns[1]) if len(ids) > 1 else None,
        temperature=loss.temperature,
        symmetric=isinstance(loss, FakeToReal) and loss.symmetric,
        weight=loss.weight,
    )


def _checked(losses: Any, first: Any, second: Any, real: Any, classes: Any) -> list[Loss]:
    """The losses, one of each kind, with what each of them needs."""
    if isinstance(losses, FakeToFake | FakeToReal):
        losses = [losses]
    check_losses(losses, who="distribution_loss")
    chosen = list(losses)
    for loss in chosen:
        what, given = ("second", second) if isinstance(loss, FakeToFake) else ("real", real)
        if given is None:
            raise ValueError(
                f"distribution_loss: `{what}` must be given for {type(loss).__name__}, {_NEEDS[what]}; got None"
            )
        if loss.class_mask and classes is None:
            raise ValueError(
                f"distribution_loss: `classes` must be given, since {type(loss).__name__} has class_mask=True; got "
                "None; give an id for each row, or set class_mask to None"
            )
    for name, view in (("first", first), ("second", second), ("real", real)):
        if view is not None and not isinstance(view, Tensor) and len(view) != len(chosen):
            raise ValueError(
                f"distribution_loss: `{name}` must be features, or features for each of the {len(chosen)} losses; got "
                f"{len(view)}"
            )
    return chosen


_NEEDS = {"second": "features of the other view of each row", "real": "features of real pictures"}


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
