"""What is done with a trained network: export, runtimes, predictions."""
