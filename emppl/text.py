"""Text of unknown origin, such as names and labels, made fit for a terminal, a page or a markdown file."""

from __future__ import annotations

import re
import unicodedata

# Controls, changes of the direction of writing, separators that are no newline, halves of surrogate pairs: what a
# terminal obeys instead of showing it, what makes XML invalid, and what shows other words than are there.
UNSEEN = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in range(0x10000)
    if (unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\n\t")
    or unicodedata.bidirectional(chr(code)) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    or code in (0x061C, 0x200E, 0x200F, 0xFEFF, 0xFFFE, 0xFFFF)
}
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # in HDF5, whose text is UTF-8 that ends at a zero
ALWAYS = re.compile(r"([*`<|~$])")  # what begins markup wherever it stands
UNDERLINES = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # inside a word it is a letter
BACKSLASHES = re.compile(r"\\(?=[!-/:-@\[-`{-~])")
LINKS = re.compile(r"\](?=[(\[:])")
ENTITIES = re.compile(r"&(?=#?\w+;)")


def visible(text: str) -> str:
    """The text with every character that is not to be seen written out, "\\x1b" for an escape; newlines stay."""
    return text if text.isascii() and text.isprintable() else text.translate(UNSEEN)


def storable(text: str) -> str:
    """The text with every character written out that no file can hold: a zero, halves of surrogate pairs."""
    return UNSTORABLE.sub(lambda found: UNSEEN[ord(found[0])], text)


def markdown(text: str) -> str:
    """One line that markdown shows as the text stands: nothing in it is emphasis, code, a link, HTML, mathematics or
    the end of a table's cell.
    """
    text = BACKSLASHES.sub(r"\\\\", visible(re.sub(r"\s*[\r\n]\s*", " ", text)))
    text = LINKS.sub(r"\\]", ENTITIES.sub("&amp;", ALWAYS.sub(r"\\\1", text)))
    return UNDERLINES.sub(r"\\_", text)


def fenced(text: str, language: str = "") -> str:
    """A code block of markdown, its fence longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"
