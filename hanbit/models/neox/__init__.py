"""The shape of GPT-NeoX, GPT-J and Phi."""
