"""Several processes: which of them this is, what they tell one another, and signals."""
