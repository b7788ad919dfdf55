"""What real ports do otherwise: one list, planting into a private copy of the library, and the diagnosis."""
