"""Brings the whole book in step with the order of _toc.yml.

    python -m book.notebooks.renumber              renumber, or say what stands in the way
    python -m book.notebooks.renumber --dry-run    show the map, and change nothing
    python -m book.notebooks.renumber --anyway     leave what cannot be resolved as it is

Chapters get the numbers 1, 2, 3, …, and notebooks under a caption that begins with
"Appendi" the letters A, B, C, …. From these follow the names of the files, the titles, the
tags of equations (contiguous in each chapter), and every mention of them in prose,
comments, docstrings and strings, in checks (``eq="4.3"``) and in marks of definitions. The map from old to new is made whole before anything is
changed, so that no number passes through another. While a mention names what no chapter or
equation has, nothing is written.
"""

import io
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml

from book import ROOT

STEM = re.compile(r"(?P<label>\d+[a-z]?|[A-Z])_(?P<name>\w+)")
TAG = re.compile(r"\\tag\{(?P<chapter>[A-Z\d]+)\.(?P<base>\d+)(?P<letter>[a-z]?)\}")
TITLE = re.compile(r"# (?:Appendix )?(?:\d+[a-z]?|[A-Z])\. (?P<aside>Supplement: )?")
NUMBER = r"\([A-Z\d]+\.\d+[a-z]?\)"
# A line may end between two words, also in a comment.
SPACE = r"(?:\s|(?<=\s)(?:#|//|\*)(?=\s))+"
JOIN = rf"(?:,{SPACE}(?:(?:and|or|then|to){SPACE})?|{SPACE}(?:and|or|to){SPACE}|[-–])"
EQUATIONS = re.compile(rf"\b[Ee]quations?{SPACE}(?P<list>{NUMBER}(?:{JOIN}{NUMBER})*)")
BARE = re.compile(rf"(?<![^\s,;:\[–-])(?P<list>{NUMBER})")
LABEL = r"(?:\d+[a-zA-Z]?(?![\w.]*\w)|[A-Z](?!\w))"
CHAPTERS = re.compile(
    rf"\b(?:[Cc]hapters{SPACE}(?P<list>{LABEL}(?:{JOIN}{LABEL})*)"
    rf"|[Cc]hapter{SPACE}(?P<one>{LABEL}))"
)
APPENDICES = re.compile(
    rf"\b(?:[Aa]ppendices{SPACE}(?P<list>[A-Z]\b(?:{JOIN}[A-Z]\b)*)"
    rf"|[Aa]ppendix{SPACE}(?P<one>[A-Z]\b))"
)
# What binds an equation to its check, and what marks it as a definition.
DOTTED = r"[A-Z\d]+\.\d+[a-z]?"
CHECK = re.compile(r"\beq\s*=\s*(?P<names>\"[^\"\n]*\"|\([^()]*\))")
MARK = re.compile(rf"<!-- definitions?: (?P<names>{DOTTED}(?:, {DOTTED})*) -->")
RANGE = re.compile(r"\bto\b|[-–]")
FOREIGN = re.compile(r",?\s+(?:of|in)\s+(?:\[|their|his|her|the paper|[A-Z])")
SUPPLEMENT = re.compile(r"\b[Ss]upplements?\b")
# Where an equation's number in brackets is not one: mathematics, code, addresses.
NOT_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$\n]*\$|\]\([^)]*\)", re.S)
SLASHED = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
FOLDERS = {".git", ".venv", "_build", "build", "dist", "hlstm", "node_modules"}
SUFFIXES = set(
    ".cff .css .hpp .html .ini .ipynb .js .md .py .sh .svg .toml .yml".split()
)
# These two speak of numbers that no chapter has.
OWN = {"book/notebooks/renumber.py", "tests/book/test_renumber.py"}


@dataclass
class Plan:
    """What becomes what: stems of files, labels of chapters, tags of equations."""

    stems: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def label_of(self, stem: str) -> str:
        """The new number or letter of the chapter that had this stem."""
        return self.stems[stem].partition("_")[0].lstrip("0")

    def lines(self) -> Iterator[str]:
        """The map for a reader, only what changes."""
        for old, new in self.stems.items():
            yield f"{old:<24}{new}{'' if old != new else '  (as it is)'}"
        for old, new in self.tags.items():
            if old != new:
                yield f"({old}) becomes ({new})"


def entries(root: Path) -> Iterator[tuple[str, bool]]:
    """The stems of the notebooks in reading order, and whether each is an appendix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    for part in toc.get("parts", []):
        appendix = part.get("caption", "").startswith("Appendi")
        for entry in part["chapters"]:
            folder, _, stem = entry["file"].rpartition("/")
            if folder == "chapters":
                yield stem, appendix


def make_plan(root: Path) -> Plan:
    """Read the order and the notebooks, and decide every new name."""
    plan = Plan()
    counts = {True: 0, False: 0}
    for stem, appendix in entries(root):
        match = STEM.fullmatch(stem)
        path = root / "chapters" / f"{stem}.ipynb"
        if not match or not path.exists():
            plan.problems.append(f"_toc.yml: no notebook chapters/{stem}.ipynb")
            continue
        counts[appendix] += 1
        count = counts[appendix]
        new = chr(ord("A") + count - 1) if appendix else f"{count:02}"
        plan.stems[stem] = f"{new}_{match['name']}"
        label = match["label"].lstrip("0")
        if label in plan.labels:
            plan.problems.append(f"_toc.yml: two chapters are called {label}")
        plan.labels[label] = new.lstrip("0")
        _number_tags(plan, path, plan.labels[label])
    for path in sorted((root / "chapters").glob("*.ipynb")):
        if path.stem not in plan.stems:
            plan.problems.append(f"chapters/{path.name} is not in _toc.yml")
    return plan


def _number_tags(plan: Plan, path: Path, label: str) -> None:
    """Give the equations of one notebook contiguous numbers; 3.1 and 3.1a share one."""
    count, base = 0, ""
    for cell in nbformat.read(path, as_version=4).cells:
        for tag in TAG.finditer(cell.source if cell.cell_type == "markdown" else ""):
            whole = f"{tag['chapter']}.{tag['base']}"
            if not (tag["letter"] and whole == base):
                count += 1
            base = whole
            old = f"{whole}{tag['letter']}"
            if old in plan.tags:
                plan.problems.append(f"{path.name}: equation ({old}) is there twice")
            plan.tags[old] = f"{label}.{count}{tag['letter']}"


class Editor:
    """The mentions in one piece of text, replaced."""

    def __init__(self, plan: Plan, place: str, text: str) -> None:
        self.plan, self.place, self.text = plan, place, text
        self.edits: dict[tuple[int, int], str] = {}

    def result(self) -> str:
        """The text with all replacements made at once."""
        text = self.text
        for (start, end), new in sorted(self.edits.items(), reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def line(self, start: int, end: int) -> str:
        """A few words around a mention."""
        return " ".join(self.text[max(start - 30, 0) : end + 30].split())

    def problem(self, start: int, end: int, what: str) -> None:
        """Note what a hand has to mend."""
        self.plan.problems.append(f"{self.place}: {what}: {self.line(start, end)}")

    def note(self, start: int, end: int, what: str) -> None:
        """Note what a hand may want to look at."""
        self.plan.notes.append(f"{self.place}: {what}: {self.line(start, end)}")

    def put(self, start: int, end: int, new: str) -> None:
        """Replace a stretch, once."""
        self.edits.setdefault((start, end), new)

    def all(self, prose: Iterable[tuple[int, int]]) -> str:
        """Replace every mention; bare numbers in brackets only in these stretches."""
        self.links()
        self.stems()
        self.mentions(CHAPTERS, self.plan.labels, "chapter", LABEL)
        self.mentions(APPENDICES, self.plan.labels, "appendix", "[A-Z]")
        self.mentions(EQUATIONS, self.plan.tags, "equation", NUMBER)
        for start, end in prose:
            for match in BARE.finditer(self.text, start, end):
                self.bare(match.start("list"), match.end("list"))
        for match in SUPPLEMENT.finditer(self.text):
            self.problem(*match.span(), "a supplement needs words by hand")
        return self.result()

    def stems(self) -> None:
        """Replace the names of files."""
        names = "|".join(sorted(map(re.escape, self.plan.stems), reverse=True))
        for match in re.finditer(rf"(?<![\w]){names and f'(?:{names})'}\b", self.text):
            if match[0]:
                self.put(*match.span(), self.plan.stems[match[0]])

    def links(self) -> None:
        """In a link to a chapter, the number follows the file, and so in a table."""
        link = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<to>[^()\s]*)\)")
        for match in link.finditer(self.text):
            stem = re.split(r"[.#]", match["to"].rpartition("/")[2])[0]
            if stem not in self.plan.stems:
                continue
            new = self.plan.label_of(stem)
            for pattern in (CHAPTERS, APPENDICES):
                for mention in pattern.finditer(match["text"]):
                    if not mention["one"]:
                        continue
                    start, end = mention.span("one")
                    offset = match.start("text")
                    self.put(start + offset, end + offset, new)
                    known = STEM.fullmatch(stem)
                    assert known is not None
                    own = known["label"].lstrip("0")
                    if mention["one"].lower() not in (own.lower(), own[:-1]):
                        self.note(*match.span(), "the link leads elsewhere")
            begins = self.text.rfind("\n", 0, match.start()) + 1
            row = re.fullmatch(
                r"\|[^\S\n]*(\w*)[^\S\n]*\|[^\S\n]*", self.text[begins : match.start()]
            )
            if row and (not row[1] or STEM.fullmatch(f"{row[1]}_x")):
                self.put(begins, match.start(), f"| {new} | ")

    def mentions(
        self, pattern: re.Pattern[str], known: dict[str, str], kind: str, item: str
    ) -> None:
        """Replace what follows the word "chapter", "appendix" or "equation"."""
        for match in pattern.finditer(self.text):
            group = "list" if match["list"] else "one"
            if FOREIGN.match(self.text, match.end()):
                self.note(*match.span(), "left as it is, of another work")
                continue
            start, end = match.span(group)
            for number in re.finditer(item, self.text[start:end]):
                at = start + number.start(), start + number.end()
                self.number(*at, known, kind)
            if kind != "equation" and RANGE.search(match[group]):
                self.note(*match.span(), "a range, whose chapters may have moved")

    def bonds(self, pattern: re.Pattern[str]) -> str:
        """Replace the numbers in checks or marks, and nothing else."""
        for match in pattern.finditer(self.text):
            start, end = match.span("names")
            for number in re.finditer(DOTTED, self.text[start:end]):
                at = start + number.start(), start + number.end()
                self.number(*at, self.plan.tags, "equation")
        return self.result()

    def number(self, start: int, end: int, known: dict[str, str], kind: str) -> None:
        """Replace one number, or say that nothing has it."""
        if (start, end) in self.edits:
            return
        whole = self.text[start:end]
        old = whole.strip("()")
        if kind == "chapter" and not old.isupper():
            old = old.lower()
        if old in known:
            new = known[old]
            self.put(start, end, f"({new})" if whole.startswith("(") else new)
        else:
            self.problem(start, end, f"no {kind} has this number")

    def bare(self, start: int, end: int) -> None:
        """Replace a number in brackets alone, where it is an equation's."""
        old = self.text[start:end].strip("()")
        if (start, end) not in self.edits and old in self.plan.tags:
            self.put(start, end, f"({self.plan.tags[old]})")
            if self.plan.tags[old] != old:
                self.note(start, end, "taken for an equation")


def prose(text: str) -> Iterator[tuple[int, int]]:
    """The stretches of Markdown that are neither mathematics nor code."""
    start = 0
    for match in NOT_PROSE.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def remarks(code: str) -> Iterator[tuple[int, int, bool]]:
    """The comments and strings of Python; true where bare numbers count, too."""
    # Magics are no Python; a comment takes their place.
    plain = re.sub(r"(?m)^([^\S\n]*)[%!?]", r"\1#", code)
    starts = [0]
    for line in plain.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    strings = {
        number
        for name in ("STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE")
        if (number := getattr(tokenize, name, None)) is not None
    }
    fresh = True
    try:
        for token in tokenize.generate_tokens(io.StringIO(plain).readline):
            begin = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            if token.type == tokenize.COMMENT:
                yield begin, end, True
            elif token.type in strings:
                yield begin, end, fresh
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                fresh = token.type in (
                    tokenize.NEWLINE,
                    tokenize.INDENT,
                    tokenize.DEDENT,
                    tokenize.ENCODING,
                )
    except (tokenize.TokenError, IndentationError):
        for match in re.finditer(r"#[^\n]*", plain):
            yield *match.span(), True


def edit_markdown(plan: Plan, place: str, text: str) -> str:
    """A page, or a cell of words."""
    return Editor(plan, place, text).all(prose(text))


def edit_python(plan: Plan, place: str, text: str) -> str:
    """Code: names of files anywhere, the rest in comments and strings."""
    parts, end = [], 0
    for start, stop, counts in _joined(text, remarks(text)):
        parts.append(edit_names(plan, place, text[end:start]))
        inside = text[start:stop]
        stretches = [(0, len(inside))] if counts else []
        parts.append(Editor(plan, place, inside).all(stretches))
        end = stop
    return "".join([*parts, edit_names(plan, place, text[end:])])


def _joined(
    text: str, found: Iterable[tuple[int, int, bool]]
) -> Iterator[tuple[int, int, bool]]:
    """Comments on lines one under the other, and strings side by side, as one."""
    last: tuple[int, int, bool] | None = None
    for start, end, counts in found:
        between = text[last[1] : start] if last else "x"
        if last and not between.strip() and "\n\n" not in between:
            last = last[0], end, last[2] and counts
        else:
            if last:
                yield last
            last = start, end, counts
    if last:
        yield last


def edit_names(plan: Plan, place: str, text: str) -> str:
    """Only the names of files."""
    editor = Editor(plan, place, text)
    editor.stems()
    return editor.result()


def edit_plain(plan: Plan, place: str, text: str) -> str:
    """Any other file; bare numbers count in comments between slashes."""
    return Editor(plan, place, text).all(m.span() for m in SLASHED.finditer(text))


def edit_notebook(plan: Plan, path: Path) -> str:
    """A notebook's new text."""
    notebook = nbformat.read(path, as_version=4)
    for position, cell in enumerate(notebook.cells):
        place = f"chapters/{path.name} cell {cell.get('id', position)}"
        if cell.cell_type == "code":
            magic = cell.source.startswith("%%")
            edit = edit_plain if magic else edit_python
            source = edit(plan, place, cell.source)
            cell.source = Editor(plan, place, source).bonds(CHECK)
            continue
        if cell.cell_type == "markdown":
            title = TITLE.match(cell.source) if position == 0 else None
            if title and path.stem in plan.stems:
                rest = cell.source[title.end() :]
                if title["aside"]:
                    rest = rest[:1].upper() + rest[1:]
                cell.source = f"# {plan.label_of(path.stem)}. {rest}"
            elif position == 0:
                plan.problems.append(f"{place}: no title with a number")
            cell.source = TAG.sub(
                lambda tag: rf"\tag{{{plan.tags.get(tag[0][5:-1], tag[0][5:-1])}}}",
                cell.source,
            )
            source = edit_markdown(plan, place, cell.source)
            cell.source = Editor(plan, place, source).bonds(MARK)
    return nbformat.writes(notebook) + "\n"


def texts(root: Path) -> Iterator[Path]:
    """Every file in which a chapter may be mentioned."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(set(names) - FOLDERS - {"__pycache__"})
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in SUFFIXES or name in ("Makefile", "run"):
                if path.relative_to(root).as_posix() not in OWN:
                    yield path


def changes(root: Path, plan: Plan) -> dict[Path, str]:
    """The new text of each file that changes or moves, by its old path."""
    edits: dict[str, Callable[[Plan, str, str], str]] = {
        ".md": edit_markdown,
        ".py": edit_python,
    }
    found = {}
    for path in texts(root):
        old = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            new = edit_notebook(plan, path)
        else:
            edit = edits.get(path.suffix, edit_plain)
            new = edit(plan, path.relative_to(root).as_posix(), old)
        if new != old or plan.stems.get(path.stem, path.stem) != path.stem:
            found[path] = new
    return found


def apply(root: Path, plan: Plan, found: dict[Path, str]) -> None:
    """Write all at once: first the old notebooks go, then the new ones come."""
    moved = {
        path: path.with_stem(plan.stems.get(path.stem, path.stem))
        if path.suffix == ".ipynb"
        else path
        for path in found
    }
    for path, target in moved.items():
        if target != path:
            path.unlink()
    for path, text in found.items():
        moved[path].write_text(text, "utf-8", newline="\n")
        print(f"wrote {moved[path].relative_to(root).as_posix()}")


def main(root: Path = ROOT, *options: str) -> int:
    """Renumber the book under `root`; return 1 where a hand is needed."""
    plan = make_plan(root)
    broken = bool(plan.problems)
    found = {} if broken else changes(root, plan)
    if "--dry-run" in options:
        print("\n".join([*plan.lines(), *(f"note: {note}" for note in plan.notes)]))
    for problem in plan.problems:
        print(problem)
    if plan.problems and (broken or "--anyway" not in options):
        print("nothing is written while these stand")
    elif "--dry-run" not in options:
        apply(root, plan, found)
        if found:
            print("now run make export")
        for note in plan.notes:
            print(f"note: {note}")
    return int(bool(plan.problems))


if __name__ == "__main__":
    sys.exit(main(ROOT, *sys.argv[1:]))
