"""What a search has found, as plain dictionaries: scores.json, from which every page about it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from potstill.data import TokenCorpus
from potstill.evaluation import Measurement, compare, scores_to_json
from potstill.evaluation.breakdown import break_down, habits
from potstill.models import load_model, on_this_device, size_of
from potstill.runs.facts import finite
from potstill.search.bar import Evidence, Verdict, judge
from potstill.search.compression import Search
from potstill.search.four_bits import FourBits, facts_of, plain
from potstill.soft_labels import Store
from potstill.soft_labels.statistics import describe
from potstill.students import cached_values

_READ_FOR_BREAKDOWN, _MOST_DOMAINS = 20_000, 12


def findings(search: Search, name: str, *, holds: bool, four_bits: FourBits | None) -> dict[str, object]:
    """All of it but what time was taken, which differs from run to run. `name` is the candidate that was chosen."""
    job = search.job
    model = on_this_device(job.teacher.model)
    student = on_this_device(load_model(search.path / "student"))
    sample = _beginning(job.texts.held_out)
    found = break_down(
        model,
        student,
        sample,
        job.tokenizer,
        length=job.length,
        size=job.teacher.num_tokens,
        domains=_domains(sample),
    )
    probed = {"teacher": model, "distilled": student}
    if job.control:
        probed["hard_labels"] = on_this_device(load_model(search.path / "controls" / "hard_labels" / "student"))
    size = job.teacher.num_tokens
    facts = {
        "kind": "compress",
        "teacher": job.source,
        "bars": [{"text": str(bar), **asdict(bar)} for bar in search.bars] if job.bars else [],
        "looks": search.looks,
        "judged": search.judged_names(),
        "alpha": job.measure.alpha,
        "chosen": name,
        "holds": holds,
        "verdicts": [plain(one) for one in search.verdicts(name)],
        "candidates": [candidate(search, one.name) for one in search.candidates],
        "controls": _controls(search),
        "int4": None if four_bits is None else facts_of(four_bits),
        "models": scores_to_json(compare(_measurements(search, name))),
        "sizes": {"teacher": asdict(size_of(model)), "distilled": asdict(size_of(student))},
        "cache_values": {"teacher": cached_values(model), "distilled": cached_values(student)},
        "cost": cost(search, name),
        "price_per_hour": job.price_per_hour,
        "labels": asdict(describe(Store(search.path / "soft_labels"))),
        "teacher_layers": model.config.num_hidden_layers,
        "lineage": list(search.lineage(name).layers),
        "shape": asdict(search.by_name[name].shape),
        "breakdown": asdict(found),
        "habits": {who: asdict(habits(one, job.texts.held_out, size=size)) for who, one in probed.items()},
        "text": {
            "learned_from": job.texts.learn.num_tokens,
            "documents": len(job.texts.learn),
            "read": search.tokens,
            "chosen_by": {"documents": len(job.texts.search), "tokens": job.texts.search.num_tokens},
            "judged_by": {"documents": len(job.texts.held_out), "tokens": job.texts.held_out.num_tokens},
        },
    }
    return {name: finite(value) for name, value in facts.items()}


def candidate(search: Search, name: str) -> dict[str, object]:
    """One step of the ladder, as far as it came."""
    one = search.by_name[name]
    standing = search.standings().get(name)
    curves = {bar: [asdict(point) for point in points] for bar, points in search.points(name).items()}
    judged = standing is not None and standing.judged is not None
    return {
        "name": name,
        "cut": one.cut,
        "level": one.level,
        "sizes": asdict(one.sizes),
        "untrained_kl": search.untrained_kl(name),
        "screened_out": standing is None,
        "curves": curves,
        "rungs": 0 if standing is None else standing.rungs,
        "chance": None if standing is None else standing.chance,
        "predicted": None if standing is None or standing.reaches is None else list(standing.reaches),
        "verdicts": [plain(verdict) for verdict in search.verdicts(name)] if judged else None,
    }


def cost(search: Search, name: str) -> dict[str, float]:
    """What was trained, in parameters times tokens, as a multiple of training the chosen one alone; the control is apart."""
    spent, own = 0.0, 0.0
    for one in search.candidates:
        climber = search.climber(one.name)
        work = climber.steps_taken() * float(one.sizes.model.total)
        spent += work
        if one.name == name:
            own = search.job.settings.steps * float(one.sizes.model.total)
    return {
        "multiple": spent / max(own, 1.0),
        "trained": sum(bool(search.points(one.name)[str(search.bars[0])]) for one in search.candidates),
    }


def _controls(search: Search) -> dict[str, object]:
    found = {}
    for control in ("hard_labels", "untouched"):
        path = search.path / "controls" / control / "held_out"
        if path.with_suffix(".npz").exists():
            verdicts = _verdicts(search, search.judging.evidence(path, _nothing))
            found[control] = [plain(one) for one in verdicts]
    return found


def _verdicts(search: Search, evidence: Evidence) -> tuple[Verdict, ...]:
    return tuple(judge(bar, evidence, search.teacher_judged_by) for bar in search.bars)


def _nothing():
    raise AssertionError("it was measured already")


def _measurements(search: Search, name: str) -> Mapping[str, Measurement]:
    at = {
        "teacher": search.path / "measurements" / "held_out",
        "untouched": search.path / "controls" / "untouched" / "held_out",
        "hard_labels": search.path / "controls" / "hard_labels" / "held_out",
        "distilled": search.held_out_of(name),
    }
    return {
        who: search.judging.evidence(path, _nothing).text
        for who, path in at.items()
        if path.with_suffix(".npz").exists()
    }


def _beginning(corpus: TokenCorpus) -> TokenCorpus:
    last = int((corpus.offsets[1:] <= _READ_FOR_BREAKDOWN).sum())
    return corpus.select(range(max(1, last)))


def _domains(corpus: TokenCorpus) -> list[str] | None:
    """What records say of where they belong, or the folders that documents lie in; the most frequent, where there are many."""
    if corpus.domains:
        names = [name or "none named" for name in corpus.domains]
    else:
        names = [f"{Path(key).parts[0]}/" if len(Path(key).parts) > 1 else "at the top" for key in corpus.keys]
    frequent = [name for name, _ in Counter(names).most_common(_MOST_DOMAINS)]
    return [name if name in frequent else "another" for name in names] if len(frequent) > 1 else None
