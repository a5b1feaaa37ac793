"""Evaluation: a policy to a report with intervals, two reports to a verdict, a run to a page."""
