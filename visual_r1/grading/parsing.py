"""Tokens to an expression: a recursive-descent parser with a cap on depth.

    sum      = ["+" | "-"] product {("+" | "-") product}
    product  = power {["*" | "/"] ["-"] power}    (no operator: before a letter, root, bracket)
    power    = postfix ["^" exponent]
    postfix  = atom {"°" | "!"}
    atom     = number | mixed number | variable | "\\pi" | bracketed sum | "|" sum "|"
             | "\\sqrt" ["[" n "]"] argument | "\\frac" argument argument | function argument

A number may never follow something without a sign between (`x2`, `5 6`): what such an answer means
is not clear, so it is not read at all.
"""

from collections.abc import Sequence
from fractions import Fraction

from visual_r1.grading.expressions import (
    MAX_EXPONENT,
    Binary,
    Call,
    Constant,
    Degree,
    E,
    Expression,
    Literal,
    Negative,
    Root,
    Variable,
)
from visual_r1.grading.spelling import Token, Unreadable

MAX_DEPTH = 24

_BETWEEN = {"over": "/", "choose": "choose"}
_CLOSING = {"(": ")", "{": "}", "[": "]"}
FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "ln": "ln", "log": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "asin": "asin", "acos": "acos", "atan": "atan", "abs": "abs", "exp": "exp",
}  # fmt: skip
_INVERSE_OF = {"sin": "asin", "cos": "acos", "tan": "atan"}
_ROOTS = {"sqrt": 2, "surd": 2, "cbrt": 3, "fourthroot": 4}
_MEASURED = frozenset(("command", mark) for mark in ("angle", "widehat", "overline"))
GREEK_VARIABLES = frozenset(
    ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
     "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
     "Gamma", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "Pi", "ell")
)  # fmt: skip


def parse(tokens: Sequence[Token]) -> Expression:
    """The expression that all of `tokens` make up.

    Raises:
        Unreadable: outside the grammar, or deeper than `MAX_DEPTH`.
    """
    parser = _Parser(tokens)
    expression = parser.sum()
    if parser.peek() is not None:
        raise Unreadable(f"{parser.rest()!r} after the value")
    return expression


class _Parser:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def symbol(self, ahead: int = 0) -> str:
        token = self.peek(ahead)
        return token.text if token is not None and token.kind == "symbol" else ""

    def rest(self) -> str:
        return " ".join(token.text for token in self.tokens[self.at :])[:40]

    def take(self, text: str) -> None:
        if self.symbol() != text:
            raise Unreadable(f"{text!r} is missing before {self.rest()!r}")
        self.at += 1

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        sign = self.symbol()
        if sign in ("+", "-"):
            self.at += 1
        value = self.product()
        if sign == "-":
            value = Negative(value)
        while (operator := self.symbol()) in ("+", "-"):
            self.at += 1
            value = Binary(operator, value, self.product())
        self.depth -= 1
        return value

    def product(self) -> Expression:
        value = self.power()
        while True:
            operator = self.symbol()
            if operator in ("*", "/"):
                self.at += 1
                value = Binary(operator, value, self.signed_power())
            elif self.starts_factor() or self.follows_power(value):
                value = Binary("*", value, self.power())
            else:
                return value

    def starts_factor(self) -> bool:
        """Whether a factor may follow here without a sign."""
        token = self.peek()
        if (
            token is None
            or token.kind == "number"
            or (token.kind == "command" and token.text in _BETWEEN)
        ):
            return False
        if token.kind == "symbol":
            return token.text in ("(", "{") or (token.text == "|" and not self.bars)
        return True

    def follows_power(self, value: Expression) -> bool:
        """`2^{12} 13`, `2^3 3^2`: a number may follow a power of a number, behind the braces of its
        exponent, or with an exponent of its own."""
        token = self.peek()
        if token is None or token.kind != "number":
            return False
        if self.symbol(-1) != "}" and not (token.spaced and self.symbol(1) == "^"):
            return False
        last = value.right if isinstance(value, Binary) and value.operator == "*" else value
        if not (isinstance(last, Binary) and last.operator == "^"):
            return False
        return isinstance(last.left, Literal)

    def signed_power(self) -> Expression:
        if self.symbol() != "-":
            return self.power()
        self.at += 1
        return Negative(self.power())

    def power(self) -> Expression:
        value = self.postfix()
        if self.symbol() != "^":
            return value
        self.at += 1
        return Binary("^", value, self.exponent())

    def exponent(self) -> Expression:
        if self.symbol() == "-":
            self.at += 1
            return Negative(self.exponent())
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        value = self.postfix()
        if self.symbol() == "^":
            self.at += 1
            value = Binary("^", value, self.exponent())
        self.depth -= 1
        return value

    def postfix(self) -> Expression:
        value = self.atom()
        while self.symbol() in ("°", "!"):
            value = Degree(value) if self.symbol() == "°" else Call("factorial", value)
            self.at += 1
        return value

    def atom(self) -> Expression:
        token = self.peek()
        if token is None:
            raise Unreadable("a value is missing at the end")
        self.at += 1
        if token.kind == "number":
            return self.mixed(literal(token.text))
        if token.kind == "word":
            return self.word(token.text)
        if token.kind == "command":
            return self.command(token.text)
        if token.text in ("(", "{", "["):
            inside = self.sum()
            over = self.peek()
            if over is not None and over.kind == "command" and over.text in _BETWEEN:
                self.at += 1  # {4 \over 3}
                inside = Binary(_BETWEEN[over.text], inside, self.sum())
            self.take(_CLOSING[token.text])
            return inside
        if token.text == "|":
            self.bars += 1
            inside = self.sum()
            self.take("|")
            self.bars -= 1
            return Call("abs", inside)
        raise Unreadable(f"{token.text!r} where a value should be")

    def mixed(self, whole: Literal) -> Expression:
        """`7 1/2` and `7\\frac{1}{2}`: whole number and proper fraction; else `whole` alone."""
        if whole.decimals is not None or whole.value.denominator != 1:
            return whole
        parts = [self.peek(i) for i in range(7)]
        kinds = "".join("n" if t and t.kind == "number" else t.text[0] if t else " " for t in parts)
        if kinds.startswith("n/n") and parts[0] and parts[0].spaced and parts[2]:
            top, low, length = parts[0].text, parts[2].text, 3
        elif kinds.startswith("f{n}{n}") and parts[0] and parts[0].text == "frac":
            assert parts[2] and parts[5]
            top, low, length = parts[2].text, parts[5].text, 7
        elif kinds.startswith("fnn") and parts[0] and parts[0].text == "frac":
            assert parts[1] and parts[2]
            top, low, length = parts[1].text, parts[2].text, 3
        else:
            return whole
        if not (top.isdigit() and low.isdigit() and 0 < int(top) < int(low)):
            return whole
        self.at += length
        return Literal(whole.value + Fraction(int(top), int(low)))

    def word(self, text: str) -> Expression:
        following = self.peek()
        if text == "m" and following is not None and following[:2] in _MEASURED:
            return self.atom()
        if text.lower() == "pi":
            return Constant()
        if text.lower() in ("sqrt", "cbrt"):
            return Root(self.argument(), 2 if text.lower() == "sqrt" else 3)
        if text.lower() in FUNCTIONS:
            return self.function(FUNCTIONS[text.lower()])
        if len(text) == 1:
            return self.variable(text)
        if len(text) > 3 or (len(text) == 3 and not text.islower()):
            raise Unreadable(f"the word {text!r}")
        if self.symbol() == "(":
            raise Unreadable(f"a call of {text!r}")
        value: Expression = Variable(text[0])
        for letter in text[1:-1]:
            value = Binary("*", value, Variable(letter))
        last = self.variable(text[-1])
        if self.symbol() == "^":  # ab^2 is a times the square of b
            self.at += 1
            last = Binary("^", last, self.exponent())
        return Binary("*", value, last)

    def variable(self, name: str) -> Expression:
        if self.symbol() != "_":
            return Variable(name)
        self.at += 1
        braced = self.symbol() == "{"
        if braced:
            self.at += 1
        index = self.peek()
        if index is None or index.kind == "symbol" or len(index.text) > 3:
            raise Unreadable("a subscript that is neither a number nor a letter")
        self.at += 1
        if braced:
            self.take("}")
        return Variable(f"{name}_{index.text}")

    def command(self, name: str) -> Expression:
        if name == "pi":
            return Constant()
        if name in ("frac", "binom"):
            top = self.argument()
            return Binary("/" if name == "frac" else "choose", top, self.argument())
        if name in _ROOTS:
            return self.root(_ROOTS[name])
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if name in GREEK_VARIABLES:
            return self.variable("\\" + name)
        if ("command", name) in _MEASURED:
            return self.figure(name)
        raise Unreadable(f"the command \\{name}")

    def figure(self, mark: str) -> Expression:
        """`\\angle ABC`, `\\overline{AB}`: the measure of a figure, which its name stands for."""
        braced = self.symbol() == "{"
        self.at += braced
        token = self.peek()
        if token is None or token.kind == "command" or not token.text.isalnum():
            raise Unreadable(f"\\{mark} without a name")
        if token.kind == "word" and len(token.text) > 1 and not token.text.isupper():
            raise Unreadable(f"the name {token.text!r}")
        self.at += 1
        if braced:
            self.take("}")
        return Variable(f"{mark} {min(token.text, token.text[::-1])}")

    def root(self, index: int) -> Expression:
        if self.symbol() == "[":
            token = self.peek(1)
            if token is None or not token.text.isdigit() or not 2 <= int(token.text[:4]) <= 20:
                raise Unreadable("a root whose index is not a number from 2 to 20")
            index = int(token.text)
            self.at += 2
            self.take("]")
        return Root(self.argument(), index)

    def argument(self) -> Expression:
        """One braced or bracketed group, or one atom."""
        if self.symbol() in ("-", "+"):
            raise Unreadable("a sign where an argument should be")
        return self.deeper()

    def deeper(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        token = self.peek()
        if token is not None and token.kind == "number":
            self.at += 1  # no mixed number: \frac12 has two arguments
            value: Expression = literal(token.text)
        else:
            value = self.atom()
        self.depth -= 1
        return value

    def function(self, name: str) -> Expression:
        exponent: Expression | None = None
        base: Expression | None = None
        if name == "log" and self.symbol() == "_":
            self.at += 1
            base = self.deeper()
        if self.symbol() == "^":
            self.at += 1
            exponent = self.exponent()
            if exponent == Negative(Literal(Fraction(1))) and name in _INVERSE_OF:
                name, exponent = _INVERSE_OF[name], None
        inside = self.function_argument()
        call = Binary("^", Constant(E), inside) if name == "exp" else Call(name, inside)
        if base is not None:
            call = Binary("/", Call("ln", inside), Call("ln", base))
        return call if exponent is None else Binary("^", call, exponent)

    def function_argument(self) -> Expression:
        """`\\sin 30^\\circ`, `\\sin(x+1)`, and, as everywhere in print, `\\sin 2\\theta`."""
        bare = (token := self.peek()) is not None and token.kind == "number"
        inside = self.deeper()
        while bare and (token := self.peek()) is not None and _is_letter(token):
            inside = Binary("*", inside, self.atom())
        while self.symbol() == "°":
            self.at += 1
            inside = Degree(inside)
        return inside


def _is_letter(token: Token) -> bool:
    if token.kind == "command":
        return token.text in GREEK_VARIABLES or token.text == "pi"
    return token.kind == "word" and (len(token.text) == 1 or token.text.lower() == "pi")


def literal(text: str) -> Literal:
    """A number as written: `12`, `12.50`, `.5`, `1.2e3`.

    Raises:
        Unreadable: an exponent beyond `MAX_EXPONENT`.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, digits = mantissa.partition(".")
    value = Fraction(int((whole or "0") + digits), 10 ** len(digits))
    if exponent:
        if len(exponent) > 4 or abs(int(exponent)) > MAX_EXPONENT:
            raise Unreadable(f"an exponent beyond {MAX_EXPONENT}")
        return Literal(value * Fraction(10) ** int(exponent))
    return Literal(value, len(digits) if point and digits else None)
