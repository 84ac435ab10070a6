"""The training loop: steps, optimizer, schedule, processes."""
