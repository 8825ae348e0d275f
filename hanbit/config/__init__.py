"""Floor 1: recipes. `model.py` and `recipe.py` say what a recipe may contain, `load.py` lays its layers on one another
and checks them, `resolve.py` fills every `auto` and says why, `write.py` makes a file of it again. No torch here."""
