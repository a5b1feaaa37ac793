"""Evaluation: a policy on held-out problems, to graded predictions and a report with intervals."""
