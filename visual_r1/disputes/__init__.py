"""Labels in dispute: where the policy agrees against the gold answer, and what people decided.

`find.find_disputes` finds them, `command` is `visual-r1 disputes`; decisions are in
`runs.decisions`. Nothing is imported here: finding takes the SDK, and showing does without it.
"""
