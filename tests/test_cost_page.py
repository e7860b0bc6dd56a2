"""The tables of reference/cost.md are those that the cost tables give."""

import dataclasses

import make_cost_page as tool


def test_the_tables_in_the_repository_are_those_of_the_tool():
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.MARKS.filled(page, tool.tables()) == page, "run python tools/make_cost_page.py"


def test_another_cost_gives_another_table(monkeypatch):
    before, table_of = tool.tables(), tool.table_of

    def dearer(variant, head):
        first, *rest = table_of(variant, head).rows
        more = first._replace(macs=first.macs + 10**6)
        return dataclasses.replace(table_of(variant, head), rows=(more, *rest))

    monkeypatch.setattr(tool, "table_of", dearer)
    assert tool.tables() != before


def test_total_and_blocks_of_a_variant():
    table = tool.tables()
    assert (
        "| total | 1,272,024 | 407.4 | 100.0% | 2,317,848 | 1,025.9 | 100.0% | 5,578,632 | 2,000.8 | 100.0% |" in table
    )
    assert "| encoder.layer.2 | 139,888 | 211.7 | 52.0% |" in table
