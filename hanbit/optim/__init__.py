"""Floor 3: update rules and schedules over plain tensors."""
