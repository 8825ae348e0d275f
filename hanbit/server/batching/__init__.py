"""Between a served model and the instances that execute it: who waits, who goes together, when. `scheduler.py` is the
whole; `queue.py` and `pick.py` decide, with no event loop and no clock of their own."""
