"""Responses as models write them, written by hand, each with what is right to say of it.

They were written before the rule was tried on them; the numbers of mistakes that it then made stand
in docs/evaluation_quickstart.md.
"""

from dataclasses import dataclass

from visual_r1.data.problem import Problem
from visual_r1.perception import Kind


@dataclass(frozen=True)
class Written:
    """A response to the problem of a family with these values."""

    family: str
    values: dict[str, int]
    question: str
    answer: str
    kind: Kind
    response: str

    @property
    def problem(self) -> Problem:
        meta = {"family": self.family, "values": self.values}
        return Problem("made", (), f"<image>{self.question}", self.answer, meta=meta)


_TRIANGLE = ("triangle", {"A": 74, "B": 44}, "Find angle C.", "62")
_SEGMENT = ("segment", {"GH": 25, "FH": 62}, "How long is segment FG?", "37")
_RECTANGLE = (
    "rectangle",
    {"width": 17, "height": 57},
    "Find the perimeter of the rectangle.",
    "148",
)
_CHORDS = ("chords", {"top": 69, "bottom": 65}, "What is angle x of the two chords?", "67")
_LINE = ("straight_line", {"left": 68, "right": 97}, "Find angle x on the straight line.", "15")
_FOUR = (
    "quadrilateral", {"B": 72, "A": 94, "D": 77},
    "What is angle C of the quadrilateral?", "117",
)  # fmt: skip
_RIGHT = ("right_angle", {"middle": 58, "bottom": 16}, "Find angle x in the right angle.", "16")
_OUTER = ("exterior_angle", {"A": 18, "D": 22}, "What is exterior angle x of the triangle?", "40")
_BEND = ("parallel_lines", {"top": 62, "bottom": 58}, "What is angle x at the bend?", "120")

WRITTEN = [
    Written(*_TRIANGLE, "right",
        "<think>Got it, let's see. We have triangle ABC, and we need angle C. In the image, vertex "
        "A is at the bottom left with an angle of 74 degrees, and vertex B is at the bottom right "
        "with an angle of 44 degrees. The sum of angles in a triangle is 180 degrees. So angle C = "
        "180 - (74 + 44) = 180 - 118 = 62. Let me verify: 74 + 44 + 62 = 180. Yes, that's correct."
        "</think>\n\n<answer>62</answer>"),
    Written(*_TRIANGLE, "misread",
        "<think>The triangle has vertices A, B and C. The angle at A is marked as 71°, and the "
        "angle at B is marked as 44°. By the angle sum property, ∠A + ∠B + ∠C = 180°. Hence "
        "71° + 44° + ∠C = 180°, which gives ∠C = 180° − 115° = 65°.</think><answer>65</answer>"),
    Written(*_TRIANGLE, "misreasoned",
        "To find angle C, we use the fact that the angles sum to 180°.\n\n**Given:**\n- $\\angle A "
        "= 74^\\circ$\n- $\\angle B = 44^\\circ$\n\n**Solution:**\n$$\\angle C = 180^\\circ - "
        "74^\\circ - 44^\\circ = 72^\\circ$$\n\nFinal answer: $\\boxed{72}$"),
    Written(*_TRIANGLE, "misreasoned",
        "<think>angle A is 74 and angle B is 44. This is an isosceles triangle, so angle C equals "
        "angle A.</think><answer>74</answer>"),
    Written(*_TRIANGLE, "both",
        "<think>I see 14 near A and 44 near B. The sum is 58 degrees. A triangle has 180, so C is "
        "180 - 58 = 132.</think><answer>132</answer>"),
    Written(*_TRIANGLE, "misread",
        "<think>I see 14 near A and 44 near B. The sum is 58 degrees. A triangle has 180, so C is "
        "180 - 58 = 122.</think><answer>122</answer>"),
    Written(*_TRIANGLE, "untold",
        "<think>The triangle looks equilateral, so all of its angles are equal.</think>"
        "<answer>60</answer>"),
    Written(*_TRIANGLE, "form",
        "<think>The angle at A is 74° and B is 44°. So the answer should be 62, but let me check"
        " once more whether"),
    Written(*_TRIANGLE, "form",
        "<think>The image is too blurry to read the labels.</think><answer>cannot be determined"
        "</answer>"),
    Written(*_TRIANGLE, "lucky",
        "<think>Angle A = 47° (bottom left). Angle B = 71°. 47 + 71 = 118, 180 - 118 = 62."
        "</think><answer>62</answer>"),
    Written(*_TRIANGLE, "right",
        "1. **Identify the angles.** The angle labeled at vertex B measures $44^\\circ$; the one "
        "at vertex A measures $74^\\circ$.\n2. **Set up the equation.** Let $x$ be the measure of "
        "$\\angle C$. Then $x + 44 + 74 = 180$.\n3. **Solve.** $x + 118 = 180 \\Rightarrow x = 62$."
        "\n\n<answer>62°</answer>"),
    Written(*_SEGMENT, "right",
        "<think>Points F, G, H lie on a line. The length from G to H is 25 and the entire length "
        "from F to H is 62 (the bracket below). So FG = FH - GH = 62 - 25 = 37.</think>"
        "<answer>37</answer>"),
    Written(*_SEGMENT, "misreasoned",
        "<think>GH is 25. FH is 62. FG = FH + GH = 87.</think><answer>87</answer>"),
    Written(*_SEGMENT, "misread",
        "<think>The total length FH = 82, while GH = 25. Therefore FG = 82 - 25 = 57.</think>"
        "<answer>57</answer>"),
    Written(*_RECTANGLE, "right",
        "<think>The rectangle has a base of 17 and a height of 57. The perimeter formula is P = "
        "2l + 2w = 2(17) + 2(57) = 34 + 114 = 148.</think><answer>148</answer>"),
    Written(*_RECTANGLE, "misreasoned",
        "<think>The width is 17 and the height is 57. Area = 17 × 57 = 969.</think>"
        "<answer>969</answer>"),
    Written(*_RECTANGLE, "misread",
        "<think>The sides of the rectangle are 11 and 57 units. Perimeter: 11 + 57 + 11 + 57 = 136."
        "</think><answer>136</answer>"),
    Written(*_CHORDS, "right",
        "<think>When two chords intersect inside a circle, the angle is half the sum of the "
        "intercepted arcs. The arcs are 69° and 65°, so x = (1/2)(69 + 65) = (1/2)(134) = 67."
        "</think><answer>67</answer>"),
    Written(*_CHORDS, "misreasoned",
        "<think>The intercepted arcs measure 69° (top) and 65° (bottom). The angle between chords "
        "is half of the difference of the arcs: x = (69 - 65)/2 = 2.</think><answer>2</answer>"),
    Written(*_CHORDS, "misread",
        "<think>From the diagram: arc on top = 89°, arc on the bottom = 65°. $x = "
        "\\frac{89 + 65}{2} = \\frac{154}{2} = 77$.</think><answer>77</answer>"),
    Written(*_LINE, "right",
        "<think>A straight line makes 180°. There's a 68° angle on the left and a 97° angle on the "
        "right; x is in the middle. 68 + 97 = 165; 180 - 165 = 15.</think><answer>15</answer>"),
    Written(*_LINE, "misreasoned",
        "<think>The left angle is 68°, the right angle is 97°. All three add up to 360°, thus x = "
        "360° - 165° = 195°.</think><answer>195</answer>"),
    Written(*_LINE, "both",
        "<think>left: 68°, right: 91°. The total of these is 159°. So x = 180° - 159° = 31°."
        "</think><answer>31</answer>"),
    Written(*_FOUR, "right",
        "<think>The interior angles of quadrilateral ABCD sum to 360°. Angles A, B, and D measure "
        "94°, 72°, and 77°, respectively. Their sum is 243°. Thus ∠C = 360° − 243° = 117°.</think>"
        "<answer>117</answer>"),
    Written(*_FOUR, "misread",
        "<think>m∠DAB = 94°, m∠ABC = 12°, m∠CDA = 77°. 94 + 12 + 77 = 183. 360 - 183 = 177.</think>"
        "<answer>177</answer>"),
    Written(*_FOUR, "misreasoned",
        "<think>∠A=94°, ∠B=72°, ∠D=77°. Opposite angles of a cyclic quadrilateral are "
        "supplementary, so ∠C = 180° − 94° = 86°.</think><answer>86</answer>"),
    Written(*_FOUR, "untold",
        "<think>angle A is 94°, angle D is 77°. ABCD looks like a kite, so angle C equals angle A."
        "</think><answer>94</answer>"),
    Written(*_RIGHT, "right",
        "<think>The right angle is divided into three parts: x, 58° and 16°. Their sum must be 90°."
        " x = 90° − 58° − 16° = 16°.</think><answer>16</answer>"),
    Written(*_RIGHT, "misreasoned",
        "<think>Since it's a right angle, x + 58 + 16 = 90. x + 74 = 90. x = 26.</think>"
        "<answer>26</answer>"),
    Written(*_RIGHT, "misread",
        "<think>Since it's a right angle, x + 53 + 16 = 90. x + 69 = 90. x = 21.</think>"
        "<answer>21</answer>"),
    Written(*_OUTER, "right",
        "<think>By the exterior angle theorem, the exterior angle equals the sum of the two remote "
        "interior angles. Those are 18 degrees at A and 22 degrees at D. 18 + 22 = 40.</think>"
        "<answer>40</answer>"),
    Written(*_OUTER, "misreasoned",
        "<think>∠A = 18°, ∠D = 22°, so the third angle is 180° - 40° = 140°.</think>"
        "<answer>140</answer>"),
    Written(*_OUTER, "misread",
        "<think>The two remote interior angles: ∠A = 18° and ∠D = 27°. The exterior angle x is "
        "their sum, 45°.</think><answer>45</answer>"),
    Written(*_BEND, "right",
        "<think>Draw an auxiliary line through the bend parallel to both lines. It splits x into "
        "two parts, equal to the alternate angles: 62° (upper) and 58° (lower). So x = 62° + 58° = "
        "120°.</think><answer>120</answer>"),
    Written(*_BEND, "misreasoned",
        "<think>The angles at the top and the bottom are 62° and 58°. x = 180° - 62° + 58° - 56° = "
        "120°... no, x = 360° - 120° = 240°.</think><answer>240</answer>"),
    Written(*_BEND, "misread",
        "<scan>Two parallel lines with a bend between them. Top angle: 62 degrees. Bottom angle: "
        "53 degrees. The angle at the bend is x.</scan><think>x = 62 + 53 = 115.</think>"
        "<answer>115</answer>"),
]  # fmt: skip
