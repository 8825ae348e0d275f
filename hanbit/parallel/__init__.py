"""Floor 3: one model over many processes. Only this room translates the plan's words into torch.distributed."""
