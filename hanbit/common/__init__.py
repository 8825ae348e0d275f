"""Floor 0: what every other room needs and nothing else. No torch here, and no import of any other room."""
