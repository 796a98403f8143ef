"""The parts of ``fuzz.py``: seeds, mutations, the worker processes, and how an end is judged."""
