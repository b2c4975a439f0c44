"""Tables of what is compared beside the labels -> the loss they describe, tried on a few tokens. The rooms are imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.errors import RecipeError
from potstill.recipe.features import AttentionTable, EmbeddingsTable, HiddenTable, LayerMap, MapsTable
from potstill.recipe.schema import LossTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.losses import FeatureLoss, FeatureTerm, HiddenLoss, Projection
    from potstill.types import Lineage

Pairs = tuple[tuple[int, int], ...]


def build_features(
    loss: LossTable, teacher: PreTrainedModel, student: PreTrainedModel, lineage: Lineage | None
) -> FeatureLoss | None:
    """What [loss.hidden], [loss.embeddings] and [loss.attention] add, as [loss.balance] balances it; None where there is none of them.

    RecipeError where the two models haven't got such layers, or one width and no projection; what the loss itself raises on a few
    tokens, such as LossError for heads that don't fit.
    """
    import torch

    from potstill.losses import FeatureLoss
    from potstill.losses.support import over_students_tokens
    from potstill.models import few_tokens, hidden_states
    from potstill.teachers import LiveTeacher, on_device

    terms: list[FeatureTerm] = []
    if loss.hidden is not None:
        terms.append(_hidden(loss.hidden, teacher, student, lineage))
    if loss.embeddings is not None:
        terms.append(_embeddings(loss.embeddings, teacher, student))
    if loss.attention is not None:
        terms.append(_attention(loss.attention, teacher, student, lineage))
    if not terms:
        return None
    features = FeatureLoss(tuple(terms), loss.balance.kind, loss.balance.shares_every)
    batch = few_tokens(student)
    with torch.no_grad():
        ours = hidden_states(student, batch, layers=features.student_layers, attention=features.student_attention)
        marker = LiveTeacher(teacher, size=1, layers=features.teacher_layers, attention=features.teacher_attention)
        matrices = {name: [one.to(batch.inputs.device) for one in found] for name, found in features.matrices().items()}
        theirs = over_students_tokens(on_device(marker.label(batch), batch.inputs.device))
        features.sums(ours, theirs, batch.contexts, matrices)
    return features


def _hidden(
    table: HiddenTable, teacher: PreTrainedModel, student: PreTrainedModel, lineage: Lineage | None
) -> HiddenLoss:
    from potstill.losses import HiddenLoss

    pairs = _pairs("loss.hidden", table.layers, teacher, student, lineage)
    projection = None if table.projection == "none" else _projection(teacher, student, table.projection == "shared")
    if projection is None and table.kind != "cka":
        _check_widths("loss.hidden", 'loss.hidden.projection = "shared" (or kind = "cka")', teacher, student)
    return HiddenLoss(pairs, table.weight, table.kind, projection, table.standardised)


def _embeddings(table: EmbeddingsTable, teacher: PreTrainedModel, student: PreTrainedModel) -> HiddenLoss:
    from potstill.losses import HiddenLoss
    from potstill.types import EMBEDDINGS

    if not table.projection:
        _check_widths("loss.embeddings", "loss.embeddings.projection = true", teacher, student)
    projection = _projection(teacher, student, is_shared=True) if table.projection else None
    return HiddenLoss(((EMBEDDINGS, EMBEDDINGS),), table.weight, table.kind, projection)


def _attention(
    table: AttentionTable, teacher: PreTrainedModel, student: PreTrainedModel, lineage: Lineage | None
) -> FeatureTerm:
    from potstill.losses import AttentionMapLoss, AttentionRelationLoss
    from potstill.models import is_causal

    pairs, causal = _pairs("loss.attention", table.layers, teacher, student, lineage), is_causal(teacher)
    if isinstance(table, MapsTable):
        return AttentionMapLoss(pairs, causal, table.weight, table.compare)
    return AttentionRelationLoss(pairs, causal, table.weight, table.relations, table.heads)


def _pairs(
    name: str, layers: LayerMap, teacher: PreTrainedModel, student: PreTrainedModel, lineage: Lineage | None
) -> Pairs:
    from potstill.students import ends_of_blocks, last_layers, layers_to_imitate

    ours, theirs = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    match layers:
        case "last":
            pairs: Pairs = last_layers(1, ours, theirs)
        case "uniform":
            pairs = ends_of_blocks(ours, theirs)
        case "lineage":
            if lineage is None:
                raise RecipeError(
                    f'{name}.layers = "lineage" needs a student whose layers are its teacher\'s (student.kind = "copy_layers" or '
                    '"prune"): say "uniform", "last", or pairs of layers'
                )
            pairs = layers_to_imitate(lineage, theirs)
        case int():
            if layers > min(ours, theirs):
                raise RecipeError(
                    f"{name}.layers = {layers}: a student of {ours} and a teacher of {theirs} layers don't both have as many last ones"
                )
            pairs = last_layers(layers, ours, theirs)
        case listed:
            pairs = listed
    for one, other in pairs:
        if one >= ours or other >= theirs:
            raise RecipeError(
                f"{name}.layers: [{one}, {other}] are no layers of a student of {ours} and a teacher of {theirs} layers (from 0)"
            )
    return pairs


def _projection(teacher: PreTrainedModel, student: PreTrainedModel, is_shared: bool) -> Projection:
    from potstill.losses import Projection

    return Projection(student.config.hidden_size, teacher.config.hidden_size, is_shared)


def _check_widths(name: str, what: str, teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    if student.config.hidden_size != teacher.config.hidden_size:
        raise RecipeError(
            f"{name} compares hidden states of width {student.config.hidden_size} (student) and {teacher.config.hidden_size} (teacher): "
            f"set {what}, keep the teacher's width, or leave it out"
        )
