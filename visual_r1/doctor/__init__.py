"""`visual-r1 doctor`: what will go wrong with a run, before anything is paid for."""
