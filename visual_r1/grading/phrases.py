"""The words around an answer and inside it, as the signs they stand for.

Around an answer stands, from the outside in:

    answer   = [heading] [lead] core [reason]
    heading  = a line of words in the typography of one: `### Result`, `**Final Answer**`, `So:`
    lead     = "so," | "therefore" | "we get that" | "the answer is" | "答案：" | ...
    reason   = ("because" | "since" | ...) what follows, as long as it takes nothing back

A heading or a reason that holds a word of `TAKES_BACK` is none: it may be there to deny the answer
(`Wrong: 7`, `7 because it is 8 or 9`).
"""

import re

# Words that deny, hedge, or offer another answer.
TAKES_BACK = frozenset(
    ("not", "no", "nor", "never", "none", "neither", "wrong", "incorrect", "false", "invalid", "or",
     "but", "however", "although", "unless", "except", "maybe", "perhaps", "possibly", "probably",
     "either", "instead", "rather", "actually", "wait", "unsure", "guess", "alternatively", "isn",
     "aren", "doesn", "don", "can", "cannot", "else", "if", "answer", "opposite", "anything",
     "unlikely",
     "nobody", "nothing", "hardly", "barely", "almost", "fake", "ignore", "previous", "old", "bad")
)  # fmt: skip
_WORDS = re.compile(r"[A-Za-z]+")

_CALLED = r"(?:answers?|solution|result|conclusion|choice|option|value)"
_MARKS = r"(\*{1,3}|_{1,2})"
_STEP = r"(?:(?:step|part) \d{1,2}[:.]? ?)?"
# What a heading may hold: neither a digit nor mathematics.
_TITLE = r"[^\n\d=$\\]"
_HEADING = re.compile(
    rf"(?:#{{1,6}}[ \t]*{_STEP}{_TITLE}{{1,60}}"
    rf"|{_MARKS}{_STEP}"
    rf"(?:{_TITLE}{{1,60}}?:|{_TITLE}{{0,60}}?{_CALLED}{_TITLE}{{0,20}}?)\1:?"
    rf"|(?=[^\n:]*\b(?:the|so|thus|hence|therefore|we|finally|{_CALLED})\b){_TITLE}{{1,60}}:"
    rf"|(?:the )?(?:final |correct )?{_CALLED})[ \t]*\n\s*(?=\S)",
    re.IGNORECASE,
)
_BOLD_LEAD = re.compile(rf"{_MARKS}[A-Za-z ]{{2,40}}(?::\1|\1\s*:)\s*(?=\S)")
_MARK_IN_FRONT = re.compile(
    r"(?:#{1,6}\s+|•\s+|>\s+(?=\*\*|__|\\boxed)|\*\s+(?=\S)(?![^*]*\*\*?$))"
)
_RULE = re.compile(r"^[ \t]*(?:-{3,}|={3,}|_{3,}|\*{3,})[ \t]*\n", re.MULTILINE)
# "Maria has 42 stickers": a subject, a verb, and the value right behind it.
_SENTENCE = re.compile(
    r"(?:[A-Z][a-z]+|(?:the|each|every|a) [a-z]+(?: [a-z]+){0,4}|it|you|we|they|he|she|i)"
    r" (?:will |would |must )?(?:has|have|had|needs?|takes?|costs?|weighs?|measures?|contains?"
    r"|holds?|gets?|uses?|requires?|makes?|earns?|pays?|travels?|covers?|equals?) (?=[\d$\\])",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\s*[,;.(]?\s*\b(?:(?:this|that|it) is )?(?:because|since|due to|owing to"
    r"|as (?:the|they|it|we|this|that|all|each|both)"
    r"|as (?:required|desired|needed|expected|claimed|shown|stated)|by (?:the|using))\b"
    r"(?P<why>.*)$",
    re.IGNORECASE | re.DOTALL,
)
# What the answer is said to be, behind it: "12, which is the length".
_CALLED_BEHIND = re.compile(
    r"(?:,\s*|\s*(?P<opened>\())which (?:is|are) (?P<words>(?:the|our|its|what) [a-z ]{1,80}"
    r"|\\(?:angle|overline|widehat) ?[A-Z{} ]{1,12})(?(opened)\))$",
    re.IGNORECASE,
)
_REASON_FIRST = re.compile(
    r"(?:because|since|given that|as)\b"
    r"(?P<why>[^,;]{0,200}(?:=|\b(?:is|are|has|have)\b)[^,;]{1,200})[,;]\s*(?=\S)"
    # By what: the law of cosines, Pythagoras.
    r"|(?:by|using|applying|according to)\b(?P<how>[^,;\d=]{1,100}),\s*(?=\S)",
    re.IGNORECASE,
)
_MOST_HEADINGS = 3


def takes_back(text: str) -> bool:
    """Whether a word in `text` denies, hedges, or offers another answer."""
    return any(word.lower() in TAKES_BACK for word in _WORDS.findall(text))


def unwrapped(text: str) -> str:
    """`text` without headings in front, and without a reason behind."""
    if "\n" in text:
        text = _RULE.sub("", text)
    for _ in range(_MOST_HEADINGS):
        text = _MARK_IN_FRONT.sub("", text, count=1) if _MARK_IN_FRONT.match(text) else text
        found = _HEADING.match(text)
        if found is None or not _is_heading(found[0]):
            break
        text = text[found.end() :]
    bold = _BOLD_LEAD.match(text)
    if bold is not None and _is_heading(bold[0]):
        text = text[bold.end() :]
    sentence = _SENTENCE.match(text)
    if sentence is not None and not takes_back(sentence[0]):
        text = text[sentence.end() :]
    called = _CALLED_BEHIND.search(text.rstrip(" ."))
    if called is not None and called.start() and not takes_back(called["words"]):
        text = text[: called.start()]
    reason = _REASON_FIRST.match(text)
    if reason is not None and not takes_back(reason["why"] or reason["how"]):
        text = text[reason.end() :]
    reason = _REASON.search(text)
    if reason is not None and reason.start() and not takes_back(reason["why"]):
        text = text[: reason.start()]
    return text.strip()


def _is_heading(words: str) -> bool:
    """`Final Answer`: what is called an answer is one, and any other words that deny nothing."""
    left = re.sub(r"(?i)(?<![a-z])answer(?![a-z])", "", words)
    return not takes_back(left)


_APPROXIMATELY = r"(?:approximately|approx\.?|about|roughly|\\approx|\\sim(?:eq)?)(?![A-Za-z])"
_NAME = r"(?:\\[a-z]+ *\{? *)?[A-Z][A-Z']{0,5}(?: *\})?"
_BE = r"(?:is|are|be)"
_SAID = (
    r"(?:(?:we|one|you|i|this|that|which|it) (?:can |then |now |therefore )?"
    r"(?:gets?|has|have|finds?|obtains?|sees?|concludes?|computes?|calculates?|gives?|yields?"
    r"|means?|shows?|implies|follows|know)(?: that)?)"
)

# In this order; matched without regard to case.
_REWRITTEN = [
    (re.compile(pattern, re.IGNORECASE), sign)
    for pattern, sign in (
        # What leads up to an answer.
        (
            r"^(?:(?:so|thus|therefore|hence|then|finally|clearly|exactly|\\therefore|\\implies"
            rf"|in conclusion|\\Rightarrow|{_SAID}|there (?:is|are)"
            r")(?![A-Za-z])[,:]?\s*)+(?=\S)",
            "",
        ),
        (
            r"^\W{0,3}(?:(?:the |my |our )?(?:final |correct )?(?:answer|ans|solution|result)"
            r"\s*(?:[:.=]|->|\\to\b|\\rightarrow\b|→))\s*(?=[^\s:.=])",
            "",
        ),
        (r"^it's\b", "it is"),
        (r"\b(is|are)\s*:", r"\1 "),
        (
            r"\b(?:is|are) (?:exactly )?equal to\b|\bis exactly\b"
            r"|\b(?:must|has to|should|will|would) (?:be|equal)\b"
            r"|\b(?:comes?|adds? up|amounts|works? out|turns out|evaluates|simplifies|reduces)"
            r" (?:out )?to(?: be)?\b",
            " = ",
        ),
        (r"\b(?:is|are) (?:approximately|about|roughly|nearly)(?: equal to)?\b", r" \\approx "),
        # A value and its rounding: "3√5 (≈ 6.71)", "3√5, or about 6.71".
        (rf"\(\s*(?:or\s+)?{_APPROXIMATELY}\s*([^()]+)\)$", r" \\approx \1"),
        (rf"\s*(?:,\s*or|,|\bor)\s*{_APPROXIMATELY}", r" \\approx "),
        (r"\(\s*(?:approximately|approx\.?|exact(?:ly)?|rounded)\s*\)$", ""),
        (r"^([a-z]{3,}(?:[ -][a-z]{3,}){0,4}) \(\s*(-?\d(?:[\d.]|,\d{3}\b)*)\s*\)$", r"\1 = \2"),
        # Times of day.
        (r"(?<=\d)\s*([ap])\.?\s?m\b\.?", r" \1m"),
        (r"\s*o ?' ?clock\b", " oclock"),
        (r"(?<=\d) (?:in the )?(?:morning)$", " am"),
        (r"(?<=\d) (?:in the )?(?:afternoon|evening)$", " pm"),
        # Comparisons.
        (r"\b(?:is )?(?:greater|more|larger) than or equal to\b|\bis at least\b", r" \\ge "),
        (r"\b(?:is )?(?:less|smaller|fewer) than or equal to\b|\bis at most\b", r" \\le "),
        (r"(?<=\S )is (?:greater|more|larger|longer) than\b", ">"),
        (r"(?<=\S )is (?:less|smaller|fewer|shorter) than\b", "<"),
        (r"(?<=\S )is not equal to\b", r" \\ne "),
        # What figures are to each other.
        (rf"(?<=\S )(?:{_BE} )?parallel to\b", r" \\parallel "),
        (rf"(?<=\S )(?:{_BE} )?perpendicular to\b", r" \\perp "),
        (rf"(?<=\S )(?:{_BE} )?congruent (?:to|with)\b", r" \\cong "),
        (rf"(?<=\S )(?:{_BE} )?similar to\b", r" \\sim "),
        (rf"^(?:lines? |segments? )?({_NAME}) and ({_NAME}) are parallel$", r"\1 \\parallel \2"),
        (rf"^(?:lines? |segments? )?({_NAME}) and ({_NAME}) are perpendicular$", r"\1 \\perp \2"),
        (r"\b(distance|angle) between ([A-Z]) and ([A-Z])\b", r"\1 \2\3"),
        (r"(?<=[a-z]{2})!+$", ""),
        # Operations.
        (r"\b(?:the )?cube root of\b", " cbrt "),
        (r"\b(?:the )?(?:square )?root of\b", " sqrt "),
        (r"(?<=\d) root (?=\d)", " sqrt "),
        (r"^(?:negative|minus) (?=\S)", "-"),
        (r"(?<=[\d)}])\s+minus\s+(?=\S)", " - "),
        (r"(?<=[\d)}])\s+plus\s+(?=\S)", " + "),
        (r"(?<=[\d)}])\s+times\s+(?=\S)", " * "),
        (r"(?<=\d) (?:divided by|over|out of) (?=\d)", " / "),
        (r"\bper cent\b|(?<=\d )pct\.?(?![a-z])|(?<=\d)pct\.?(?![a-z])", "percent"),
        (r"(?<=[a-z.]) (?:long|tall|wide|high|deep)$|(?<=\d years) old$", ""),
        (r"(?<=\S )has (?:a |the )?(?:length|measure)(?: of)? (?=[\d\\])", "= "),
        # 12 feet of rope.
        (r"^([^a-z]*\d *(?:[a-z]+ ){0,2}[a-z]{2,}) of [a-z]{3,}(?: [a-z]+)?$", r"\1"),
        (r"(?<=[\da-z°)}]) (?:in total|altogether|in all|overall|each|apiece)$", ""),
        (r"\bdegrees? (?:celsius|centigrade)\b", "°C"),
        (r"\bdegrees? fahrenheit\b", "°F"),
    )
]
_CONCLUSION = re.compile(
    r"(?P<premise>.{1,300}?)(?:\s*[,;.]\s*|\s+)(?:and )?"
    r"(?:so|thus|hence|therefore|which (?:means|gives|is)"
    r"|\\therefore|\\implies|\\Rightarrow|=>|→)(?![A-Za-z])\s*,?\s*(?P<conclusion>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_CLAUSE = re.compile(
    r"(?P<said>yes|no|true|false)\s*[,.;:]?\s+(?P<clause>(?:because|since|as|it|they|that|this"
    r"|there|these|those|the|both|all|we|you|he|she|\\(?:triangle|angle|overline|square|widehat)"
    r"|(?-i:[A-Z]{2,4}))\b.*)",
    re.IGNORECASE | re.DOTALL,
)


def conclusion(text: str) -> tuple[str, str] | None:
    """`AB = 5 cm` and `5` of "AB = 5 cm, so 5": a premise and what follows; None without one."""
    found = _CONCLUSION.fullmatch(text)
    return None if found is None else (found["premise"], found["conclusion"])


def said_and_clause(text: str) -> tuple[str, str] | None:
    """`yes` and `they are parallel` of "Yes, they are parallel"; None for anything else.

    The clause may deny what a `no` denies; it may not say the other word, or take back a `yes`.
    """
    found = _CLAUSE.fullmatch(text)
    if found is None:
        return None
    said, words = found["said"].lower(), {word.lower() for word in _WORDS.findall(found["clause"])}
    denied = said in ("no", "false")
    taken_back = words & TAKES_BACK - (_DENIALS if denied else frozenset())
    other = words & ({"yes", "true"} if denied else {"no", "false"})
    return None if taken_back or other else (said, found["clause"])


_DENIALS = frozenset(("not", "isn", "aren", "doesn", "don", "can", "cannot", "never", "none"))
# "= 12" and ": 12" go on from a question.
_EDGES = re.compile(r"^\s*[=:]\s*|[\s.]+$")
_LETTERS = re.compile(r"[A-Za-z]{2}|[ap]\.\s?m")


def plain_words(text: str) -> str:
    """`text` with turns of phrase as the signs they stand for; the rest is left to the reading."""
    text = _EDGES.sub("", text)
    if _LETTERS.search(text):
        for pattern, sign in _REWRITTEN:
            text = pattern.sub(sign, text)
    return text.strip()
