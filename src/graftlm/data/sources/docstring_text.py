"""A raw docstring made into prose: what is markup, code or a signature goes, what a person would read stays.

Understands the common conventions (reStructuredText fields and directives, NumPy and Google sections, Markdown fences)
well enough for training text; it is no parser of any of them.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

SIGNATURE = re.compile(r"^[A-Za-z_][\w.]*\s*\(.*\)\s*(->\s*[^.]*)?:?$")
SIGNATURE_OPEN = re.compile(r"^[A-Za-z_][\w.]*\([^)]*$")
UNDERLINE = re.compile(r"^\s*([-=~^*#\"'`+_:])\1{2,}[\s\-=~^+|]*$")
DIRECTIVE = re.compile(r"^(\s*)\.\.\s+([\w:-]+)::\s*(.*)$")
COMMENT = re.compile(r"^\s*\.\.(\s|$)")
ROLE = re.compile(r":[a-zA-Z][\w:+-]*:`([^`]+)`")
REFERENCE = re.compile(r"\[?`([^`]+)`_{0,2}\]?")
LITERAL = re.compile(r"``(.+?)``")
LINK = re.compile(r"\[([^\]]+)\]\((?:https?:|#|\.|/)[^)]*\)")
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
CITATION = re.compile(r"\s*\[[\w.+-]+\]_")
SUBSTITUTION = re.compile(r"\|([\w ]+)\|_?")
ADMONITION = re.compile(r"(^|\s)(!!!\s+\w+(\s+\"[^\"]*\")?|>\s*\[!\w+\]|>(?=\s))")
TAG = re.compile(r"</?[A-Za-z][^>\n]{0,80}>")
FIELD = re.compile(
    r"^\s*:(param|parameter|arg|argument|type|raises?|returns?|rtype|return|keyword|ivar|var|cvar)\b([^:]*):\s*(.*)$"
)
BULLET = re.compile(r"^\s*([-*+•]|\(?\d{1,2}[.)])\s+")
SENTENCE_END = re.compile(r"[.!?][)\"'`]*(?=\s+[A-Z`\"'(\[*:0-9])")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|fig|eq|sec|ref|resp|approx|no|ver|v|dr|mr|st|aka|incl)|\b[A-Za-z])\.$", re.I
)
_TITLES = """
parameters, args, arguments, keyword arguments, keyword args, other parameters, call arguments, returns, return, yields,
yield, receives, raises, raise, warns, see also, notes, note, references, examples, example, usage, attributes, methods,
static methods, inputs, input, outputs, output, shape, warning, warnings, todo, default, defaults,
explanation, description
"""
SECTIONS = frozenset(" ".join(title.split()) for title in _TITLES.split(","))
# directives whose block is not prose
_CODE = """
code code-block sourcecode ipython testcode testsetup testoutput doctest plot math image figure graphviz table csv-table
list-table currentmodule module toctree autosummary autoclass autofunction automodule automethod highlight include
literalinclude raw role index mermaid jupyter-execute tabularcolumns only productionlist
"""
CODE_DIRECTIVES = frozenset(_CODE.split())
MARKUP = re.compile(r"[`<>|*!\\\[]")


@dataclass(frozen=True, slots=True)
class Docstring:
    """The summary (first sentence) and the body (all that follows) of one docstring; each on a single line."""

    summary: str
    body: str

    @property
    def text(self) -> str:
        return f"{self.summary} {self.body}".strip()


def read_docstring(raw: str) -> Docstring:
    """Clean a raw docstring and divide it: the first sentence of the first paragraph, and the rest."""
    lines = _without_code(_without_signature(inspect.cleandoc(raw).splitlines()))
    paragraphs = _paragraphs(lines)
    if not paragraphs:
        return Docstring("", "")
    summary, rest = _first_sentence(paragraphs[0])
    return Docstring(summary, " ".join(part for part in [rest, *paragraphs[1:]] if part))


def _without_signature(lines: list[str]) -> list[str]:
    """Drop a leading `name(args) -> result`, also one that runs over several lines."""
    start = 0
    while start < len(lines):
        line = lines[start].strip()
        if not line or SIGNATURE.match(line) or UNDERLINE.match(line):
            start += 1
        elif start < 3 and SIGNATURE_OPEN.match(line):
            end = next((at for at in range(start + 1, min(start + 8, len(lines))) if ")" in lines[at]), None)
            if end is None or not lines[end].strip().split("->")[0].strip().endswith(")"):
                break
            start = end + 1
        else:
            break
    return lines[start:]


def _without_code(lines: list[str]) -> list[str]:
    """Drop doctests, fenced and directive code, literal blocks after `::`, tables and underlines."""
    kept: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        bare = line.strip()
        directive = DIRECTIVE.match(line)
        if bare.startswith((">>>", "In [")):
            at = _end_of_paragraph(lines, at)
        elif bare.startswith(("```", "~~~")) and not bare.strip("`").strip().startswith("{"):
            fence = bare[:3]
            at += 1
            while at < len(lines) and not lines[at].strip().startswith(fence):
                at += 1
            at += 1
        elif directive:
            name = directive.group(2).lower()
            at += 1
            if name in CODE_DIRECTIVES:
                at = _end_of_block(lines, at, len(directive.group(1)))
            elif not name.startswith(("version", "deprecat", "automodule", "seealso")) and directive.group(3):
                kept.append(directive.group(1) + directive.group(3))
        elif COMMENT.match(line):
            at += 1
            kept.append("")
        elif UNDERLINE.match(line) or bare.startswith(("+--", "+==", "|")):
            at += 1
        elif bare.endswith("::"):
            indent = len(line) - len(line.lstrip())
            if bare != "::":
                kept += [line.rstrip()[:-1], ""]
            at = _end_of_block(lines, at + 1, indent)
        else:
            kept.append(line)
            at += 1
    return kept


def _end_of_paragraph(lines: list[str], at: int) -> int:
    """The first blank line after `at`; a doctest's output belongs to it."""
    while at < len(lines) and lines[at].strip():
        at += 1
    return at


def _end_of_block(lines: list[str], at: int, indent: int) -> int:
    """The first line from `at` on that is neither blank nor indented by more than `indent`."""
    while at < len(lines) and (not lines[at].strip() or len(lines[at]) - len(lines[at].lstrip()) > indent):
        at += 1
    return at


def _paragraphs(lines: list[str]) -> list[str]:
    """Join wrapped lines; a section title, a field and a list item each begin a new part."""
    parts: list[list[str]] = [[]]
    for line in lines:
        bare = line.strip()
        field = FIELD.match(line)
        title = bare.rstrip(":").lower() in SECTIONS and len(bare) < 24
        if not bare:
            parts.append([])
        elif title:
            parts += [[bare.rstrip(":") + ":"], []]
        elif field:
            words = f"{field.group(2).strip() or field.group(1).title()}: {field.group(3)}"
            parts.append([words])
        elif BULLET.match(line):
            parts.append([BULLET.sub("", line)])
        else:
            parts[-1].append(bare)
    joined = [plain(" ".join(part)) for part in parts]
    found = [part for part in joined if part]
    # a title with nothing below it (its examples were code) says nothing
    return [
        part
        for index, part in enumerate(found)
        if not (_is_title(part) and (index + 1 == len(found) or _is_title(found[index + 1])))
    ]


def _is_title(part: str) -> bool:
    return part.endswith(":") and part[:-1].lower() in SECTIONS


def plain(text: str) -> str:
    """Inline markup as the words a reader sees: roles, literals, links, emphasis; whitespace made single spaces."""
    if not MARKUP.search(text):
        return " ".join(text.split())
    text = ADMONITION.sub(r"\1", IMAGE.sub("", text))
    text = LINK.sub(r"\1", text)
    text = ROLE.sub(lambda match: _target(match.group(1)), text)
    text = LITERAL.sub(r"\1", text)
    text = CITATION.sub("", text)
    text = REFERENCE.sub(lambda match: _target(match.group(1)), text)
    text = SUBSTITUTION.sub(r"\1", text)
    text = TAG.sub("", text)
    text = text.replace("**", "").replace("\\", "")
    return " ".join(text.split())


def _target(reference: str) -> str:
    """`~torch.nn.Linear` is shown as Linear, `text <target>` as text."""
    shown = re.sub(r"\s*<[^>]*>$", "", reference.strip()) or reference.strip("<> ")
    return shown.rsplit(".", 1)[-1] if shown.startswith("~") else shown.lstrip("!")


def _first_sentence(paragraph: str) -> tuple[str, str]:
    for match in SENTENCE_END.finditer(paragraph):
        sentence = paragraph[: match.end()]
        if not ABBREVIATION.search(sentence):
            return sentence, paragraph[match.end() :].strip()
    return paragraph, ""
