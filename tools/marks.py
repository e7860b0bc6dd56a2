"""Tables that tools write into pages, between two marks."""

from __future__ import annotations

from typing import NamedTuple


class Marks(NamedTuple):
    """Comments around what a tool writes."""

    begin: str
    end: str

    def filled(self, page: str, made: str) -> str:
        """The page with this in the place of what is between its marks."""
        before, _, rest = page.partition(self.begin)
        _, _, after = rest.partition(self.end)
        return f"{before}{self.begin}\n\n{made}\n\n{self.end}{after}"
