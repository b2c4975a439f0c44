"""What a model takes to run, and what labels hold."""

from potstill.reports.costs import cost_table, label_table

FOUND = {
    "sizes": {"teacher": {"total": 10_000_000}, "distilled": {"total": 4_000_000}},
    "cache_values": {"teacher": 1_000, "distilled": 500},
    "int4": {"bytes": 3_000_000},
}
SPEEDS = {
    "teacher": {"prefill_tokens_per_second": 1000.0, "decode_tokens_per_second": 100.0},
    "distilled": {"prefill_tokens_per_second": 2000.0, "decode_tokens_per_second": 250.0},
}


def test_memory_speed_and_the_cost_of_a_million_tokens() -> None:
    table = cost_table(FOUND, SPEEDS, price_per_hour=0.9)
    cells = {row.name: [cell.value for cell in row.cells] for row in table.rows}
    # 2 bytes a weight, 2 a cached number; a million tokens at 100 a second are 2.78 hours.
    assert cells["teacher"] == ["20.0", "2,000", "28.2", "1,000", "100", "2.50"]
    assert cells["student"] == ["8.0", "1,000", "12.1", "2,000", "250", "1.00"]
    assert cells["student, four bits"] == ["3.0", "1,000", "7.1", "–", "–", "–"]
    assert "0.9 an hour" in table.columns[-1]


def test_without_a_price_hours_are_told_and_without_speeds_nothing() -> None:
    assert "hours of this machine" in cost_table(FOUND, SPEEDS, price_per_hour=None).columns[-1]
    rows = cost_table(FOUND | {"int4": None}, {}, price_per_hour=None).rows
    assert [cell.value for cell in rows[0].cells][3:] == ["–", "–", "–"]
    assert len(rows) == 2


def test_labels_in_bits() -> None:
    labels = {
        "entropy": 0.6931471805599453,
        "nll": 1.0397207708399179,
        "collision": 0.75,
        "hard_labels": 12.5,
        "listed_for_sure": 0.9,
        "bytes_per_token": 4.0,
    }
    cells = [row.cells[0].value for row in label_table(labels).rows]
    assert cells == ["1.00 bits", "1.50 bits", "+0.50 bits", "0.250", "12.5", "90.0%", "32 bits"]
    assert len(label_table(labels | {"hard_labels": None, "listed_for_sure": None}).rows) == 5
