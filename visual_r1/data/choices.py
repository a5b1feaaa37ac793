"""Multiple choice: what the model sees of the choices, and which answer is the gold one.

- Shown choices stand behind the problem, a letter each (`A. 30`); a problem that lists them in
  that way already is left as it is.
- Where they are shown, the gold answer may be a letter or the text of a choice. A text that does
  not grade as itself ("purple > blue") becomes its letter, which does.
- Where they are not shown, nobody can answer with a letter: it becomes the text of its choice.
- Choices may be letters themselves (`A. B`, `B. A`). Then a source says which choice is the answer,
  or the row is rejected: one letter may be meant in two ways.
- A problem that lists lettered choices itself, and whose source has no column for them, gets them
  from its own text, so that an answer by value is graded too.
- A gold answer in a response's own wrapper, `<answer> 145° </answer>`, is what stands in it.
"""

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from visual_r1.data.problem import Problem
from visual_r1.grading import choice_named, fault_of_gold, gold_text

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.)]?")
# In none of these may two repeats meet that take the same characters: the text is anybody's.
# "A:65°", "(B) 30", "C. 4": a line, or what follows another choice on the same line.
_LISTED = re.compile(r"(?:^|\s)\(?([A-Z])[^\S\n]*[.:)]", re.MULTILINE)
# The same with small letters, and with the marks that Chinese and Japanese have.
_LISTED_SOMEHOW = re.compile(r"(?:^|\s)[(（]?([A-Za-z])[^\S\n]*[.:)．：）、]", re.MULTILINE)
_HEADING = re.compile(r"(?i)\b(?:choices|options)\s*(?::\s*)?\Z")
# A letter with its marks, a group at each place behind it where the choice may begin.
_SHOWN = {letter: re.compile(rf"(?<!\w){letter}\s*()[.:)]?()\)?\s*") for letter in ascii_uppercase}
# As the choices of another order are found. A small letter has a mark behind it: `a square` is
# none.
_SHOWN_SOMEHOW = {
    letter: re.compile(
        rf"(?<!\w)[(（]?(?:{letter}\s*()[.:)．：）、]?|{letter.lower()}\s*[.:)．：）、])()\)?\s*"
    )
    for letter in ascii_uppercase
}


class BadChoice(Exception):
    """Choices and answer do not go together; the message says why."""


def with_choices(
    text: str, answer: str, choices: Sequence[str], show: bool, named: int | None = None
) -> tuple[str, str, tuple[str, ...]]:
    """Problem, gold answer and choices as they are stored; see the rules above.

    `named` is the place of the choice that is the answer, where the source says that. Raises
    `BadChoice` where the answer is a letter that none of the choices has or that may mean two of
    them, or where a choice that is to be shown is empty.
    """
    answer = gold_text(answer).strip()
    place = _place(answer)
    if not choices:
        found = listed_choices(text) if place is not None else ()
        if place is None or place >= len(found):
            return text, answer, ()
        return text, ascii_uppercase[place], found
    kept = tuple(choice.strip() for choice in choices)
    if len(kept) > len(ascii_uppercase):
        raise BadChoice(f"there are {len(kept)} choices, more than letters")
    if show and "" in kept:
        raise BadChoice(f"choice {ascii_uppercase[kept.index('')]} is empty")
    shown = lists_choices(text, kept)
    if show and not shown:
        text, shown = f"{text.rstrip()}\n{_block(kept)}", True
    in_picture = only_letters(kept)
    # The choice that the answer names where it is taken for a letter.
    called = None if place is None or place >= len(kept) or in_picture else kept[place]
    if named is not None and called is not None:
        answer = ascii_uppercase[named] if shown else kept[named]
    elif answer in kept and not in_picture:
        if called not in (None, answer):
            raise BadChoice(
                f"the answer {answer!r} may be the letter of {called!r}, or the choice {answer!r}: "
                "say which by its number (data.columns.answer_index)"
            )
        if shown and kept.count(answer) == 1 and fault_of_gold(answer) is not None:
            answer = ascii_uppercase[kept.index(answer)]
    elif place is not None:
        if place >= len(kept):
            raise BadChoice(f"the answer {answer!r} names none of the {len(kept)} choices")
        answer = ascii_uppercase[place] if shown else kept[place]
    return text, answer, kept


def lists_choices(text: str, choices: Sequence[str]) -> bool:
    """Whether `text` shows the choices, each behind its letter."""
    if only_letters(choices):
        return _block(choices) in text
    return all(
        next(_behind(_SHOWN[letter], text, choice), None) is not None
        for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )


def without_choices(text: str, choices: Sequence[str]) -> str:
    """`text` without the choices that it shows; whole where it shows none, or their letters alone.

    For whoever must not be told them: one reads a number off them without having seen the figure.
    """
    if not choices or only_letters(choices):
        return text
    if lists_choices(text, choices):
        for letter, choice in zip(ascii_uppercase, choices, strict=False):
            text = _without(text, letter, choice)
    elif places := _places_of(text, choices):
        for label, _, end in reversed(places):
            text = text[:label] + text[end:].lstrip(" \t,;")
    else:
        return text
    return _HEADING.sub("", text.rstrip()).rstrip()


def in_another_order(text: str, choices: Sequence[str], order: Sequence[int]) -> str | None:
    """`text` with its letters in their places and the choices behind them in another order:
    `order` has for each place which choice comes to stand there.

    None where it does not list them, each behind its letter and once.
    """
    places = _places_of(text, choices)
    if not places:
        return None
    pieces: list[str] = []
    rest: list[str] = []
    at = 0
    for (_, start, end), choice in zip(places, order, strict=True):
        rest.append(text[at:start])
        pieces += [text[at:start], choices[choice]]
        at = end
    listed_again = lists_choices("".join([*rest, text[at:]]), choices)
    return None if listed_again else "".join([*pieces, text[at:]])


def shown_choices(problem: Problem) -> Sequence[str]:
    """The choices, where the problem shows them or its answer is a letter; else none.

    A letter guessed for choices that the model never saw must not be right one time in four.
    """
    if not problem.choices:
        return ()
    if choice_named(problem.answer, problem.choices) is not None:
        return problem.choices
    shown = all(_has_words(problem.problem, choice) for choice in problem.choices)
    return problem.choices if shown else ()


def listed_choices(text: str) -> tuple[str, ...]:
    """The choices that a problem lists itself as A, B, ... in order; none where it does not."""
    return _listed(_LISTED, text)


def choices_of(problem: Problem) -> tuple[str, ...]:
    """The choices of a problem: those that it is stored with, or else those that its text lists
    and its answer names, by letter or as the last thing in the text.

    Here small letters count too (`(a) 30 (b) 45`): nothing is stored of it.
    """
    if problem.choices:
        return problem.choices
    text = problem.problem.rstrip()
    found = tuple(one.rstrip(" ,;") for one in _listed(_LISTED_SOMEHOW, text))
    if not all(found):
        return ()
    answer = gold_text(problem.answer).strip()
    place = _place(answer)
    named = place is not None and place < len(found)
    told = answer in found and text.rstrip(" .,;?").endswith(found[-1].rstrip(" .,;?"))
    return found if named or told else ()


def _listed(label: re.Pattern[str], text: str) -> tuple[str, ...]:
    """The last row of choices from A on, each from its label to the next one or the line's end.

    What stands right behind a label is no other: `A. B. C.` may be choices that are letters.
    """
    best: list[str] = []
    run: list[str] = []
    found = label.search(text)
    while found is not None:
        start = found.end()
        while start < len(text) and text[start].isspace() and text[start] != "\n":
            start += 1
        following = label.search(text, start)
        end = len(text) if following is None else following.start()
        line_end = text.find("\n", start, end)
        choice = text[start : end if line_end < 0 else line_end].strip()
        if found[1] in "Aa":
            run = []
        if found[1].upper() == ascii_uppercase[len(run) % len(ascii_uppercase)] and choice:
            run.append(choice)
            best = run
        found = following
    return tuple(best) if len(best) > 1 else ()


def _places_of(text: str, choices: Sequence[str]) -> list[tuple[int, int, int]]:
    """Where `text` lists the choices, from the last back: of each where its letter begins, where it
    begins itself, and where it ends. Empty where it does not."""
    places: list[tuple[int, int, int]] = []
    limit = len(text)
    for letter, choice in reversed(list(zip(ascii_uppercase, choices, strict=False))):
        last: tuple[int, int] | None = None
        for label, start in _behind(_SHOWN_SOMEHOW[letter], text[:limit], choice):
            end = start + len(choice)
            if choice and not (end < limit and _in_word(text[end])):
                last = label, start
        if last is None:
            return []
        places.append((*last, last[1] + len(choice)))
        limit = last[0]
    return places[::-1]


def _behind(label: re.Pattern[str], text: str, choice: str) -> Iterator[tuple[int, int]]:
    """Where `choice` stands behind a label: where the label begins, and the choice."""
    for found in label.finditer(text):
        # With all of the label's marks; a choice may begin with one itself: `A .5`.
        for start in (
            found.end(),
            *(found.start(group) for group in range(found.re.groups, 0, -1)),
        ):
            if start >= 0 and text.startswith(choice, start):
                yield found.start(), start
                break


def _without(text: str, letter: str, choice: str) -> str:
    """`text` without the choice wherever it stands behind its letter, and the comma behind it."""
    pieces: list[str] = []
    at = 0
    for label, start in _behind(_SHOWN[letter], text, choice):
        if label < at:
            continue  # within the choice itself
        bracket = label > at and text[label - 1] == "("
        pieces.append(text[at : label - bracket])
        at = start + len(choice)
        rest = at
        while rest < len(text) and text[rest] in " \t":
            rest += 1
        at = rest + (rest < len(text) and text[rest] in ",;")
    return "".join([*pieces, text[at:]])


def _has_words(text: str, words: str) -> bool:
    """Whether `words` stand in the text, and not within a word."""
    at = text.find(words)
    while at >= 0:
        end = at + len(words)
        if not (at and _in_word(text[at - 1])) and not (end < len(text) and _in_word(text[end])):
            return True
        at = text.find(words, at + 1)
    return False


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _place(answer: str) -> int | None:
    found = _LETTER.fullmatch(answer)
    return None if found is None else ascii_uppercase.index(found[1].upper())


def only_letters(choices: Sequence[str]) -> bool:
    """Whether the choices are in the picture, and the source only counts them: A, B, C."""
    return list(choices) == list(ascii_uppercase[: len(choices)])


def _block(choices: Sequence[str]) -> str:
    if only_letters(choices):
        return f"Choices: {', '.join(choices)}"
    lines = (f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False))
    return "\n".join(("Choices:", *lines))
