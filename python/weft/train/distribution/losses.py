"""Fake-to-fake and fake-to-real: contrastive losses that make generated pictures agree, and agree with real ones.

Both look at features of pictures. The callers own the generator, its second view and the pictures,
this file the losses. Whatever gives features [N, D] will do: a frozen encoder of pictures, a discriminator's layer, a
denoiser's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.ops import Columns
from weft.ops.contrastive_loss import contrastive_loss_parts
from weft.train.distribution import columns as batch
from weft.train.distribution.columns import Compared, Ids
from weft.train.distribution.kinds import FakeToFake, FakeToReal, Features, Loss, check_losses


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

    Features are normalised to length 1 here. Of two dtypes the wider is taken for all. Costs a synchronisation of the
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
            negative are given by ``classes``.
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
            views or ids, or ids that leave no row any negatives.
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
    """The columns that the rows are compared with."""
    is_real = isinstance(loss, FakeToReal)
    values = compared.reals if is_real else compared.rows
    assert values is not None
    ids = [compared.images]
    if compared.classes is not None and loss.class_mask is not False:
        ids.append(compared.classes)

    rows, columns = ([pair[side] for pair in ids] for side in (0, int(is_real)))
    batch.check_contrasts(loss.name, rows, columns, exclude_self=not is_real, group=group)
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
