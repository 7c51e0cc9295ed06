"""From samples to batches: their order, the workers, and how batches reach the main process."""
