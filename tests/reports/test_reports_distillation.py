"""The page of a run: what stands in it, beside the drawing that all pages share."""

from potstill.reports.distillation import environment_of


def test_tables_within_tables_become_names() -> None:
    found = environment_of(
        {
            "machine": "x86",
            "run": {
                "dtype": "float32",
                "sizes": {"teacher": {"total": 5, "bytes": 20}},
                "trackers": ["wandb", "trackio"],
            },
            "command": ["potstill", "distill"],
        }
    )
    assert found == {
        "machine": "x86",
        "run: dtype": "float32",
        "run: sizes.teacher.total": "5",
        "run: sizes.teacher.bytes": "20",
        "run: trackers": "wandb, trackio",
        "command": "potstill, distill",
    }
