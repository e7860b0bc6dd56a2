"""HTML under test: parsed, and refused where tags do not balance."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements as [tag, attributes, text within], in document order; refuses tags that do not balance."""

    void: frozenset[str] = frozenset({"img"})  # tags without an end

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[list] = []
        self.open: list[list] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in self.void:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag):
        return [element for element in self.elements if element[0] == tag]

    def texts(self, tag):
        return [text for _, _, text in self.all(tag)]
