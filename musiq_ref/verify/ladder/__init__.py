"""The ladder: every stage of one image's way to its score and back, its tolerance, and the fixtures that hold it."""
