"""How good a network is: one file, one way to say it; metrics and the report."""
