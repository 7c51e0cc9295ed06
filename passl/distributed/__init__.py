"""Training in several processes: rank and size, collectives, heartbeats and signals."""
