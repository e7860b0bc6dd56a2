"""Write the tables of reference/cost.md: what the three variants cost, block by block. NumPy only.

A test of the default run compares the page with what this tool would write.

Run:  python tools/make_cost_page.py
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import VARIANTS
from benchmarks.tables import markdown
from marks import Marks

from npmobilevit.config import Head, MobileViTConfig
from npmobilevit.cost import CostTable, Row, cost_table

PAGE = Path(__file__).parents[1] / "reference" / "cost.md"
MARKS = Marks("<!-- the tables of tools/make_cost_page.py -->", "<!-- end of those -->")

TITLES: dict[Head, str] = {
    "classification": "Classification, 1000 labels, 1 x 3 x 256 x 256",
    "segmentation": "Segmentation, 21 labels, output stride 16, 1 x 3 x 512 x 512",
}


def table_of(variant: str, head: Head) -> CostTable:
    """The cost of a variant as it is published."""
    size, settings = {
        "classification": (256, {"num_labels": 1000}),
        "segmentation": (512, {"num_labels": 21, "output_stride": 16}),
    }[head]
    return cost_table(MobileViTConfig(**VARIANTS[variant], **settings), (size, size), head=head)


def tables() -> str:
    """Parameters and multiply-accumulates of the blocks of each variant, in Markdown."""
    return "\n\n".join(f"### {title}\n\n{_by_block(head)}" for head, title in TITLES.items())


def _by_block(head: Head) -> str:
    costs = [table_of(variant, head) for variant in VARIANTS]
    names = ("parameters", "million macs", "share")
    lines = zip(*([*cost.blocks(), cost.total()] for cost in costs), strict=True)
    return markdown(
        ("block", *(f"{variant}: {name}" if name == names[0] else name for variant in VARIANTS for name in names)),
        (
            (rows[0].name, *(cell for row, cost in zip(rows, costs, strict=True) for cell in _cells(row, cost)))
            for rows in lines
        ),
    )


def _cells(row: Row, cost: CostTable) -> tuple[str, str, str]:
    return f"{row.parameters:,}", f"{row.macs / 1e6:,.1f}", f"{row.macs / cost.total().macs:.1%}"


def main() -> None:
    """Write the tables."""
    PAGE.write_text(MARKS.filled(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
