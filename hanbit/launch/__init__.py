"""Floor 2: start the same command as many processes. No torch here: torchrun is called as a program."""
