"""The words of messages: counts with their noun, lists, foreign text made safe, suggested names."""

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher


def many(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, which agrees: `1 image`, `2,480 images`, `0 batches`.

    noun     in the singular; words before it may stand in it as well (`annotated image`)
    plural   where it is not the regular one
    """
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    """The regular plural of a noun."""
    if noun.endswith(("s", "x", "z", "sh", "tch")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def have(count: int) -> str:
    """The verb that agrees with a count: `1 has`, `2 have`."""
    return "has" if count == 1 else "have"


def listed(parts: Sequence[str]) -> str:
    """The parts as words of a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shown(text: str) -> str:
    r"""Text of any origin as one line that is safe in a terminal: unprintable characters escaped.

    Names of files, classes and variants, and reasons of errors, may hold escape sequences that move
    the cursor or retitle the window, characters that turn the direction of writing, line breaks,
    and halves of characters that no encoding takes: `\x1b[2J`, `\u202e`, `\n`, `\udcff`. Text that
    is printable stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


_BEGINS_A_FORMULA = re.compile(r"(^(?=[\t\r\n\0])|(?:^|[;\t\r\n])(?=[\s\0]*[=+@\-＝＋＠－]))")  # noqa: RUF001


def inert(text: str) -> str:
    """A text for a table that no spreadsheet runs: an apostrophe stands before a possible formula.

    A variant or a file named `=HYPERLINK(...)`, or an error with such a text, must not run anything
    on the machine where the table is opened (OWASP, CSV injection). Spreadsheets may take
    semicolons for separators, as German ones do, so what follows a semicolon counts as the begin of
    a text too. Numbers are no formulas, whatever their sign.
    """
    if _is_number(text):
        return text
    # Python's writer does not quote a carriage return; a reader may take what follows for a row.
    return _BEGINS_A_FORMULA.sub(r"\1'", text.replace("\r\n", "\n").replace("\r", "\n"))


def _is_number(plain: str) -> bool:
    try:
        float(plain)
    except ValueError:
        return False
    return plain.strip() == plain and plain.isascii()


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxlist = self.maxdict = 8
        self.maxstring = self.maxother = 80


brief: Callable[[object], str] = _Brief().repr
"""A value from a file as messages show it, cut short without being written out first: the full text
of a hostile value could fill the memory."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def nearest(
    name: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None
) -> str | None:
    """The known name that a person who wrote `name` most likely meant; None if none is similar.

    known      names, perhaps with a section before a dot: `optim.learning_rate`
    synonyms   other words for some of them: `{"freeze": "model.trainable_layers"}`

    The part after the last dot counts most. In falling order of likeness it is the same word, its
    initials (`lr`), some of its words (`batch`, `num_epochs`), an abbreviation (`grad_clip`,
    `hflip`), or shares letters with it in the same order.
    """
    meant = (synonyms or {}).get(_words(name)[-1].replace(" ", "_"))
    scores = {
        other: max(_likeness(name, other), 0.97 - _stranger(name, other) if other == meant else 0)
        for other in known
    }
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] >= _LIKE else None


_LIKE = 0.6
"""Least likeness, from 0 to 1, of a name that is suggested."""


def _words(name: str) -> list[str]:
    """The parts of a dotted name in small letters, words in a part set apart by spaces."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).casefold()
    return [" ".join(re.findall(r"[^\W_]+", part)) for part in apart.split(".")]


def _likeness(name: str, other: str) -> float:
    """The likeness of two dotted names, from 0 to 1; names of one section are more alike."""
    mine, its = _words(name), _words(other)
    whole = SequenceMatcher(None, ".".join(mine), ".".join(its)).ratio()
    return max(whole, _of_leaves(mine[-1], its[-1])) - _stranger(name, other) + 0.001 * whole


def _stranger(name: str, other: str) -> float:
    """The penalty for a name of another section; a name without a section may mean any."""
    section, its = name.casefold().rpartition(".")[0], other.rpartition(".")[0]
    return 0.0 if not section or its.startswith(section[:3]) else 0.12


def _of_leaves(mine: str, its: str) -> float:
    """The likeness of the last parts of two names, as `_words` gives them, from 0 to 1."""
    if not mine or not its:
        return 0.0
    if mine == its:
        return 0.96
    words, others = mine.split(), its.split()
    if len(mine) > 1 and mine == "".join(word[0] for word in others):
        return 0.92
    if {_stem(word) for word in words} & {_stem(word) for word in others} in (
        {_stem(word) for word in words}, {_stem(word) for word in others},
    ):  # fmt: skip
        return 0.9 - 0.02 * abs(len(others) - len(words))
    if len(words) == len(others) and all(
        o.startswith(w) or w.startswith(o) for w, o in zip(words, others, strict=True)
    ):
        return 0.85
    close = SequenceMatcher(None, mine, its).ratio()
    letters = iter(its.replace(" ", ""))
    if (
        len(mine) > 3
        and mine[0] == its[0]
        and all(letter in letters for letter in mine.replace(" ", ""))
    ):
        return max(0.7, close)
    return close if len(mine) > 3 else 0.0


def _stem(word: str) -> str:
    return word.removesuffix("s")
