"""Floor 1: recipes. `model.py` and `recipe.py` say what a recipe may contain, `load.py` reads YAML into it,
`resolve.py` fills every `auto` and says why. No torch here."""
