"""Floor 2: text to token ids and back, on Hugging Face tokenizers. No torch here."""
