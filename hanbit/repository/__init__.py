"""Floor 3: Triton's model repository on disk, as deploy writes it and the server reads it. No torch here."""
