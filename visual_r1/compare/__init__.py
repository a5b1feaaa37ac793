"""`visual-r1 compare`: any evaluations of the same problems, across runs, as pairs."""
