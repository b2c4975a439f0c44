"""What matters in a model, as a picture: importance scores by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from potstill.students import Importance

_COLUMNS = 256


def draw_importance(importance: Importance, path: Path, *, title: str) -> None:
    """A PNG of the scores: neurons and heads by layer, channels, and how much each run of layers turns the hidden state.

    Neurons and channels stand in order of their score, over the mean of their layer: steep rows can be cut deep. A dark field in the
    last panel is a run of layers, from the row's up to the column's, that hardly turns what passes through it.
    """
    panels = [draw for draw in (_neurons, _heads, _channels, _layers, _runs) if draw(None, importance)]
    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for place, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), place + 1), importance)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _neurons(axes: Axes | None, importance: Importance) -> bool:
    if axes is not None and importance.ffn.size:
        scores = -np.sort(-importance.ffn, axis=1)
        _image(
            axes,
            _fewer(scores / scores.mean(1, keepdims=True)),
            "neurons, most important first",
            "score / mean of layer",
        )
        axes.set_xticks([])
    return bool(importance.ffn.size)


def _heads(axes: Axes | None, importance: Importance) -> bool:
    if axes is not None and importance.heads.size:
        _image(axes, importance.heads / importance.heads.mean(1, keepdims=True), "query heads", "score / mean of layer")
    return bool(importance.heads.size)


def _channels(axes: Axes | None, importance: Importance) -> bool:
    if axes is not None and importance.hidden.size:
        scores = -np.sort(-importance.hidden) / importance.hidden.mean()
        axes.plot(np.linspace(0, 100, len(scores)), scores)
        axes.set(title="channels, most important first", xlabel="% of channels", ylabel="score / mean", yscale="log")
    return bool(importance.hidden.size)


def _layers(axes: Axes | None, importance: Importance) -> bool:
    if axes is not None:
        influence = importance.block_influence
        axes.barh(range(len(influence)), influence)
        axes.invert_yaxis()
        axes.set(title="layers", ylabel="layer", xlabel="turn of the hidden state, 1 - cos")
        if importance.losses.size:
            twin = axes.twiny()
            twin.plot(importance.losses, range(len(influence)), "o", color="tab:orange")
            twin.set_xlabel("rise of the loss without it, nats (dots)")
    return True


def _runs(axes: Axes | None, importance: Importance) -> bool:
    if axes is not None:
        turns = importance.turns[:-1, 1:].copy()
        turns[np.tril_indices_from(turns, -1)] = np.nan
        _image(axes, turns, "runs of layers", "turn, 1 - cos")
        axes.set(xlabel="to layer", ylabel="from layer")
    return len(importance.turns) > 2


def _image(axes: Axes, values: NDArray[np.float64], title: str, meaning: str) -> None:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis")
    axes.set(title=title, ylabel="layer")
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label=meaning)


def _fewer(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most so many columns, by their means."""
    if values.shape[1] <= _COLUMNS:
        return values
    return np.stack([part.mean(1) for part in np.array_split(values, _COLUMNS, axis=1)], 1)
