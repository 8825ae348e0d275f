"""Floor 4: run state and model folders on disk: committed whole, resharded on load."""
